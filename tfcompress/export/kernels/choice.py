"""Chooses the form of a kernel: the smallest one that runs at least as fast as float32.

Measured on x86-64 (Zen 4, AVX512-VNNI), one thread, batch 1, as ratios to the stock float32 file
(see docs/export-benchmark.md for the larger table):

| FULLY_CONNECTED [i, o]   | INT8 | INT4 | INT2 | INT8 digits | INT2 digits |
|---|---|---|---|---|---|
| 2048, 2048               | 7.0  | 9.8  | 5.7  | 3.5 | 2.2 |
| 1024, 1024               | 3.6  | 6.3  | 2.8  | 1.7 | 0.9 |
| 512, 512                 | 4.0  | 5.1  | 2.6  | 1.5 | 0.85 |
| 256, 256                 | 2.3  | 2.6  | 1.6  | 0.94 | 0.6 |
| 128, 64                  | 1.3  | 1.3  | 1.1  | 0.55 | 0.4 |
| 64, 10                   | 0.95 | 1.0  | 0.95 | 0.4 | 0.4 |

| CONV_2D                  | INT8 | INT4 im2col (int8) | INT2 im2col (int8) |
|---|---|---|---|
| 3x3 256-256, 28x28       | 4.3  | 2.7 (3.5)  | 1.35 (1.6) |
| 3x3 64-64, 14x14         | 3.9  | 1.9 (2.8)  | 1.2 (1.4) |
| 3x3 32-32, 14x14         | 3.6  | 1.1 (1.8)  | 0.8 (1.1) |
| 5x5 32-64, 14x14         | 4.1  | 2.0 (2.7)  | 1.2 (1.4) |
| 3x3 3-32, 32x32          | 1.4  | | |
| 3x3 2-32, 28x28          | 1.0  | | |
| 3x3 1-32, 28x28          | 0.57 | | |
| 1x1 256-64, 28x28        | 2.3  | 2.2 | 1.2 |
| 1x1 64-256, 14x14        | 2.4  | 2.0 | 1.1 |
| 1x1 64-64, 14x14         | 1.4  | 1.3 | 0.8 |
| 1x1 32-128, 28x28        | 1.5  | 1.3 | 0.8 |
| 1x1 128-32, 14x14        | 0.96 | 1.3 | 0.8 |
| 1x1 32-32, 14x14         | 0.56 | 0.65 | 0.46 |
| 1x1 192-192, 50 steps    | 0.97 | 1.2 | 1.2 |
| 1x1 64-256, 50 steps     | 0.87 | 1.04 | 0.93 |
| depthwise 3x3 64, 28x28  | 0.23 | | |
| depthwise 5x5 256, 14x14 | 0.5  | | |

Forms that store part of the weights, or that the runtime unpacks, measured on Zen 5, also where the
rules below choose another form (docs/export-structured-benchmark.md has the chosen ones):

| FULLY_CONNECTED [n, n]             | 256  | 512  | 1024 | 2048 |
|---|---|---|---|---|
| 1-bit codes                        | 0.8 | 1.1 | 1.5 | 2.5 |
| 3-bit codes                        | 0.9 | 1.2 | 1.5 | 2.3 |
| hashed 1/64, int8 bank             | 0.7 | 0.91 | 0.90 | 1.3 |
| 1x16 int8 blocks, 10% nonzero      | 2.2 | 4.9 | 9.8 | 19 |
| 1x16 int8 blocks, 30% nonzero      | 1.7 | 2.9 | 4.3 | 6.5 |
| 1x4 float32 blocks, 10% nonzero    | 0.6 | 0.8 | 1.2 | 2.1 |
| any 10%, int8, DENSIFY             | 0.9 | 1.2 | 1.5 | 2.5 |
| any 10%, float32, DENSIFY          | 1.0 | 1.0 | 1.0 | 1.0 |

So codes and hashes are used for `"small"` alone: INT2 and INT8 are faster at every size.

INT8 or FLOAT16 that is unpacked when the file is loaded runs at 1.0 everywhere. 4-bit digits are
wrong without the delegate (the builtin INT4 kernel quantizes in its own way).
"""

import math
from typing import Any

import numpy as np

from tfcompress.export.kernels import dense_forms as forms
from tfcompress.export.kernels import sparse_forms as sparse
from tfcompress.export.kernels import tables
from tfcompress.export.kernels import unpacked_forms as unpacked
from tfcompress.export.kernels.kernel import Kernel
from tfcompress.tflite.graph_editor import Graph
from tfcompress.tflite.runtimes import HALF_DEPTHWISE, INT2
from tfcompress.utils.types import Store

LEAST_KERNEL_SIZE = 256  # entries; smaller kernels stay in float32
LEAST_PRODUCT_SIZE = {4: 513, 2: 513, 8: 1024}  # of int8 arithmetic; smaller ones stay exact
MOST_ZERO_POINTS = 2**16, 0.25  # bytes, and of a table's, that a quicker lookup may take
ROW_BYTES = 12  # a float32 scale and an int64 zero point, as if no other kernel shared these
IM2COL_CHANNELS = 32  # from here on the product gains more than the GATHER of the taps costs
UNPACKED = ("TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL")
BLOCK_SHARE = {8: 0.5, 32: 0.12}  # of stored entries, up to which products of blocks are faster
LEAST_SIZE_FOR_BLOCKS = {8: LEAST_KERNEL_SIZE, 32: 2**20}


def choose_form(
    graph: Graph,
    operator: Any,
    kernel: Kernel,
    activations: str,
    store: Store,
    runtime: tuple[int, ...],
) -> Any:
    """Chooses the form of one kernel.

    Args:
        activations: `"int8"` or `"float32"`.
        store: `"fast"` or `"small"`.
        runtime: the oldest LiteRT that must run the file, in numbers.

    Returns:
        `(form, bits)`: a function that rewrites the operator, and the bits of its constant; None
        where the kernel stays as it is.
    """
    if kernel.size < LEAST_KERNEL_SIZE:
        return None
    bits = kernel.bits_for(runtime >= INT2)
    plain = kernel.code in UNPACKED or graph.subgraph is not graph.model.subgraphs[0]
    if kernel.code == "GATHER":
        choices = _table_choices(graph, kernel, bits, activations, store, runtime)
    elif kernel.shared is not None and activations == "float32":
        choices = [(unpacked.computed, 32)] * _computed_once(graph, kernel, store)
    elif plain:
        choices = _plain_choices(kernel, bits, activations)
    elif bits >= 16:
        choices = _float_choices(graph, operator, kernel, store, runtime)
    elif kernel.code == "FULLY_CONNECTED":
        choices = _product_choices(graph, operator, kernel, bits, activations, store)
    elif kernel.code == "CONV_2D":
        choices = _convolution_choices(graph, operator, kernel, bits, activations, store)
    else:
        choices = [(forms.weight_only, 8)]
    sizes = [form_bytes(graph, operator, kernel, *choice) for choice in choices]
    return choices[int(np.argmin(sizes))] if min(sizes, default=np.inf) < 4 * kernel.size else None


def _table_choices(graph, kernel, bits, activations, store, runtime):
    """A table in the bits that hold it; one that has one scale for all rows is a little smaller."""
    if kernel.shared is not None and (store == "small" or activations == "float32"):
        return _shared_table_choices(graph, kernel, activations, store, runtime)
    if bits >= 16:
        return [(forms.weight_only, 16)] * (bits == 16)
    if bits == 8 and tables.has_one_scale(kernel):
        return [(tables.gathered, 8)]
    most, share = MOST_ZERO_POINTS
    quick = store == "fast" and 8 * kernel.units <= min(most, share * kernel.size * bits / 8)
    return [(tables.looked_up if kernel.tied or quick else tables.looked_up_twice, bits)]


def _shared_table_choices(graph, kernel, activations, store, runtime):
    """Forms that store what the layer does: a row of them takes longer to read than a float32 one.

    Nanoseconds per entry that is read (Zen 4): 3 of a codebook, 28 of a hashed table.
    """
    if kernel.tied:  # in the form of the product, so that both read one constant
        int8 = [(tables.looked_up, 8), *_unpacked_choices(kernel)]
        once = [(unpacked.computed, 32)] * _computed_once(graph, kernel, store)
        return once if activations == "float32" else int8
    rounded = [(tables.gathered, 8)] * (activations == "int8")
    if store == "fast" or not kernel.shared.plain:
        return rounded
    if kernel.shared.computed:
        return [(tables.hashed, 32), *rounded]
    return [(tables.clustered, tables.index_bits(kernel, runtime >= INT2)), *rounded]


def _plain_choices(kernel, bits, activations):
    """The forms that hold in any operator and in the body of a loop."""
    if bits >= 16:
        return [(forms.weight_only, 16)] * (bits == 16)
    if kernel.code == "FULLY_CONNECTED" and activations == "int8":
        return [(forms.hybrid, bits)]
    return [(forms.weight_only, 8)]


def _float_choices(graph, operator, kernel, store, runtime):
    depthwise = kernel.code == "DEPTHWISE_CONV_2D"
    half = kernel.bits == 16 and (not depthwise or runtime >= HALF_DEPTHWISE)
    choices = [(forms.weight_only, 16)] * half
    if not depthwise:
        choices.append((sparse.densified, 32))
    if _is_matrix_product(graph, operator, kernel) and (
        store == "small" or _blocks_are_fast(kernel, 32)
    ):
        choices.append((sparse.blocks, 32))
    return choices


def _product_choices(graph, operator, kernel, bits, activations, store):
    small = store == "small"
    if activations == "int8":
        quick = small or kernel.size >= LEAST_PRODUCT_SIZE[bits]
        choices = [(forms.hybrid, bits) if quick else (forms.weight_only, 8)]
        if kernel.tied and kernel.shared is not None:  # see `_shared_table_choices`
            return choices + _unpacked_choices(kernel) * small
        flat = _is_matrix_product(graph, operator, kernel)
        if flat and (small or _blocks_are_fast(kernel, 8)):
            choices.append((sparse.blocks, 8))
        return choices + (
            [(sparse.densified_hybrid, 8), *_unpacked_choices(kernel)] if small else []
        )
    return _exact_product_choices(graph, operator, kernel, bits, store)


def _exact_product_choices(graph, operator, kernel, bits, store):
    whole = [(forms.weight_only, 8), (sparse.densified, 8)]
    if graph.shape(operator.outputs[0]).count(-1) > 1:  # a RESHAPE takes one unknown size at most
        return whole
    if store == "small":
        return [(forms.digits, 2)] * (bits == 2) + [(forms.weight_only, max(bits, 4)), *whole]
    # The sizes from which digits are faster than float32, by the first table above.
    if bits == 2 and kernel.size >= 2**21:
        return [(forms.digits, 2), *whole]
    return [(forms.digits, 8)] if kernel.size >= 200_000 else whole


def _computed_once(graph, kernel, store) -> bool:
    """Whether the runtime may compute a float32 kernel in the first call."""
    plain = kernel.code in UNPACKED or graph.subgraph is not graph.model.subgraphs[0]
    return store == "small" and not plain and kernel.shared.computed


def _unpacked_choices(kernel):
    """The forms that the runtime unpacks into memory."""
    shared = kernel.shared
    # A channel of a computed kernel cannot be negated: its scale must be positive.
    computed = bool(shared is not None and shared.computed and shared.factor.min() > 0)
    codes = unpacked.code_bits(kernel)
    return [(unpacked.computed, 8)] * computed + [(unpacked.coded, codes)] * (codes is not None)


def _convolution_choices(graph, operator, kernel, bits, activations, store):
    channels, options = graph.shape(operator.inputs[0])[-1], operator.builtinOptions
    grouped = kernel.fan_in != channels * math.prod(kernel.taps)
    whole = [(forms.weight_only, 8), (sparse.densified, 8)]
    if activations == "float32" or grouped:
        return whole
    pointwise, units = math.prod(kernel.taps) == 1, kernel.units
    # INT8 saves products and costs a pass over the inputs and outputs: see the second table.
    faster = channels * units >= 26 * (channels + units) if pointwise else channels >= 3
    faster = faster and (store == "small" or kernel.size >= LEAST_PRODUCT_SIZE[8])
    choices = [(forms.hybrid, 8)] if faster else whole
    as_product = pointwise and options.strideH == options.strideW == 1
    if as_product and bits < 8:
        width = channels * units / (channels + units)
        choices += [(forms.pointwise, 4)] * (width >= 40)
        choices += [(forms.pointwise, 2)] * (bits == 2 and width >= 60)
    if store == "fast":
        return choices
    choices = [*choices, (sparse.densified, 8), *_unpacked_choices(kernel)]
    if bits < 8 and channels >= IM2COL_CHANNELS:
        if as_product:
            choices.append((forms.pointwise, bits))
        elif graph.static_space(operator):
            choices.append((forms.im2col, bits))
    return choices


def _is_matrix_product(graph, operator, kernel) -> bool:
    return kernel.code == "FULLY_CONNECTED" and len(graph.shape(operator.inputs[0])) == 2


def _blocks_are_fast(kernel, bits) -> bool:
    share = 8 * sparse.block_bytes(kernel, bits) / (bits * kernel.size)
    return kernel.size >= LEAST_SIZE_FOR_BLOCKS[bits] and share <= BLOCK_SHARE[bits]


def form_bytes(graph: Graph, operator: Any, kernel: Kernel, form: Any, bits: int) -> float:
    """Bytes of a kernel in a form, with the operators around it."""
    row_bytes = 4 if form is tables.looked_up_twice else ROW_BYTES
    scales = 0 if bits in (16, 32) or form is tables.gathered else row_bytes * kernel.units
    if form is unpacked.computed:
        return unpacked.computed_bytes(kernel, bits)
    if form in (tables.clustered, tables.hashed):
        return tables.shared_bytes(kernel, bits)
    if form is unpacked.coded:
        return unpacked.coded_bytes(graph, kernel, bits) + scales
    if form is sparse.blocks:
        return sparse.block_bytes(kernel, bits) + scales + 300
    if form in (sparse.densified, sparse.densified_hybrid):
        return sparse.densified_bytes(kernel, bits) + scales + 300
    around = {forms.weight_only: 150, forms.digits: 4000, forms.im2col: 1500}.get(form, 0)
    if form is forms.im2col:
        around += 4 * math.prod(graph.shape(operator.outputs[0])[1:3])  # places of the pixels
    return kernel.size * bits / 8 + scales + around
