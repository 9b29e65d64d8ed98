"""Export models to .tflite files, and compare accuracy, bytes and time in LiteRT.

python examples/export_and_compare.py [--quick]
"""

import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
from ai_edge_litert.interpreter import Interpreter

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS = (4_000, 1) if QUICK else (60_000, 5)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def train(model, rate):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=128, epochs=EPOCHS, verbose=0)
    return model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]


def litert_accuracy(path):
    """What the file itself scores, as an application would run it."""
    interpreter = Interpreter(str(path))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], x_test.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], x_test)
    interpreter.invoke()
    return np.mean(interpreter.get_tensor(target["index"]).argmax(axis=1) == y_test)


model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(512, activation="relu", name="fc1"),
        keras.layers.Dense(256, activation="relu", name="fc2"),
        keras.layers.Dense(10, name="out"),
    ]
)
accuracies = {"float32": train(model, 2e-3)}
models = {"float32": model}
for name, maker in {
    "binary": tfc.layers.BinaryDense.using(),
    "ternary": tfc.layers.TernaryDense.using(),
    "low rank": tfc.layers.LowRankDense.using(rank=0.25),
}.items():
    models[name] = tfc.swap(model, {"fc?": maker})
    accuracies[name] = train(models[name], 1e-3)

with tempfile.TemporaryDirectory() as folder:
    paths = {name: Path(folder) / f"{name}.tflite" for name in models}
    for name, path in paths.items():
        # Verified against the Keras model on these samples; a file that differs is not written.
        tfc.to_tflite(models[name], path, check=x_test[:16])
    timed = tfc.bench(paths, memory=False)
    for name, path in paths.items():
        print(
            f"{name:9} accuracy {accuracies[name]:.4f} in Keras, {litert_accuracy(path):.4f} in "
            f"LiteRT; {path.stat().st_size:9,} bytes; {timed[name].ratio:.2f} times faster"
        )
    print(tfc.report(models["ternary"], tflite=paths["ternary"]))
