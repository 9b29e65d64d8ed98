"""Data, arrays, checks of arguments, errors, progress."""
