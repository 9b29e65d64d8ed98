"""The command `tfcompress`, which answers `--help` without Keras and TensorFlow.

`import tfcompress` registers the layers with Keras, which takes seconds. So the file of the
command line is loaded without the package around it; a command imports the package when it runs.
"""

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


if __name__ == "__main__":
    main()
