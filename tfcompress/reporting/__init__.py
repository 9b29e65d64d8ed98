"""Results: what is stored, file bytes, times."""
