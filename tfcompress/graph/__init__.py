"""Keras models as graphs; all private Keras lies here."""
