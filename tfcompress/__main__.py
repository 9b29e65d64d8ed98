"""`python -m tfcompress`."""

from tfcompress.cli.app import app

app()
