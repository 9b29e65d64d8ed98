"""Files on which LiteRT aborts: a child process meets them, and an error tells."""

import contextlib

import keras
import numpy as np
import pytest
from keras import layers

from tfcompress.export import ExportError, to_tflite
from tfcompress.tflite import run_in_child

NORMAL = np.random.default_rng(0).standard_normal((20, 10, 6)).astype("float32")


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("activations", ["static_int8", "static_int16"])
@pytest.mark.parametrize("x", [NORMAL, 0 * NORMAL], ids=["samples", "zeros"])
def test_an_unrolled_gru_is_exported_or_refused(x, activations, reset_after):
    gru = layers.GRU(12, unroll=True, reset_after=reset_after)
    model = keras.Sequential([keras.Input((10, 6), batch_size=1), gru, layers.Dense(5)])
    with contextlib.suppress(ExportError):  # some versions of LiteRT run what others abort on
        assert len(to_tflite(model, check=x, activations=activations)) > 1000


def test_a_child_that_is_ended_is_an_error(tmp_path, monkeypatch):
    program = tmp_path / "aborts.py"
    program.write_text("import os\nos.abort()\n")
    monkeypatch.setattr(run_in_child, "PROGRAM", str(program))
    model = keras.Sequential([keras.Input((6,)), layers.Dense(40)])
    with pytest.raises(ExportError, match=r"ends the process \(SIGABRT\). Give other samples"):
        to_tflite(model, check=NORMAL[:, 0], activations="static_int8")
