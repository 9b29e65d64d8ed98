"""The command `tfcompress`, which answers `--help` without Keras and TensorFlow.

`import tfcompress` registers the layers with Keras, which takes seconds. So the file of the
command line is loaded without the package around it; a command imports the package when it runs.
"""

import os
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path


def main() -> None:
    """Runs the command line with the arguments of the process."""
    package = find_spec("tfcompress")  # finds the folder, imports nothing
    path = Path(package.submodule_search_locations[0], "cli", "app.py")
    spec = spec_from_file_location("tfcompress_cli_app", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.app(prog_name="tfcompress")


def import_quietly() -> None:
    """Imports the package without what TensorFlow writes to the terminal when it starts.

    Its libraries write from C++ to file descriptor 2 while they are loaded, those of TensorFlow
    2.21 whatever `TF_CPP_MIN_LOG_LEVEL` says; errors are Python exceptions and come through.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    terminal = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        import tensorflow  # noqa: F401

        import tfcompress  # noqa: F401
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


if __name__ == "__main__":
    main()
