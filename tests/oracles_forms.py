"""A small network for every form that the exporter can write."""

from dataclasses import dataclass, field
from functools import partial

from keras import layers
from oracles_export import BINARY, EIGHT_BITS, FOUR_BITS, TERNARY
from oracles_networks import (
    chain,
    compressed,
    conv,
    dense,
    halves,
    inputs_of,
    learned_ranges,
    network,
    normalized,
    plain,
    small_cnn,
    tied,
)
from oracles_structured import circulant, codebook, hashed, pruned

import tfcompress as tfc

EXACT_SITES = {
    *("digits 2", "digits 8", "weight_only 4", "weight_only 8", "weight_only 16"),
    *("densified 8", "densified 32", "blocks 32", "computed 32"),
}
STATIC = {"activations": "static_int8"}
SMALL, EXACT = {"store": "small"}, {"activations": "float32"}


@dataclass(frozen=True)
class Form:
    """A network and how it is exported.

    Attributes:
        make: gives the network.
        options: of `to_tflite`.
        sites: what the kernels become, `"form bits"` (see `export.kernels.choice`).
        limit: the largest error in units of the output's rms; None: from the steps of rounding.
        samples: how many inputs the exporter gets to measure ranges on.
    """

    make: object
    options: dict = field(default_factory=dict)
    sites: tuple[str, ...] = ()
    limit: float | None = None
    samples: int = 0

    @property
    def exact(self) -> bool:
        """Whether it computes in float32 throughout."""
        return self.limit is None and set(self.sites) <= EXACT_SITES

    def export(self, model, **options) -> bytes:
        check = {"check": inputs_of(model, self.samples)} if self.samples else {}
        return tfc.to_tflite(model, **self.options, **check, **options)


def _low_bit():
    kinds = tfc.layers
    yield "binary", Form(lambda: dense(64, 48, BINARY, activation="relu"), {}, ("hybrid 2",))
    yield "ternary", Form(lambda: dense(256, 128), {}, ("hybrid 2",))
    yield (
        "ternary for old runtimes",
        Form(lambda: dense(256, 128), {"min_runtime": "1.2"}, ("hybrid 4",)),
    )
    yield "ternary, rows of 66", Form(lambda: dense(66, 40), {}, ("hybrid 4",))
    yield "ternary, rows of 65", Form(lambda: dense(65, 40), {}, ("hybrid 8",))
    yield "four bits", Form(lambda: dense(64, 37, FOUR_BITS), {}, ("hybrid 4",))
    yield "eight bits", Form(lambda: dense(63, 40, EIGHT_BITS), {}, ("hybrid 8",))
    yield (
        "log levels",
        Form(
            lambda: compressed((64,), kinds.QuantizedDense(40, bits=4, levels="log")),
            {},
            ("hybrid 8",),
        ),
    )
    yield (
        "over a sequence",
        Form(lambda: conv((9, 64), TERNARY, 32, kind=layers.Dense), {}, ("hybrid 2",)),
    )
    yield (
        "digits of 2 bits",
        Form(lambda: dense(256, 128, activation="relu"), SMALL | EXACT, ("digits 2",)),
    )
    yield "digits of 8 bits", Form(lambda: dense(500, 404, FOUR_BITS), EXACT, ("digits 8",))
    yield (
        "unpacked 4 bits",
        Form(lambda: dense(64, 40, FOUR_BITS), SMALL | EXACT, ("weight_only 4",)),
    )
    yield "unpacked 8 bits", Form(lambda: dense(63, 40, EIGHT_BITS), EXACT, ("weight_only 8",))
    yield "float16", Form(lambda: halves(plain((64,), layers.Dense(40))), {}, ("weight_only 16",))
    yield "float32", Form(lambda: plain((64,), layers.Dense(40)), {}, ())


def _convolutions():
    image = 7, 6, 32
    same = {"padding": "same", "activation": "relu"}
    depth = layers.DepthwiseConv2D
    yield "conv", Form(lambda: conv(image, EIGHT_BITS, 24, 3, strides=2, **same), {}, ("hybrid 8",))
    yield (
        "conv, dilated",
        Form(lambda: conv(image, TERNARY, 24, 2, dilation_rate=2), {}, ("hybrid 8",)),
    )
    yield (
        "conv, grouped",
        Form(lambda: conv(image, TERNARY, 32, 3, groups=4), {}, ("weight_only 8",)),
    )
    yield (
        "conv, one dimension",
        Form(lambda: conv((9, 32), TERNARY, 24, 3, kind=layers.Conv1D), {}, ("hybrid 8",)),
    )
    yield "conv, exact", Form(lambda: conv(image, EIGHT_BITS, 24, 3), EXACT, ("weight_only 8",))
    yield (
        "conv, float16",
        Form(lambda: halves(plain(image, layers.Conv2D(24, 3))), {}, ("weight_only 16",)),
    )
    yield "depthwise", Form(lambda: conv(image, TERNARY, 3, kind=depth), {}, ("weight_only 8",))
    yield (
        "depthwise, float16",
        Form(lambda: halves(plain(image, depth(3))), {}, ("weight_only 16",)),
    )
    for bits, levels in (2, TERNARY), (4, FOUR_BITS):
        yield (
            f"1x1 of {bits} bits",
            Form(
                lambda levels=levels: conv((5, 4, 64), levels, 80, 1, activation="relu"),
                SMALL,
                (f"pointwise {bits}",),
            ),
        )
        yield (
            f"im2col of {bits} bits",
            Form(
                lambda levels=levels: conv((7, 6, 64), levels, 64, 3, strides=2, **same),
                SMALL,
                (f"im2col {bits}",),
            ),
        )
    yield (
        "im2col, dilated",
        Form(lambda: conv((8, 9, 64), TERNARY, 64, (2, 3), dilation_rate=2), SMALL, ("im2col 2",)),
    )
    for bits, levels, channels in (2, TERNARY, 192), (4, FOUR_BITS, 128):
        yield (
            f"im2col in int8 of {bits} bits",
            Form(
                lambda i=channels, levels=levels: conv((4, 4, i), levels, 192, 3),
                SMALL,
                (f"im2col_int8 {bits}",),
                0.06,  # the output is rounded too
                samples=24,
            ),
        )


def _unpacked():
    kinds = tfc.layers
    for size, bits in (2, 1), (4, 2), (8, 3), (16, 4), (32, 5):
        yield (
            f"codes of {bits} bits",
            Form(
                lambda size=size: codebook(kinds.CodebookDense, (125,), size, 99),
                SMALL,
                (f"coded {bits}",),
            ),
        )
    yield (
        "binary codes",
        Form(
            lambda: normalized(compressed((256,), kinds.BinaryDense(256))),
            SMALL,
            ("coded 1",),
            0.1,
        ),
    )
    yield (
        "codes of a convolution",
        Form(
            lambda: codebook(kinds.CodebookConv2D, (6, 6, 64), 8, 64, 3, padding="same"),
            SMALL,
            ("coded 3",),
        ),
    )
    yield (
        "binary codes of a convolution",
        Form(lambda: compressed((6, 6, 64), kinds.BinaryConv2D(128, 3)), SMALL, ("coded 1",)),
    )
    yield (
        "rounded codebook",
        Form(lambda: codebook(kinds.CodebookDense, (125,), 8, 99), {}, ("hybrid 8",)),
    )
    yield "hashed", Form(lambda: hashed(128, 96, buckets=300), SMALL, ("computed 8",))
    yield (
        "hashed in runs",
        Form(lambda: hashed(129, 97, ratio=32, blocks=8), SMALL, ("computed 8",)),
    )
    yield (
        "hashed and normalized",
        Form(lambda: normalized(hashed(160, 128, buckets=300)), SMALL, ("computed 8",), 0.1),
    )
    yield (
        "hashed, exact",
        Form(lambda: hashed(128, 96, buckets=300, seed=7), SMALL | EXACT, ("computed 32",)),
    )
    yield (
        "circulant channels",
        Form(
            lambda: compressed((6, 6, 48), kinds.CirculantConv2D(64, 3, block=16)),
            SMALL,
            ("computed 8",),
        ),
    )
    yield "rounded bank", Form(lambda: hashed(128, 96, buckets=300), {}, ("hybrid 8",))


def _sparse():
    kind, image = layers.Conv2D, (5, 5, 64)
    floats = {"integers": False}
    yield "blocks of 16", Form(lambda: pruned((272,), 16, 0.1), {}, ("blocks 8",))
    yield (
        "blocks of 4",
        Form(lambda: pruned((508,), 4, 0.1, arguments=(96,), **floats), SMALL, ("blocks 32",)),
    )
    yield "any zeros", Form(lambda: pruned((511,), 1, 0.2, **floats), {}, ("densified 32",))
    yield (
        "any zeros of integers",
        Form(lambda: pruned((500,), 1, 0.1), SMALL, ("densified_hybrid 8",)),
    )
    yield (
        "any zeros of integers, exact",
        Form(lambda: pruned((500,), 1, 0.1), SMALL | EXACT, ("densified 8",)),
    )
    yield (
        "any zeros of float16",
        Form(lambda: halves(pruned((510,), 1, 0.1, **floats)), {}, ("densified 32",)),
    )
    yield (
        "zeros of a convolution",
        Form(
            lambda: pruned(image, 1, 0.1, kind=kind, arguments=(48, 3), **floats),
            {},
            ("densified 32",),
        ),
    )
    yield (
        "zeros of an integer convolution",
        Form(lambda: pruned(image, 1, 0.1, kind=kind, arguments=(48, 3)), SMALL, ("densified 8",)),
    )


def _structured():
    def tiles():
        return compressed((500,), tfc.layers.TileHashedDense(512, tile=32, tiles=4))

    for store in "fast", "small":
        for name, make in {
            "circulant": lambda: circulant(256, 256),
            "circulant of odd sizes": lambda: circulant(600, 300, signs=False, activation="relu"),
            "circulant blocks": lambda: circulant(512, 448, block=64),
            "circulant blocks of 100": lambda: circulant(500, 300, block=100, use_bias=False),
        }.items():
            yield f"{name}, {store}", Form(make, {"store": store})
        yield f"tiles, {store}", Form(tiles, {"store": store}, ("hybrid 2",), 0.1)
        sites = {
            "fast": ("hybrid 8", "hybrid 8", "hybrid 2", "hybrid 4"),
            "small": ("coded 1", "computed 8", "hybrid 2", "coded 3"),
        }
        yield f"network, {store}", Form(network, {"store": store}, sites[store], 0.12)
    yield "tiles, exact", Form(tiles, EXACT, ("densified 8",))


def _chains():
    kinds, image = tfc.layers, (6, 6, 32)
    yield "low rank", Form(lambda: compressed((256,), kinds.LowRankDense(128, rank=16)))
    for bits in 8, 4:
        parts = {layers.Dense: kinds.QuantizedDense.using(bits=bits)}
        make = partial(chain, (256,), layers.Dense, kinds.LowRankDense.using(rank=16), parts)
        yield f"low rank in int{bits}", Form(make, {}, (f"hybrid {bits}",) * 2, 0.1)
    parts = {
        layers.Conv2D: kinds.QuantizedConv2D.using(bits=8),
        layers.DepthwiseConv2D: kinds.QuantizedDepthwiseConv2D.using(bits=8),
    }
    fast, slow = "hybrid 8", "weight_only 8"  # slow: 1x1 of few channels, depthwise
    for name, kind, sites in (
        ("low-rank convolution", kinds.LowRankConv2D, (fast, slow)),
        ("spatial", kinds.SpatialConv2D, (fast, fast)),
        ("CP", kinds.CPConv2D, (slow, slow)),
        ("Tucker", kinds.TuckerConv2D, (slow, fast, slow)),
    ):
        yield name, Form(lambda kind=kind: plain(image, kind(48, 3, rank=12)))
        make = partial(chain, image, layers.Conv2D, kind.using(rank=12), parts)
        yield f"{name} in int8", Form(make, {}, sites, 0.1)


def _static():
    for bits, levels in (2, TERNARY), (4, FOUR_BITS), (8, EIGHT_BITS):
        make = partial(dense, 64, 40, levels, activation="relu")
        yield f"static, {bits} bits", Form(make, STATIC, limit=0.08, samples=24)
    yield "static, learned ranges", Form(learned_ranges, STATIC, limit=0.08, samples=24)
    yield "static network", Form(small_cnn, STATIC, limit=0.05, samples=24)
    full = STATIC | {"io": "int8"}
    yield "static network of int8 inputs", Form(small_cnn, full, limit=0.05, samples=24)


def _loops_and_others():
    """Kernels in the body of a loop, tables, and operators that get unpacked kernels."""
    sequences = (12, 16)

    def recurrent(bits):
        model = plain(sequences, layers.LSTM(24, return_sequences=True))
        return tfc.swap(model, tfc.layers.rounding(bits)) if bits < 32 else model

    yield "recurrent", Form(partial(recurrent, 32), limit=1e-5)
    for bits in (8, 4, 2):
        sites = (f"hybrid {bits}",) * 2
        yield f"recurrent, {bits} bits", Form(partial(recurrent, bits), {}, sites, 0.1)
    for bits, form in (8, "gathered"), (4, "looked_up_twice"), (2, "looked_up_twice"):
        rounded = tfc.layers.rounding(bits)
        make = partial(lambda r: tfc.swap(plain((6,), layers.Embedding(80, 16)), r), rounded)
        yield f"table, {bits} bits", Form(make, {}, (f"{form} {bits}",), 1e-5)
    wide = partial(plain, (6,), layers.Embedding(40, 256))
    make = partial(lambda make: tfc.swap(make(), tfc.layers.rounding(4)), wide)
    yield "table of wide rows, 4 bits", Form(make, {}, ("looked_up 4",), 1e-5)
    kinds = tfc.layers
    for size, bits in (4, 2), (16, 4), (200, 8):
        make = partial(codebook, kinds.CodebookEmbedding, (6,), size, 80, 16)
        yield f"table of {size} numbers", Form(make, SMALL | EXACT, (f"clustered {bits}",), 1e-6)
    make = partial(compressed, (6,), kinds.HashedEmbedding(80, 16, ratio=16), bias=False)
    yield "hashed table", Form(make, SMALL | EXACT, ("hashed 32",), 1e-6)
    make = partial(codebook, kinds.CodebookReversibleEmbedding, (6,), 16, 400, 64)
    make = partial(lambda make: tied(make().layers[-1]), make)
    yield "tied table of 16 numbers", Form(make, SMALL, ("coded 4",) * 2, 0.1)
    for name, options, bits in ("", {}, 8), (", exact", EXACT, 32):
        limit = 1e-5 if options else 0.1
        sites = (f"computed {bits}",) * 2
        make = partial(lambda kind: tied(kind(400, 64)), kinds.HashedReversibleEmbedding)
        yield f"tied hashed table{name}", Form(make, SMALL | options, sites, limit)
    others = {
        "transposed convolution": ((5, 6, 8), layers.Conv2DTranspose(8, 3, strides=2)),
        "convolution in three dimensions": ((4, 5, 6, 4), layers.Conv3D(8, 3)),
    }
    for name, (shape, layer) in others.items():
        kind = getattr(tfc.layers, f"Quantized{type(layer).__name__}")
        eight = {type(layer): kind.using(bits=8)}
        thin = tfc.layers.rounding(8)  # to float16
        for end, rules, bits in ("", eight, 8), (", thin", thin, 16):
            make = partial(lambda r, *parts: tfc.swap(plain(*parts), r), rules, shape, layer)
            yield name + end, Form(make, {}, (f"weight_only {bits}",), 1e-5)


def every_form():
    groups = (_low_bit, _convolutions, _unpacked, _sparse, _structured, _chains, _static)
    for group in (*groups, _loops_and_others):
        yield from group()


FORMS = dict(every_form())
