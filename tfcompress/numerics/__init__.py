"""Algorithms on arrays, NumPy and SciPy alone."""
