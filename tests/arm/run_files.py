"""Runs each .tflite file of a folder under both resolvers: by itself, in an emulated Python too.

    python run_files.py FILES RESULTS

FILES holds NAME.tflite and NAME.npy, an array of samples. Each run is a process of its own, so
that a crash costs one result. RESULTS gets NAME.RESOLVER.npz, the outputs for one sample and for
all, and status.json, `{NAME.RESOLVER: "" or what went wrong}`.
"""

import json
import os
import pathlib
import sys
from importlib.metadata import version

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

RESOLVERS = {
    "delegate": OpResolverType.AUTO,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


# LiteRT 1.2 can crash when an INT8 convolution is resized after a call, in the stock converter's
# own files too.
RESIZES = version("ai-edge-litert") >= "1.3"


def run(path, resolver, target):
    x = np.load(path.with_suffix(".npy"))
    outputs, runner = {}, None
    for name, batch in ("one", x[:1]), ("all", x):
        if runner is None or not RESIZES:
            runner = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
        place, *states = runner.get_input_details()
        runner.resize_tensor_input(place["index"], batch.shape)
        for state in states:  # of a file that is given sequences piece by piece: the first piece
            runner.resize_tensor_input(state["index"], (len(batch), *state["shape"][1:]))
        runner.allocate_tensors()
        runner.set_tensor(place["index"], batch)
        for state in states:
            zeros = np.zeros((len(batch), *state["shape"][1:]), state["dtype"])
            runner.set_tensor(state["index"], zeros)
        for _ in range(2):  # the first call may set variables that the second reads
            runner.invoke()
        made = [one for one in runner.get_output_details() if "_state_" not in one["name"]]
        outputs[name] = runner.get_tensor(made[0]["index"])
    np.savez(target, **outputs)


def in_a_process(path, resolver, target) -> str:
    """What went wrong, or an empty text."""
    errors = target.with_suffix(".txt")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            run(path, resolver, target)
            status = 0
        except BaseException as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"error: {errors.read_text()[-300:]}" if status else ""


def main(files, results):
    results.mkdir(parents=True)
    told = {}
    for path in sorted(files.glob("*.tflite")):
        for name, resolver in RESOLVERS.items():
            target = results / f"{path.stem}.{name}.npz"
            told[f"{path.stem}.{name}"] = in_a_process(path, resolver, target)
    (results / "status.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:]))
