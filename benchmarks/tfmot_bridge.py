"""The bridge to tensorflow_model_optimization beside the same training written in tf_keras.

    python benchmarks/tfmot_bridge.py --nets folder    trains the float nets there if missing

Needs the extra "tfmot". Writes docs/tfmot-bridge-benchmark.md. The other route runs in a process of
its own (`--direct`), on the nets of tfmot_pruning.py.
"""

import argparse
import json
import subprocess
import sys
import tempfile

import numpy as np
from pages import write_page

METHODS = ("prune", "cluster", "quantize")
EPOCHS = {"mlp": 2, "lenet": 2, "resnet": 1}
RATES = {"mlp": 1e-3, "lenet": 1e-3, "resnet": 5e-4}
HEAD = """# The bridge to tensorflow_model_optimization

Written by `benchmarks/tfmot_bridge.py` on {data}, test accuracy: 80% pruned, 16 clusters, and
quantization-aware training with 8 bits, from the same float weights; {epochs}, Adam at a constant
rate, one seed. Direct: the same net in tf_keras, with the original's own calls. The last column is
the full-integer file of the bridge's model, with the learned ranges.

| net (float) | method | direct | bridge | LiteRT int8 |
|---|---|---|---|---|"""


def arguments(tfmot, method, steps):
    """What both routes give to the original's function."""
    if method == "prune":
        schedule = tfmot.sparsity.keras.PolynomialDecay(0.3, 0.8, 0, steps * 6 // 10)
        return {"pruning_schedule": schedule}
    return {"number_of_clusters": 16} if method == "cluster" else {}


def direct(name, weights, method):
    """Prints the accuracy of the training in tf_keras."""
    import tfmot_pruning as peer

    keras, tfmot = peer.keras, peer.tfmot
    (x, y), (x_test, y_test), _ = peer.fashion_mnist()
    keras.utils.set_random_seed(0)
    model = getattr(peer, name)()
    with np.load(weights) as arrays:
        peer.place(model, list(arrays.values()))
    apply = {
        "prune": tfmot.sparsity.keras.prune_low_magnitude,
        "cluster": tfmot.clustering.keras.cluster_weights,
        "quantize": tfmot.quantization.keras.quantize_model,
    }[method]
    steps = EPOCHS[name] * -(-len(x) // 128)
    model = apply(model, **arguments(tfmot, method, steps))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATES[name]), loss)
    callbacks = [tfmot.sparsity.keras.UpdatePruningStep()] if method == "prune" else []
    model.fit(x, y, batch_size=128, epochs=EPOCHS[name], verbose=0, callbacks=callbacks)
    logits = model.predict(x_test, batch_size=500, verbose=0)
    print(json.dumps(float(np.mean(logits.argmax(-1) == y_test))))


def bridged(name, base, method, train, test):
    """Accuracy of the bridge's model, and of its file for quantization-aware training."""
    import keras
    from nets import accuracy

    import tfcompress as tfc
    from tfcompress.interop.packages import load
    from tfcompress.tflite.runner import Runner

    keras.utils.set_random_seed(0)
    steps = EPOCHS[name] * -(-len(train[0]) // 128)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(RATES[name])
    function = getattr(tfc.interop.tfmot, method)
    training = function(base, optimizer, loss, **arguments(load().tfmot, method, steps))
    training.fit(*train, batch_size=128, epochs=EPOCHS[name], verbose=0)
    model = training.model()
    found = accuracy(model, *test)
    if method != "quantize":
        return found, None
    blob = tfc.to_tflite(model, activations="static_int8", check=train[0][:200])
    run, (x, y) = Runner(blob), test
    logits = np.concatenate([run([x[i : i + 500]])[0] for i in range(0, len(x), 500)])
    return found, float(np.mean(logits.argmax(-1) == y))


def main():
    if sys.argv[1:2] == ["--direct"]:
        return direct(*sys.argv[2:])
    from nets import BUILDERS, accuracy, load_or_train

    from tfcompress.datasets import fashion_mnist

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--output", default="docs/tfmot-bridge-benchmark.md")
    options = parser.parse_args()
    train, test, data = fashion_mnist()
    epochs = ", ".join(f"{name}: {EPOCHS[name]} epochs" for name in options.only)
    text = [HEAD.format(data=data, epochs=epochs.replace(" 1 epochs", " 1 epoch"))]
    print(text[0])
    for name in options.only:
        base = load_or_train(name, options.nets, train)
        for method in METHODS:
            with tempfile.TemporaryDirectory() as folder:
                np.savez(f"{folder}/weights.npz", *base.get_weights())
                command = [sys.executable, __file__, "--direct", name, f"{folder}/weights.npz"]
                done = subprocess.run(
                    [*command, method], capture_output=True, text=True, check=True
                )
            other = json.loads(done.stdout.splitlines()[-1])
            ours, file = bridged(name, base, method, train, test)
            cells = [f"{name} ({accuracy(base, *test):.4f})", method, f"{other:.4f}", f"{ours:.4f}"]
            text.append("| " + " | ".join([*cells, "" if file is None else f"{file:.4f}"]) + " |")
            print(text[-1], flush=True)
    write_page(options.output, "\n".join(text) + "\n")


if __name__ == "__main__":
    main()
