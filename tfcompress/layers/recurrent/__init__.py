"""Recurrent cells whose products are layers."""
