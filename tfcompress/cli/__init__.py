"""The command line."""

from tfcompress.cli.app import app as app
