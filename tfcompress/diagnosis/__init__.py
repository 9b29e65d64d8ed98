"""Finds which layer a compressed model lost its accuracy in, why, and what brings it back."""
