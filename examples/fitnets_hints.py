"""A thin deep student learns from a hint in the middle of its teacher, then from the labels.

python examples/fitnets_hints.py [--quick]
"""

import sys

import keras
import numpy as np

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

QUICK = "--quick" in sys.argv
IMAGES, HINT_EPOCHS, EPOCHS = (2_000, 1, 1) if QUICK else (60_000, 2, 8)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

keras.utils.set_random_seed(0)
(x, y), (x_test, y_test), source = fashion_mnist()
x, y = x[:IMAGES], y[:IMAGES]
print("Images:", source)


def net(plan, name):
    inputs = h = keras.Input((28, 28, 1))
    for k, (filters, stride) in enumerate(plan):
        h = keras.layers.Conv2D(filters, 3, stride, "same", use_bias=False)(h)
        h = keras.layers.ReLU(name=f"relu{k}")(keras.layers.BatchNormalization()(h))
    h = keras.layers.GlobalAveragePooling2D()(h)
    return keras.Model(inputs, keras.layers.Dense(10)(h), name=name)


def train(model, epochs, callbacks=()):
    steps = epochs * -(-IMAGES // 128)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), LOSS)
    model.fit(x, y, batch_size=128, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return steps


def accuracy(model):
    return np.mean(model.predict(x_test, batch_size=500, verbose=0).argmax(-1) == y_test)


teacher = net([(48, 2), (64, 2), (96, 1)], "teacher")
train(teacher, 1 if QUICK else 5)
print(f"teacher: {teacher.count_params():,} parameters, accuracy {accuracy(teacher):.4f}")

THIN = [(12, 2), (12, 1), (16, 1), (16, 2), (20, 1), (20, 1), (24, 1)]
control = net(THIN, "control")
train(control, HINT_EPOCHS + EPOCHS)
print(f"no teacher: {control.count_params():,} parameters, accuracy {accuracy(control):.4f}")

# Stage 1: the lower half of the student learns to give the teacher's maps. They have 16 and 64
# channels, so a 1x1 convolution is trained between them and thrown away afterwards.
student = net(THIN, "student")
hint = tfc.Hint(student="relu3", teacher="relu1")
distiller = tfc.Distiller(student=student, teacher=teacher, temperature=2.0, hints=[hint])
history = distiller.fit_hints(x, "adam", batch_size=128, epochs=HINT_EPOCHS, verbose=0)
print("hint loss:", ", ".join(f"{value:.4f}" for value in history.history["loss"]))

# Stage 2: the outputs. As in the paper the teacher's weight falls to zero; `alpha` is a variable,
# so the schedule reaches the compiled training step.
stage2 = tfc.Distiller(student=student, teacher=teacher, temperature=2.0)
steps = EPOCHS * -(-IMAGES // 128)
anneal = tfc.callbacks.Anneal(stage2, "alpha", tfc.schedules.Linear(0.8, 0.0, steps=steps // 2))
train(stage2, EPOCHS, [anneal])
print(f"hint, then labels and teacher, as many updates: {accuracy(student):.4f}")
