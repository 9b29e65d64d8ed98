"""Reports what a model stores and the bytes and times of its files."""
