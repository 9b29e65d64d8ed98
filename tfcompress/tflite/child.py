"""Runs .tflite files and times them: the program of a child process, see run_in_child.py.

It imports LiteRT and NumPy alone, so that it starts in 0.3 seconds, and is told everything in a
JSON file. After each step it writes a line to its standard output: the number of the file at work.
"""

import json
import os
import sys
import time
from typing import Any

import numpy as np

LEAST_SECONDS = 2e-4  # of a file in a round; a quicker one runs several times


def report_step(number: int) -> None:
    sys.stdout.write(f"at {number}\n")
    sys.stdout.flush()


def loaded(path: str, shapes: Any, threads: int) -> Any:
    """An interpreter that is ready to run; `shapes` are those of its inputs."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=path, num_threads=threads)
    for detail, shape in zip(runner.get_input_details(), shapes, strict=True):
        runner.resize_tensor_input(detail["index"], shape)
    runner.allocate_tensors()
    return runner


def set_inputs(runner: Any) -> None:
    """Random numbers, none of them negative, as ids or of what a root is taken; or else zeros."""
    random = np.random.default_rng(0)
    for detail in runner.get_input_details():
        shape, dtype = detail["shape"], np.dtype(detail["dtype"])
        values = random.uniform(size=shape) if dtype.kind == "f" else random.integers(0, 2, shape)
        runner.set_tensor(detail["index"], values.astype(dtype))
    try:
        runner.invoke()
    except RuntimeError:  # an index outside a table, for example
        set_zeros(runner)


def set_zeros(runner: Any) -> None:
    for detail in runner.get_input_details():
        runner.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))


def delegate_nodes(runner: Any, operators: int) -> list:
    """The tensors that go into and out of each group of operators that the delegate took over."""
    nodes = runner._get_ops_details()[operators:]
    return [[list(map(int, node["inputs"])), list(map(int, node["outputs"]))] for node in nodes]


def seconds_of(runner: Any, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        runner.invoke()
    return (time.perf_counter() - start) / repeats


def timed(runners: list, rounds: int, warmup: int, seconds: float) -> list[list[float]]:
    """Seconds per run: for each file a list over the rounds."""
    repeats, total = [], 0.0
    for number, runner in enumerate(runners):
        for _ in range(warmup):
            report_step(number)
            runner.invoke()
        report_step(number)
        once = seconds_of(runner, 1)
        repeats.append(int(np.clip(LEAST_SECONDS / max(once, 1e-9), 1, 100)))
        total += once * (repeats[-1] + 1)
    rounds = int(np.clip(seconds / total, min(7, rounds), rounds))
    times = [[] for _ in runners]
    for _ in range(rounds):
        for number, runner in enumerate(runners):
            report_step(number)
            runner.invoke()  # warms the caches, which the other files have filled
            times[number].append(seconds_of(runner, repeats[number]))
    return times


def peak_kilobytes():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def bench(task):
    runners, nodes = [], []
    for number, file in enumerate(task["files"]):
        report_step(number)
        runners.append(loaded(file["path"], file["shapes"], task["threads"]))
        report_step(number)
        set_inputs(runners[-1])
        nodes.append(delegate_nodes(runners[-1], file["operators"]))
    times = timed(runners, task["rounds"], task["warmup"], task["seconds"])
    return {"times": times, "nodes": nodes}


def peak(task):
    from ai_edge_litert.interpreter import Interpreter  # noqa: F401  # its own bytes do not count

    before = peak_kilobytes()
    runner = loaded(task["files"][0]["path"], task["files"][0]["shapes"], task["threads"])
    set_zeros(runner)
    runner.invoke()
    return {"bytes": 1024 * (peak_kilobytes() - before)}


def limit_memory():
    """No more address space than the machine has memory, and the first to go if that ends."""
    try:
        import resource

        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        resource.setrlimit(resource.RLIMIT_AS, (whole, whole))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except (ImportError, ValueError, OSError):  # a system without them
        pass


def main(folder):
    with open(os.path.join(folder, "task.json"), encoding="utf-8") as file:
        task = json.load(file)
    limit_memory()
    try:
        result = {"bench": bench, "peak": peak}[task["what"]](task)
    except Exception as error:  # LiteRT raises ValueError and RuntimeError, and NumPy its own
        result = {"error": str(error) or type(error).__name__}
    with open(os.path.join(folder, "result.json"), "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main(sys.argv[1])
