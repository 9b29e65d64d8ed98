"""What layers cost in the unit of a target: bits, bytes of a file or an archive, or MACs."""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfcompress import layers as forms
from tfcompress.layers.core.maker import Composed, Maker
from tfcompress.layers.core.ordinary import kernel_bits, kernel_of
from tfcompress.layers.discrete.latent import GridKernel
from tfcompress.layers.factorized.rank import Ranked
from tfcompress.measure.macs import layer_macs, matrices
from tfcompress.utils.arrays import to_numpy
from tfcompress.utils.types import Activations, InputShape, Rest, Store

PLAIN = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D)
MOST_ENTRIES = 2**24  # of weights that are exported together
EMPTY_FILE_BYTES = 1200  # of a file with one small operation


class Estimate(NamedTuple):
    """What can be told of a form before it is fitted.

    Attributes:
        cost: in the unit of the target.
        bits: of the stored kernels.
        rank: of the kernel, at most; None if nothing bounds it.
    """

    cost: float
    bits: int
    rank: int | None


def cost_function(
    target: str,
    shapes: Any,
    store: Store = "fast",
    known: dict[str, Any] | None = None,
    rest: Rest = "float32",
) -> Callable[..., int]:
    """A function that gives the cost of a chain of layers in the place of a layer.

    Args:
        target: see `planner.plan`.
        shapes: the shapes of the layer's inputs, one for each of its uses.
        store, rest: of the file, see `to_tflite`; its activations are int8.
        known: the bytes of chains that were exported already, to which others are added.
    """
    if target == "bits":
        return lambda chain: sum(map(kernel_bits, chain))
    if target == "macs":
        return lambda chain: sum(_macs(chain, shape) for shape in shapes)
    if target == "archive":
        return lambda chain: sum(map(_archive_bytes, chain))
    known = {} if known is None else known

    def in_file(chain):
        if not all(map(_is_as_its_kind, chain)):
            return _file_bytes(chain, shapes[0], store, rest)
        kind = _kind_of_chain(chain, shapes[0])
        if kind not in known:
            known[kind] = _file_bytes(chain, shapes[0], store, rest)
        return known[kind]

    return in_file


def estimate_function(
    target: str, shapes: Any, store: Store, known: dict[str, Any], rest: Rest = "float32"
) -> Callable[..., list[Estimate | None]] | None:
    """A function of a layer and makers that gives the `Estimate` of each form.

    That of a form is None where the maker cannot tell. Bits and MACs are exact. The bytes of a file
    are those with random weights. What an archive's coder makes of a kernel only a fit can tell, so
    that there is no function.

    Args:
        target, shapes, store, rest: see `cost_function`.
        known: what is known of other layers, to which this is added.
    """
    if target == "archive":
        return None
    count = cost_function(target, shapes, store)

    def estimates(layer, makers):
        kinds = [repr((shapes, _kind(layer), maker)) for maker in makers]
        made = {}
        for kind, maker in zip(kinds, makers, strict=True):
            if kind not in known:
                bare, known[kind] = unfitted(maker, layer), None
                made |= {} if bare is None else {kind: (bare, unfitted_chain(maker, bare))}
        chains = [chain for _, chain in made.values()]
        of_kinds = [_kind_of_chain(chain, shapes[0]) for chain in chains]
        if target == "tflite":
            new = {k: chain for k, chain in zip(of_kinds, chains, strict=True) if k not in known}
            sizes = _bytes_of_each([*new.values()], shapes[0], store, rest)
            known.update(zip(new, sizes, strict=True))
        for (kind, (bare, chain)), of_kind in zip(made.items(), of_kinds, strict=True):
            cost = known[of_kind] if target == "tflite" else count(chain)
            bits = cost if target == "bits" else sum(map(kernel_bits, chain))
            known[kind] = Estimate(cost, bits, _largest_rank(bare))
        return [known[kind] for kind in kinds]

    return estimates


def _kind_of_chain(chain, shape) -> str:
    return repr((shape, *map(_kind, chain)))


def _kind(part):
    """All that the file of a layer depends on but its weights."""
    config = {key: value for key, value in part.get_config().items() if key != "name"}
    return type(part).__name__, config, [tuple(v.shape) for v in part.weights]


def _is_as_its_kind(part) -> bool:
    """Whether a layer's file is as large as with any other kernel.

    No form that leaves out zeros is smaller then: blocks of 16 take at least 17 bytes. And with
    more than half of its levels in use, no grid of half the bits holds the kernel. A float32 kernel
    is on no grid.
    """
    from tfcompress.export.kernels.integer_grid import find_grid
    from tfcompress.export.kernels.kernel import MOST_NONZERO, kernel_rows

    if type(part) in PLAIN and kernel_of(part).dtype == "float32":
        rows = kernel_rows(to_numpy(kernel_of(part)), -1)
        half = np.array_equal(rows.astype("float16"), rows)
        dense = np.count_nonzero(rows) > MOST_NONZERO * rows.size
        return dense and not half and find_grid(rows) is None
    if not isinstance(part, GridKernel):
        return False
    codes, bits = part.stored()[part.codes_name], getattr(part, "level_bits", 1)
    left = np.count_nonzero(part.decode(codes))
    return 17 / 16 * left >= codes.size * bits / 8 and len(np.unique(codes)) > 2**bits / 2


def _largest_rank(layer):
    """The rank that no kernel of a low-rank form exceeds."""
    if not isinstance(layer, Ranked) or hasattr(layer, "output_padding"):
        return None
    last = list(layer.parts.values())[-1].shape
    return last[0] if len(last) == 2 else None


def unfitted_chain(maker: Maker, bare: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a maker makes of one, with random weights; `bare` is the first step's."""
    if not isinstance(maker, Composed):
        return [bare]
    return [unfitted(maker.second(part), part) or part for part in bare.to_ordinary()]


def unfitted(maker: Any, layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The layer that a maker makes, with random weights; None if that takes the kernel itself.

    The weights are the same in each process, so that workers find the same sizes.
    """
    if not isinstance(maker, Maker):
        return None
    state = random.getstate()
    random.seed(0)  # of which Keras takes the seeds of initializers
    try:
        one = maker.first_step().chosen_for(layer)
        bare = one(type(layer).from_config(layer.get_config()))
        bare.build(layer.get_build_config()["input_shape"])
    except ValueError:
        return None
    finally:
        random.setstate(state)
    return bare


def _macs(chain, shape):
    total = 0
    for part in chain:
        total += layer_macs(part, shape)
        shape = part.compute_output_shape(shape)
    return total


def _archive_bytes(part) -> int:
    """The bytes of a layer's arrays behind the entropy coder, without names and headers."""
    from tfcompress.archive.entropy import encode
    from tfcompress.archive.rounding import FACTORS, rounded

    compressed = isinstance(part, forms.CompressedLayer)
    arrays = part.stored() if compressed else {v.path: to_numpy(v) for v in matrices(part)}
    found = (rounded(np.asarray(a), each=name in FACTORS) for name, a in arrays.items())
    return sum(len(blob) for array in found for blob in encode(array)[1])


def _file_bytes(chain, shape, store, rest="float32") -> int:
    """The bytes of a chain in a file of its own, without the bytes that any file has."""
    return max(len(file_of(chain, shape, store, rest)) - EMPTY_FILE_BYTES, 0)


def _bytes_of_each(chains, shape, store, rest) -> list[int]:
    """`_file_bytes` of each chain. Those whose kernels fit into memory share an export."""
    from tfcompress.export.exporter import file_bytes_of_outputs

    sizes, group, entries = [], [], 0
    for chain in [*chains, None]:
        more = 0 if chain is None else sum(math.prod(v.shape) for p in chain for v in p.weights)
        if group and (chain is None or entries + more > MOST_ENTRIES):
            sizes += file_bytes_of_outputs(_branches(group, shape), store, rest)
            group, entries = [], 0
        group, entries = [*group, chain], entries + more
    return [max(size - EMPTY_FILE_BYTES, 0) for size in sizes]


def _branches(chains, shape):
    """A model with an output for each chain, of layers with names of the same length."""
    inputs, outputs, count = _input_of(chains[0], shape), [], itertools.count()
    for chain in chains:
        x = inputs
        for part in chain:
            config = {**part.get_config(), "name": f"{part.name[:-2]}{next(count):02d}"}
            new = type(part).from_config(config)
            x = new(x)
            new.set_weights(part.get_weights())
        outputs.append(x)
    return keras.Model(inputs, outputs)


def _input_of(chain, shape):
    dtype = "int32" if hasattr(chain[0], "input_dim") else None  # ids of a table
    return keras.Input(shape[1:], dtype=dtype, name="x")  # a number would take bytes, too


def file_of(
    chain: Sequence[keras.layers.Layer],
    shape: InputShape,
    store: Store,
    rest: Rest = "float32",
    activations: Activations = "int8",
) -> bytes:
    """A file of nothing but some layers, one behind the other.

    Args:
        chain: built layers, which stay as they are.
        shape: of the input.
        store, rest, activations: see `to_tflite`; ranges are those of random numbers.
    """
    from tfcompress.export import unverified

    layers = [type(part).from_config(part.get_config()) for part in chain]
    model = keras.Sequential([_input_of(layers, shape), *layers])
    for new, part in zip(layers, chain, strict=True):
        new.set_weights(part.get_weights())
    check = None
    if activations == "static_int8":
        shape, ids = (8, *shape[1:]), hasattr(chain[0], "input_dim")
        check = np.random.default_rng(0).standard_normal(shape, "float32")
        check = np.zeros(shape, "int32") if ids else check
    return unverified(model, store, rest, activations, check)
