"""FitNets on MNIST: a thin deep student alone, with a teacher, and with hints.

python papers/fitnets.py [--quick] [--data FOLDER]

Romero et al., "FitNets: Hints for Thin Deep Nets", 2015. The student has 30,000 parameters in seven
convolutions, without batch normalization. It learns from the labels (BP), from labels and teacher
(KD), or first the middle of the teacher (HT), in as many epochs in all.
"""

import functools

import keras
from keras import layers
from results import LOSS, accuracy, each, fit, load, read_arguments

import tfcompress as tfc

HINT = tfc.Hint(student="conv4", teacher="conv2")
HINT_SHARE = 0.2  # of the epochs
TEACHES = {"temperature": 4.0, "alpha": 0.9}


def teacher_net():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 5, 2, "same", activation="relu", name="conv1"),
            layers.Conv2D(32, 5, 2, "same", activation="relu", name="conv2"),
            layers.Flatten(),
            layers.Dropout(0.4),
            layers.Dense(256, "relu"),
            layers.Dropout(0.4),
            layers.Dense(10),
        ]
    )


def student_net():
    model = keras.Sequential([keras.Input((28, 28, 1))])
    start = {"padding": "same", "activation": "relu", "kernel_initializer": "he_normal"}
    for number, filters in enumerate((12, 24, 24, 24, 24, 24, 24), 1):
        strides = 2 if number <= 2 else 1
        model.add(layers.Conv2D(filters, 3, strides, name=f"conv{number}", **start))
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(10))
    return model


def run(row, seed, epochs, train, test, teacher, taught):
    """`taught`: the training data with the teacher's logits and features."""
    keras.utils.set_random_seed(seed)
    student = student_net()
    if row == "BP":
        fit(student, train, epochs, 2e-3)
    else:
        hints = max(1, round(HINT_SHARE * epochs)) if row == "HT" else 0
        if hints:
            stage = tfc.Distiller(student=student, teacher=teacher, hints=[HINT])
            stage.fit_hints(taught, keras.optimizers.Adam(1e-3), epochs=hints, verbose=0)
        left = max(1, epochs - hints)
        distiller = tfc.Distiller(student=student, teacher=teacher, **TEACHES)
        steps = left * -(-len(train[0]) // 128)
        rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
        distiller.compile(keras.optimizers.Adam(rate), LOSS)
        inputs = {"inputs": train[0], "teacher": (taught.x["teacher"][0],)}
        distiller.fit(inputs, train[1], batch_size=128, epochs=left, verbose=0)
    return {
        "accuracy": accuracy(student, test),
        "numbers": student.count_params(),
        "accuracy of the teacher": accuracy(teacher, test),
        "numbers of the teacher": teacher.count_params(),
    }


def main():
    given = read_arguments(__doc__, epochs=12)
    train, test = load(given, "mnist.npz", tfc.datasets.mnist)

    @functools.cache
    def teach(seed):
        keras.utils.set_random_seed(seed)
        teacher = fit(teacher_net(), train, given.epochs, 2e-3)
        stage = tfc.Distiller(student=student_net(), teacher=teacher, hints=[HINT])
        return teacher, stage.cache_teacher(train[0], batch_size=128)

    rows = "BP", "HT", "KD"
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, train, test, *teach(s)))


if __name__ == "__main__":
    main()
