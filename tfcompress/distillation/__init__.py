"""Training a student on a teacher's outputs and hidden layers."""
