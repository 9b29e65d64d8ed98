"""Compression of trained networks without labels and without training.

    python benchmarks/post_training.py --nets folder     trains the float nets there if missing
    python benchmarks/post_training.py --peers           also Keras' GPTQ and ai-edge-quantizer
                                                         (pip install ai-edge-quantizer)

Writes docs/post-training-benchmark.md.
"""

import argparse
import pathlib
import tempfile
import time

import keras
import numpy as np
from nets import BUILDERS, accuracy, inner_layers, load_or_train
from pages import write_page

import tfcompress as tfc
from tfcompress.datasets import fashion_mnist

LAYERS = tfc.layers
HEAD = """# Post-training compression without labels

Written by `benchmarks/post_training.py` on {data}: {images} training images for calibration, no
labels, no training; test accuracy, mean and range over calibration seeds {seeds}. The first and
last layers of the CNNs and the last of the MLP stay float. "Plain" is the same layer without data
(nearest values, truncated SVD, magnitude). BatchNorm is recalibrated on the same images in both
columns. Seconds: swap and recalibration on 2 cores.

| net (float) | method | plain | measured on data | range | seconds |
|---|---|---|---|---|---|
"""
PEERS_HEAD = """
## Peers on the same networks

Keras' GPTQ takes Dense layers only: the inner ones, with a scale and a zero point for each 128
weights (its default), on the first {images} images. ai-edge-quantizer works on the `.tflite`: all
layers, rounded without calibration, accuracy in LiteRT.

| net | peer | accuracy |
|---|---|---|
"""


def low_rank(share):
    def rules(model, names):
        def rule(layer):
            cls = LAYERS.LowRankDense if layer.kernel.ndim == 2 else LAYERS.LowRankConv2D
            full = min(np.prod(layer.kernel.shape[:-1]), layer.kernel.shape[-1])
            return cls.using(rank=max(1, int(share * full)))

        return {name: rule(model.get_layer(name)) for name in names}

    return rules


def one_of(dense, conv):
    def rules(model, names):
        flat = {name: model.get_layer(name).kernel.ndim == 2 for name in names}
        return {name: dense if flat[name] else conv for name in names}

    return rules


def bits(bits):
    return one_of(LAYERS.QuantizedDense.using(bits=bits), LAYERS.QuantizedConv2D.using(bits=bits))


METHODS = {
    "4 bits": bits(4),
    "3 bits": bits(3),
    "ternary": one_of(LAYERS.TernaryDense, LAYERS.TernaryConv2D),
    "binary": one_of(LAYERS.BinaryDense, LAYERS.BinaryConv2D),
    "SVD at half rank": low_rank(0.5),
    "SVD at quarter rank": low_rank(0.25),
    "50% zeros": 0.5,
    "80% zeros": 0.8,
    "90% zeros": 0.9,
}


def compress(model, method, x):
    """The compressed model; `x` None: the plain form."""
    names = inner_layers(model)
    if not isinstance(method, float):
        return tfc.swap(model, method(model, names), data=x)
    score = "magnitude" if x is None else "obs"
    scope = "layer" if x is None else "global"
    return tfc.prune(model, method, x, score=score, layers=names, scope=scope)


def measure(model, method, x, images, labels):
    start = time.perf_counter()
    small = compress(model, method, x)
    tfc.recalibrate_batch_norm(small, images)
    seconds = time.perf_counter() - start
    return accuracy(small, *labels), seconds


def rows(name, model, train, test, seeds, count):
    base = accuracy(model, *test)
    for label, method in METHODS.items():
        results = []
        for seed in seeds:
            images = train[0][np.random.default_rng(seed).choice(len(train[0]), count, False)]
            plain, _ = measure(model, method, None, images, test)
            results.append((plain, *measure(model, method, images, images, test)))
        plain, measured, seconds = np.array(results).T
        yield (
            f"| {name} ({base:.4f}) | {label} | {plain.mean():.4f} | **{measured.mean():.4f}** | "
            f"{measured.min():.4f} to {measured.max():.4f} | {seconds.mean():.0f} |"
        )


def keras_gptq(model, weight_bits, images, test):
    """Keras' GPTQ on the inner Dense layers, each on the inputs that it gets when its turn comes.

    Keras' own driver feeds token ids to transformer blocks; its solver is called directly here.
    """
    from keras.src.quantizers.gptq import GPTQ

    model = tfc.swap(model, {})
    config = keras.quantizers.GPTQConfig(
        dataset=[""], tokenizer=lambda text: text, weight_bits=weight_bits, group_size=128
    )
    for name in inner_layers(model):
        layer = model.get_layer(name)
        if isinstance(layer, keras.layers.Dense):
            inputs = keras.Model(model.inputs, layer.input).predict(images, verbose=0)
            layer.quantize("gptq", config=config)
            solver = GPTQ(layer, config)
            solver.update_hessian_with_batch(keras.ops.convert_to_tensor(inputs))
            solver.quantize_and_correct_layer()
    return accuracy(model, *test)


def edge_quantizer(model, weight_bits, test):
    """ai-edge-quantizer: dynamic range, channelwise, all layers; accuracy in LiteRT."""
    import tensorflow as tf
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    recipe = recipe_manager.RecipeManager()
    recipe.add_dynamic_config(
        regex=".*", operation_name=qtyping.TFLOperationName.ALL_SUPPORTED, num_bits=weight_bits
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "float.tflite")
        path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        small = quantizer.Quantizer(str(path), recipe.get_quantization_recipe()).quantize()
    interpreter = Interpreter(model_content=bytes(small.quantized_model))
    where = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(where, test[0].shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(where, test[0])
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return float(np.mean(logits.argmax(-1) == test[1]))


def peer_rows(name, model, images, test):
    if any(isinstance(model.get_layer(n), keras.layers.Dense) for n in inner_layers(model)):
        for bits in (4, 3, 2):
            found = keras_gptq(model, bits, images, test)
            yield f"| {name} | Keras GPTQ, {bits} bits | {found:.4f} |"
    for bits in (4, 2):
        found = edge_quantizer(model, bits, test)
        yield f"| {name} | ai-edge-quantizer, {bits} bits per channel | {found:.4f} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="benchmarks/float-nets", help="folder of .keras files")
    parser.add_argument("--only", nargs="*", default=list(BUILDERS), choices=list(BUILDERS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--output", default="docs/post-training-benchmark.md")
    arguments = parser.parse_args()
    train, test, data = fashion_mnist()
    seeds = range(arguments.seeds)
    lines = [HEAD.format(data=data, images=arguments.images, seeds=list(seeds))]
    models = {name: load_or_train(name, arguments.nets, train) for name in arguments.only}
    for name, model in models.items():
        for row in rows(name, model, train, test, seeds, arguments.images):
            print(row, flush=True)
            lines.append(row + "\n")
    if arguments.peers:
        lines.append(PEERS_HEAD.format(images=arguments.images))
        for name, model in models.items():
            images = train[0][: arguments.images]
            for row in peer_rows(name, model, images, test):
                print(row, flush=True)
                lines.append(row + "\n")
    write_page(arguments.output, "".join(lines))


if __name__ == "__main__":
    main()
