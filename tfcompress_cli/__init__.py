"""The command `tfcompress`.

A package beside `tfcompress`: `import tfcompress` registers the layers with Keras, which takes
seconds: nothing of it is imported above the functions here, so that `--help` answers at once.
"""

from tfcompress_cli import methods
from tfcompress_cli.app import app

__all__ = ["app", "main", "methods"]


def main() -> None:
    """Runs the command line with the arguments of the process."""
    app(prog_name="tfcompress")
