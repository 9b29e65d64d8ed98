"""`python -m tfcompress`."""

from .cli import app

app()
