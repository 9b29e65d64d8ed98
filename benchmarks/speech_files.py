"""Files of the nets of `speech.py`: made, run on whole sequences and piece by piece, and timed."""

import contextlib
import io

import keras
import numpy as np
import tensorflow as tf

import tfcompress as tfc
from tfcompress.tflite.runner import Runner


def stock(model: keras.Model, shape: tuple, dtype: str = "float32") -> bytes:
    """The stock converter's file in dynamic range, for one input of this shape.

    It makes none of a recurrent net for any number of steps.
    """
    inputs = keras.Input(shape, batch_size=1, dtype=dtype)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, model(inputs)))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with contextlib.redirect_stdout(io.StringIO()):
        return converter.convert()


class Stream:
    """A file of `to_tflite(streaming=True)`, to which a sequence is given piece by piece.

    Args:
        blob: the file; all of its inputs but one are states.
    """

    def __init__(self, blob: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=bytes(blob), num_threads=1)
        self.run, self.states = interpreter.get_signature_runner(), {}
        for name, detail in self.run.get_input_details().items():
            if "_state_" in name:
                self.states[name] = np.zeros((1, *detail["shape"][1:]), detail["dtype"])
            else:
                self.name = name

    def __call__(self, piece: np.ndarray) -> np.ndarray:
        """The output for the next steps `(1, steps, ...)`."""
        outputs = self.run(**{self.name: piece}, **self.states)
        self.states = {name: outputs.pop(name) for name in self.states}
        (output,) = outputs.values()
        return output


def streaming_error(model: keras.Model, x: np.ndarray, steps: int) -> float:
    """The largest difference of pieces of some steps from the whole, in float32 arithmetic."""
    whole = Runner(tfc.to_tflite(model, check=x, activations="float32", rest="int8"))
    blob = tfc.to_tflite(model, check=x, activations="float32", rest="int8", streaming=True)
    worst = 0.0
    for one in x:
        stream, parts = Stream(blob), np.split(one[None], range(steps, len(one), steps), axis=1)
        y = np.concatenate([stream(part) for part in parts], 1)
        worst = max(worst, float(np.abs(y - whole([one[None]])[0]).max()))
    return worst


def times(files: dict[str, bytes], steps: int, seconds: float) -> dict[str, dict]:
    """Real-time factor, milliseconds and peak megabytes of files for inputs of some steps.

    Args:
        files: by name, which are timed in turn on one thread.
        steps: of the inputs, where a file leaves their number free.
        seconds: of sound that so many steps are.
    """
    return {
        timing.name: {
            "ms": timing.milliseconds,
            "real_time": timing.milliseconds / 1e3 / seconds,
            "peak_mb": timing.peak_bytes and timing.peak_bytes / 1e6,
        }
        for timing in tfc.bench(files, steps=steps, seconds=3.0).timings
    }
