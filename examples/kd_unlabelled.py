"""Distil a teacher into a small student: 600 labels, and many images without.

python examples/kd_unlabelled.py [--quick]
"""

import sys

import keras
import numpy as np

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, EPOCHS, LABELS = (2_000, 1, 200) if QUICK else (20_000, 5, 600)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
print("Images:", source)


def net(*plan):
    """Convolutions of (filters, stride), each with batch normalization."""
    model = keras.Sequential([keras.Input((28, 28, 1))])
    for filters, stride in plan:
        model.add(keras.layers.Conv2D(filters, 3, stride, "same", use_bias=False))
        model.add(keras.layers.BatchNormalization(momentum=0.9))
        model.add(keras.layers.ReLU())
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dense(10))
    return model


def accuracy(model):
    return np.mean(model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test)


# 1. The teacher has seen labels that we no longer have.
teacher = net((24, 2), (48, 2), (64, 1))
teacher.compile("adam", LOSS)
seen = 2_000 if QUICK else 60_000
teacher.fit(x[:seen], y[:seen], batch_size=128, epochs=1 if QUICK else 4, verbose=0)
print(f"teacher: {teacher.count_params():,} parameters, accuracy {accuracy(teacher):.4f}")

# 2. A student that has the labelled images alone, for as many updates as the next one.
plan = ((8, 2), (8, 1), (8, 2), (8, 1), (8, 2))
x = x[:IMAGES]
labelled = np.random.default_rng(0).permutation(IMAGES)[:LABELS]
rows = np.resize(labelled, IMAGES)
alone = net(*plan)
alone.compile("adam", LOSS)
alone.fit(x[rows], y[rows], batch_size=64, epochs=EPOCHS, verbose=0)
print(f"student, {LABELS} labels: {alone.count_params():,} parameters, {accuracy(alone):.4f}")

# 3. The same student with the teacher. A label of -1 is one that is not known; with no labels at
#    all, `compile("adam")` and `fit(x)` are enough.
mixed = np.full(IMAGES, -1)
mixed[labelled] = y[labelled]
distiller = tfc.Distiller(student=net(*plan), teacher=teacher, temperature=4.0, alpha=0.5)
distiller.compile("adam", LOSS)

# The teacher runs once over the images; an epoch then costs what the student alone costs.
cache = distiller.cache_teacher((x, mixed), batch_size=64)
distiller.fit(cache, epochs=EPOCHS, verbose=0)
print(f"student, with the teacher on all {IMAGES:,} images: {accuracy(distiller.student):.4f}")

# 4. The student is an ordinary model.
print("exported:", f"{len(tfc.to_tflite(distiller.student)):,} bytes")
