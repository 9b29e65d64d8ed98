"""CP decomposition of the convolutions of a CIFAR-10 net, fine-tuned.

python papers/cp.py [--quick] [--data FOLDER]

Lebedev et al., "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", 2015.
There the net reads characters; here it is one of three convolutions on CIFAR-10. The last two are
decomposed, and the whole net is trained on. The control is a narrow net of as many
multiply-accumulates. Times are those of LiteRT files in float32 on one thread.
"""

import functools

import keras
from keras import layers
from results import accuracy, each, fit, load, read_arguments

import tfcompress as tfc

FILTERS, NARROW = (24, 64, 64), (16, 22, 24)
SHARE = 0.125  # of the multiply-accumulates of the two convolutions
TUNE = 0.4  # epochs of fine-tuning, as a share of those of the float net


def net(shape, filters):
    model = keras.Sequential([keras.Input(shape)])
    for number, (count, size) in enumerate(zip(filters, (3, 5, 5), strict=True), 1):
        name = f"conv{number}"
        model.add(layers.Conv2D(count, size, 2, "same", use_bias=False, name=name))
        model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
    model.add(layers.Flatten())
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10, name="out"))
    return model


def speed(model, small):
    """How many times faster the file of the small net is, by rounds in turn."""
    files = {"float": tfc.to_tflite(model), "small": tfc.to_tflite(small)}
    return tfc.bench(files, memory=False)["small"].ratio


def run(row, seed, epochs, train, test, whole):
    shape, tune = train[0].shape[1:], max(1, round(TUNE * epochs))
    if row == "equal-size":
        model = fit(net(shape, NARROW), train, epochs + tune)
        return {"accuracy": accuracy(model, test), "macs": tfc.report(model).macs}
    model = net(shape, FILTERS)
    model.set_weights(whole)
    if row == "float":  # trained on as long as the decomposed one
        return {
            "accuracy": accuracy(fit(model, train, tune, 5e-4), test),
            "macs": tfc.report(model).macs,
        }
    small = tfc.swap(model, {"conv[23]": tfc.layers.CPConv2D.using(macs=SHARE)})
    tfc.recalibrate_batch_norm(small, train[0])
    before = accuracy(small, test)
    fit(small, train, tune, 5e-4)
    return {
        "accuracy": accuracy(small, test),
        "accuracy without training": before,
        "macs": tfc.report(small).macs,
        "times faster": speed(model, small),
    }


def main():
    given = read_arguments(__doc__, epochs=10)
    train, test = load(given, "cifar10_jpeg.npz", tfc.datasets.cifar10)

    @functools.cache
    def whole(seed):
        weights = fit(net(train[0].shape[1:], FILTERS), train, given.epochs).get_weights()
        keras.utils.set_random_seed(seed)
        return weights

    rows = "CP", "float", "equal-size"
    each(given, __file__, rows, lambda row, s: run(row, s, given.epochs, train, test, whole(s)))


if __name__ == "__main__":
    main()
