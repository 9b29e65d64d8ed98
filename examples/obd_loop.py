"""Optimal Brain Damage's own loop on LeNet-300-100: train, delete, retrain, in one `fit`.

python examples/obd_loop.py [--quick]
"""

import sys

import keras

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS, TARGET = (4_000, 12, 0.7) if QUICK else (50_000, 60, 0.98)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
print("Images:", source)
held_out = x[-10_000:], y[-10_000:]
x, y = x[:IMAGES], y[:IMAGES]

model = keras.Sequential(
    [
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.Dense(300, activation="relu", name="fc1"),
        keras.layers.Dense(100, activation="relu", name="fc2"),
        keras.layers.Dense(10, name="out"),
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])

# Whenever the validation loss has not fallen in an epoch, 40% of the weights that are left go:
# those whose saliency d w^2 / 2 is lowest, with the second derivatives d measured on 4,000 images.
# It ends at the target, or where the loss stays 0.02 above that of the full net.
prune = tfc.callbacks.PruneOnPlateau(
    TARGET, data=(x[:4_000], y[:4_000]), tolerance=0.02, share=0.4, patience=1, verbose=1
)
model.fit(
    x, y, batch_size=128, epochs=EPOCHS, verbose=0, validation_data=held_out, callbacks=[prune]
)

accuracy = model.evaluate(x_test, y_test, batch_size=500, verbose=0)[1]
print(f"{prune.sparsity:.1%} of the weights are zero: test accuracy {accuracy:.4f}")
