"""Choosing a form for each layer under a budget."""
