"""What a layer sees and what the loss feels."""
