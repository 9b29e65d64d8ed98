"""The memory that loading and running a .tflite file takes."""

import os
import subprocess
import sys

from tfcompress.utils.writers import temporary_folder

# Runs in a fresh process: what this one has taken before would hide the peak.
_MEASURE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
before = peak()
runner = Interpreter(model_path=sys.argv[1], num_threads=int(sys.argv[2]))
runner.allocate_tensors()
for detail in runner.get_input_details():
    runner.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
runner.invoke()
print(peak() - before)
"""


def peak_memory(blob: bytes, threads: int = 1) -> int | None:
    """Bytes by which loading and running a file raises the peak memory of a fresh process.

    None where the system has no /proc to read it from.
    """
    with temporary_folder() as folder:
        path = os.path.join(folder, "model.tflite")
        with open(path, "wb") as file:
            file.write(blob)
        command = [sys.executable, "-c", _MEASURE, path, str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if done.returncode else 1024 * int(done.stdout.split()[-1])
