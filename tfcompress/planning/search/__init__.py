"""The search for the values of `compress`."""
