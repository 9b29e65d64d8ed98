"""Runs .tflite files in a child process, which they may crash, fill or never leave."""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from tfcompress.tflite.reader import read, stored_shape
from tfcompress.utils.writers import temporary_folder

PROGRAM = os.path.join(os.path.dirname(__file__), "child.py")
STEP_SECONDS = 60.0  # for loading a file, or for one run of it
LEAST_SECONDS = 600.0  # for everything, even where the caller asks for less


def time_files(
    blobs: Mapping[str, bytes],
    threads: int,
    free: tuple[int, int],
    rounds: int,
    warmup: int,
    seconds: float,
) -> tuple[list[list[float]], list[list]]:
    """Times files in turn in one child process; see `tfcompress.bench`.

    Args:
        blobs, threads, rounds, warmup, seconds: as there.
        free: the sizes of the first two axes of the inputs, where a file leaves them free.

    Returns:
        For each file its seconds per run in each round, and the inputs and outputs of each group
        of operators that the delegate runs.

    Raises:
        ValueError: a file ends the child, takes more than a minute for a run, or LiteRT does not
            load it.
    """
    task = {"what": "bench", "threads": threads, "rounds": rounds, "warmup": warmup}
    made = _run(blobs, task | {"seconds": seconds}, free, max(LEAST_SECONDS, 60 * seconds))
    return made["times"], made["nodes"]


def peak_memory(blob: bytes, threads: int = 1, free: tuple[int, int] = (1, 1)) -> int | None:
    """Bytes by which loading and running a file raises the peak memory of a fresh process.

    None where the system has no /proc to read it from, or the file does not run.
    """
    try:
        return _run({"": blob}, {"what": "peak", "threads": threads}, free, STEP_SECONDS)["bytes"]
    except ValueError:
        return None


def check_runs(blob: bytes) -> None:
    """Loads a file and runs it once on random inputs.

    Raises:
        ValueError: it ends the child, takes more than a minute, or LiteRT does not load it.
    """
    _run({"of this model": blob}, {"what": "peak", "threads": 1}, (1, 1), STEP_SECONDS)


def _run(blobs, task, free, limit) -> dict[str, Any]:
    with temporary_folder() as folder:
        task["files"] = [
            _file(os.path.join(folder, f"{number}.tflite"), blob, free)
            for number, blob in enumerate(blobs.values())
        ]
        with open(os.path.join(folder, "task.json"), "w", encoding="utf-8") as file:
            json.dump(task, file)
        # -P: files beside the program are no modules, such as its neighbour html.py
        command = [sys.executable, "-P", PROGRAM, folder]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as child:
            number, problem = _watch(child, limit)
        result = os.path.join(folder, "result.json")
        if problem is None and os.path.exists(result):
            with open(result, encoding="utf-8") as file:
                made = json.load(file)
            if "error" not in made:
                return made
            problem = made["error"]
    name = list(blobs)[number]
    raise ValueError(f"LiteRT does not run the file {name!r}: {problem or 'it ends the process'}")


def _file(path, blob, free) -> dict[str, Any]:
    graph = read(blob).subgraphs[0]
    inputs = [] if graph.inputs is None else graph.inputs
    shapes = [_sized(graph.tensors[index], free) for index in inputs]
    with open(path, "wb") as file:
        file.write(blob)
    return {"path": path, "shapes": shapes, "operators": len(graph.operators or [])}


def _sized(tensor, free) -> list[int]:
    """The shape of an input, with sizes of its first two axes where the file leaves them free."""
    shape, signature = list(stored_shape(tensor)), tensor.shapeSignature
    known = [] if signature is None else list(signature)
    for axis, (size, declared) in enumerate(zip(free, known, strict=False)):
        shape[axis] = size if declared < 0 else shape[axis]
    return shape


def _watch(child, limit) -> tuple[int, str | None]:
    """Waits for a child; returns the number of the file that it was last at, and what is wrong."""
    end, number, left = time.monotonic() + limit, 0, b""
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            room = min(STEP_SECONDS, end - time.monotonic())
            if room <= 0 or not selector.select(room):
                child.kill()
                return number, "it takes too long"
            part = os.read(child.stdout.fileno(), 1 << 16)
            if not part:
                break
            *lines, left = (left + part).split(b"\n")
            for line in lines:
                if found := re.fullmatch(rb"at (\d+)", line):
                    number = int(found[1])
            left = left[-100:]
    code = child.wait()
    if code < 0:
        return number, f"it ends the process ({signal.Signals(-code).name})"
    return number, f"it ends the process (exit code {code})" if code else None
