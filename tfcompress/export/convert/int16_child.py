"""Quantizes a file to int16 activations: the program of a child process, see `to_int16`.

TensorFlow's quantizer ends the process on some files. Called with the path of a float32 file whose
tensors have ranges, and with that of the file to write.
"""

import pathlib
import sys

import numpy as np


def main() -> None:
    from tensorflow.lite.python.optimize import calibrator

    source, target = map(pathlib.Path, sys.argv[1:])
    io, activation, bias = (np.dtype(kind).num for kind in ("float32", "int16", "int64"))
    blob = source.read_bytes()  # which must outlive the quantizer: it reads these bytes
    work = calibrator._calibration_wrapper.CalibrationWrapper(blob, [], [])
    target.write_bytes(work.QuantizeModel(io, io, True, activation, bias, False, False))


if __name__ == "__main__":
    main()
