"""The layout of CONTRIBUTING.md: a file imports only lower floors, and tensorflow only where said."""

import ast
import pathlib

import tfcompress

ROOT = pathlib.Path(tfcompress.__file__).parent
FLOORS = {
    "hashing": 0,
    "factorize": 0,
    "codecs": 0,
    "metric": 0,
    "flatbuffer": 0,
    "walk": 0,
    "schedules": 1,
    "score": 1,
    "moments": 1,
    "rewrite": 2,
    "layers": 2,
    "curvature": 3,
    "calibrate": 3,
    "pruning": 3,
    "callbacks": 3,
    "export": 4,
}
TENSORFLOW = {"curvature", "export"}
