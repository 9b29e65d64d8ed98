"""What every compressed layer shares."""
