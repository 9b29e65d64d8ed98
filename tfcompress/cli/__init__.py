"""What the commands of `tfcompress_cli` run."""

from tfcompress_cli import app as app
