"""`python -m tfcompress`."""

from tfcompress_cli import main

main()
