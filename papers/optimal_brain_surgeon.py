"""Optimal Brain Surgeon on the MONK's problems: how few weights still solve them?

python papers/optimal_brain_surgeon.py [--quick]

Hassibi, Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1993. The
nets have 58, 39 and 39 weights. Biases are weights of a constant input here, so that they are
pruned as well. One weight goes after the other: the one that Optimal Brain Surgeon chooses, while
the others compensate, and then a short training. Where that errs on too many training examples, the
weights that damage the loss least are tried in turn. A small penalty on absolute values takes the
place of the paper's weight decay, which spreads a condition over all values of an attribute.
"""

import itertools

import keras
import numpy as np
from keras import layers
from results import each, read_arguments, split

import tfcompress as tfc

HIDDEN = {1: 3, 2: 2, 3: 2}
PAPER = {1: 14, 2: 15, 3: 4}  # weights that are left in the paper
STEPS = 2000  # of Adam at first, all examples in each; a quarter of them after each weight
STARTS = 5  # nets, of which the one with the fewest errors in training is pruned
NETS = 10  # of such nets that are pruned, until one has as few weights as the paper's
LONGER = 4  # times as many steps for what fails otherwise
TRIED = 30  # weights in vain before it ends
ENOUGH = {1: 1.0, 2: 1.0, 3: 0.92}  # right in training; 5% of the third problem's labels are wrong


class Mask(keras.constraints.Constraint):
    """Keeps pruned weights at zero."""

    def __init__(self, shape):
        self.mask = keras.Variable(np.ones(shape), trainable=False)

    def __call__(self, w):
        return w * self.mask


def net(problem):
    hidden = HIDDEN[problem]
    inputs = keras.Input((18,))
    masks = Mask((18, hidden)), Mask((hidden + 1, 1))
    penalty = keras.regularizers.L1(3e-4)
    x = layers.Dense(hidden, "tanh", False, kernel_constraint=masks[0], kernel_regularizer=penalty)
    out = layers.Dense(1, None, False, kernel_constraint=masks[1], kernel_regularizer=penalty)
    model = keras.Model(inputs, out(layers.Concatenate()([x(inputs), inputs[:, -1:]])))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, steps_per_execution=50)
    return model, masks


def with_one(data):
    x, y = data
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], 1), y[:, None].astype("float32")


def right(model, data):
    return int(np.sum((model.predict_on_batch(data[0]) > 0) == (data[1] > 0)))


def train(model, data, steps):
    x, y = (np.tile(a, (steps, 1)) for a in data)
    model.optimizer.learning_rate = 0.02
    model.fit(x, y, batch_size=len(data[0]), epochs=1, shuffle=False, verbose=0)


def best_start(problem, data, starts, steps):
    """The net that has the most right, of some with other first weights, and its masks."""
    found = []
    for _ in range(starts):
        model, masks = net(problem)
        train(model, data, steps)
        found.append((right(model, data), model, masks))
        if found[-1][0] == len(data[0]):
            break
    return max(found, key=lambda one: one[0])[1:]


def candidates(model, data, weights):
    """These weights with one more zero: Optimal Brain Surgeon's choice, then by damage."""
    model.set_weights(weights)
    zeros, size = (sum(np.sum(w == 0) for w in weights), sum(w.size for w in weights))
    share = (zeros + 1) / size
    yield tfc.prune(model, share, data[0], score="obs", scope="global").get_weights()
    model.set_weights(weights)
    curvature = tfc.curvature.gauss_newton_exact(model, data).values()
    damage = np.concatenate([np.ravel(d * w**2) for d, w in zip(curvature, weights, strict=True)])
    flat = np.concatenate([w.ravel() for w in weights])
    damage[flat == 0] = np.inf
    for place in np.argsort(damage)[: size - zeros]:
        one = flat.copy()
        one[place] = 0
        parts = np.split(one, [weights[0].size])
        yield [part.reshape(w.shape) for part, w in zip(parts, weights, strict=True)]


def one_less(model, masks, data, enough, steps, tried):
    """Takes one weight out, if enough of the training examples can be right without it."""
    before = model.get_weights()
    for times in (1, LONGER):
        for weights in itertools.islice(candidates(model, data, before), tried):
            for mask, w in zip(masks, weights, strict=True):
                mask.mask.assign(w != 0)
            model.set_weights(weights)
            train(model, data, times * steps)
            if right(model, data) >= enough:
                return True
    model.set_weights(before)
    return False


def run(row, seed, given):
    """Prunes up to `NETS` nets and keeps the one with the fewest weights."""
    problem = int(row[-1])
    train_data, test = (with_one(part) for part in split(given, tfc.datasets.monks(problem, seed)))
    starts, steps, tried, nets = (1, 200, 1, 1) if given.quick else (STARTS, STEPS, TRIED, NETS)
    found = []
    for _ in range(nets):
        model, masks = best_start(problem, train_data, starts, steps)
        before = right(model, test)
        weights = sum(w.size for w in model.get_weights())
        if not given.quick:
            enough = min(ENOUGH[problem] * len(train_data[0]), right(model, train_data))
            while one_less(model, masks, train_data, enough, steps // 4, tried):
                pass
        found.append(
            {
                "accuracy": right(model, test) / len(test[0]),
                "weights": int(sum(np.count_nonzero(w) for w in model.get_weights())),
                "accuracy in training": right(model, train_data) / len(train_data[0]),
                "accuracy of the whole net": before / len(test[0]),
                "weights of the whole net": weights,
            }
        )
        if found[-1]["weights"] <= PAPER[problem]:
            break
    return min(found, key=lambda one: one["weights"])


if __name__ == "__main__":
    given = read_arguments(__doc__, epochs=STEPS)
    rows = [f"MONK {problem}" for problem in HIDDEN]
    each(given, __file__, rows, lambda row, seed: run(row, seed, given))
