"""The command as it is installed: `tfcompress_cli.main` in a process of its own."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

PROGRAM = """
import sys, tfcompress_cli
try:
    tfcompress_cli.main()
finally:
    print("LOADED", sorted({"keras", "tensorflow", "tfcompress"} & set(sys.modules)))
"""


def run(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["--help"], "Usage: tfcompress [OPTIONS] COMMAND"),
        (["--version"], version("tfcompress")),
        (["compress", "--help"], "Usage: tfcompress compress [OPTIONS]"),
    ],
)
def test_help_and_version_import_neither_keras_nor_tensorflow(arguments, told):
    done = run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert told in done.stdout
    assert done.stdout.endswith("LOADED []\n")


def test_an_unknown_command_is_refused_at_once():
    done = run("compres")
    assert done.returncode == 2
    assert "No such command 'compres'" in done.stderr
    assert done.stdout == "LOADED []\n"


def test_a_command_that_works_writes_no_noise_of_tensorflow(tmp_path):
    missing = tmp_path / "missing.keras"
    done = run("report", str(missing))
    assert done.returncode == 1
    assert done.stderr == f"Error: There is no such file: {missing}\n"
    assert done.stdout == "LOADED ['keras', 'tensorflow', 'tfcompress']\n"


def test_python_m_runs_the_same_commands():
    done = subprocess.run(
        [sys.executable, "-m", "tfcompress", "--version"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{version('tfcompress')}\n")
