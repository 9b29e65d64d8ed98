"""`to_tflite`: exports a Keras model to a verified .tflite file."""

import os
from functools import partial
from typing import Any

import keras

from tfcompress.export.convert import full_integer
from tfcompress.export.convert.column_factors import restore_kernels
from tfcompress.export.convert.names import drop_names, name_kernels
from tfcompress.export.convert.ranges import static_noise
from tfcompress.export.convert.static_shapes import make_shapes_static
from tfcompress.export.convert.stock import convert
from tfcompress.export.exported import exported
from tfcompress.export.kernels.choice import choose_form
from tfcompress.export.kernels.rewrite import apply_forms, calibrate, find_sites
from tfcompress.export.known_bad import refuse_known_bad, refuse_newer
from tfcompress.export.lower.large_kernels import put_kernels
from tfcompress.export.lower.lower import lower
from tfcompress.export.lower.structured_constants import name_structured_constants
from tfcompress.export.samples import (
    all_batches,
    first_batches,
    other_batches,
    sample_arrays,
    verified_samples,
)
from tfcompress.export.verify import Limits, TFLiteFile, verify
from tfcompress.graph.paths import check_keras_3, walk
from tfcompress.graph.sound import check_finite_weights
from tfcompress.tflite.reader import read
from tfcompress.tflite.runtimes import INT2, parse_version
from tfcompress.tflite.writer import write, write_to
from tfcompress.utils.checks import check_ending, check_store
from tfcompress.utils.types import Activations, Path, Rest, Sample, Store
from tfcompress.utils.writers import temporary_folder, write_file

ACTIVATIONS = ("int8", "float32", "static_int8")
STATIC_ERROR = 0.5  # root mean square of a full-integer file's error, as a share of the output's
RESTS = ("float32", "float16", "int8")


def to_tflite(
    model: keras.Model,
    path: Path | None = None,
    activations: Activations = "int8",
    store: Store = "fast",
    check: Sample = None,
    min_runtime: str = "2.1.2",
    io: str = "float32",
    rest: Rest = "float32",
    input_signature: Any = None,
) -> TFLiteFile:
    """Converts a model to a .tflite file of stock LiteRT operators, its low-bit kernels packed.

    Compressed layers become ordinary ones, and the stock converter makes a float32 file of these.
    Each kernel that 2, 4 or 8 bits hold exactly, up to a scale per output channel, is then stored
    in so many bits; this includes kernels of plain layers, for example those trained with
    `ProxNewton`. It includes kernels in attention and other composite layers, in the bodies of
    loops, and the tables of Embedding layers. Circulant and tile-hashed layers become transforms
    and small products, and kernels of many zeros are stored without the zeros. At last the file is
    run and compared with the model, and it is written only if their outputs agree.

    A kernel [i, o] takes `i * o * bits / 8 + 4 o` bytes, and `8 o` for zero points, which kernels
    with the same number of outputs share; a table of n rows takes `n * o * bits / 8 + 4 n`. Beside
    the model and the file, the export needs memory for a few copies of the largest kernel, and for
    LiteRT to run the float32 file, which is kept in the folder for temporary files.

    Args:
        model: a built `keras.Model` of any kind. Inputs and outputs keep their names: those of
            `keras.Input`s, of the layers that give outputs, or keys of a dict; in a subclassed
            model those of the arguments of `call`, and `"output"`.
        path: the path of the file to write, or None. A file there is replaced at the very end.
        activations: how the layers stored in 8 bits or fewer compute. `"int8"`: LiteRT rounds
            their inputs to int8 as it runs, which is fastest and changes outputs by a few percent
            of their root mean square; the numbers of codebooks, hashed layers and circulant
            convolutions are rounded to 8 bits. `"float32"`: outputs agree to float32 accuracy.
            `"static_int8"`: everything is in int8, for NPUs and microcontrollers, with the ranges
            of `layers.FakeQuant` layers or those measured on `check`; layers that were not
            compressed are rounded to 8 bits too.
        store: `"fast"`: the smallest form of each kernel that runs at least as fast as float32.
            `"small"`: the fewest bytes. 2- and 4-bit convolutions then run as a GATHER and a matrix
            product, kernels of up to 5 bits are unpacked when the file is loaded (0.05 seconds for
            4 million weights), and kernels of hashed layers and circulant convolutions in the first
            call (0.4 seconds).
        check: sample inputs in the structure of the model's inputs, on which the file is verified
            and ranges are measured; None takes random numbers. The file is verified on all of them
            up to 1000, on fewer where samples times weights exceed 4 billion (but 32 at least).
        min_runtime: the oldest LiteRT that must run the file correctly, at least `"1.2"`. 2-bit
            kernels need 2.1.2 and are stored in 4 bits for older ones; float16 kernels of depthwise
            convolutions need 1.4.
        io: the type of inputs and outputs, `"float32"`, or `"int8"` in a `"static_int8"` file.
        rest: the type of kernels of at least 1024 entries that nobody compressed, so that fewer
            bytes do not hold them exactly: `"float32"`; `"float16"`; or `"int8"`, with a scale per
            output channel. These run in int8 arithmetic where that is not slower, and are unpacked
            when the file is loaded elsewhere. Tables that are looked up get one scale.
        input_signature: the inputs, as objects with a shape and a dtype (`keras.InputSpec`,
            `tf.TensorSpec`), in the structure of the model's inputs or as a dict
            `{argument of call: inputs}`. None takes those of the graph; for a subclassed model
            those of `check`, or of the call that built it. A batch size given here is fixed in the
            file.

    Returns:
        The bytes of the file, which are the same each time for the same model. Their attributes
        `samples` and `differences` say on how many samples the file was verified, and the largest
        difference of each output in units of its root mean square.

    Raises:
        ExportError: the model needs an operator that stock LiteRT does not have; or an output of
            the file differs from the model's by more than float32 rounding and, with int8
            activations, four times the effect of noise of one int8 step on them. The message gives
            both numbers and names the layer.
        ValueError: an argument is wrong, the inputs are not known, or a weight or a sample is NaN
            or infinite.
        WriteError: the file cannot be written.

    Example:

    >>> import keras, tfcompress as tfc
    >>> model = keras.Sequential([keras.Input((256,)), keras.layers.Dense(128, name="fc")])
    >>> small = tfc.swap(model, {"fc": tfc.layers.BinaryDense})
    >>> len(tfc.to_tflite(small)) < len(tfc.to_tflite(model)) / 8
    True
    """
    _check_model(model)
    runtime = _check_arguments(activations, store, min_runtime, io, check, rest)
    _check_path(path)
    whole = exported(model, check, input_signature)
    arrays = sample_arrays(whole, check)
    # Without the rounding that FakeQuant layers do.
    reference = whole.of(full_integer.clip_ranges(model))
    with temporary_folder() as folder:
        plain = os.path.join(folder, "float32.tflite")
        static = activations == "static_int8"
        if static:
            blob, rounded, sites = _full_integer(plain, reference, model, arrays, io, runtime)
        else:
            choose = partial(choose_form, activations=activations, store=store, runtime=runtime)
            batches = [] if check is None else all_batches(reference, arrays)
            blob, rounded, sites = _hybrid(plain, reference, choose, rest, batches)
        refuse_known_bad(read(blob))
        refuse_newer(blob, runtime)
        count = verified_samples(reference, arrays)
        first, others = first_batches(reference, arrays), other_batches(reference, arrays, count)
        limits = Limits(reference, plain, rounded, sites)
        made = TFLiteFile(blob)
        made.differences = verify(blob, limits, first, others, STATIC_ERROR if static else None)
        made.samples = count
    if path is not None:
        write_file(path, made)
    return made


def _hybrid(plain, reference, choose, rest, batches) -> tuple:
    """A file with float32 inputs and outputs, the tensors that it rounds, and its sites."""
    sites = _write_float32(plain, reference, choose, rest)
    if batches:
        sites = calibrate(plain, sites, batches)
    rounded = {t for site in sites if not site.graph for t in site.inexact}
    return apply_forms(plain, sites), rounded, sites


def _full_integer(plain, reference, model, arrays, io, runtime) -> tuple:
    """A file with int8 activations, the tensors that it rounds, and the sites in its loops."""
    lowered = reference.of(lower(reference.model))
    _write_model(plain, _cleaned(convert(lowered), lowered.model))
    batches = all_batches(reference, arrays)
    rounded = static_noise(plain, batches, model)
    lowered = lowered if reference.model is model else reference.of(lower(model))
    file = full_integer.convert_static(lowered, batches, io)
    full_integer.store_exact(file, plain, runtime >= INT2)
    blob = write(_cleaned(file, lowered.model))
    return (
        apply_forms(blob, _in_loops(read(blob), runtime)),
        rounded,
        _in_loops(read(plain), runtime),
    )


def _in_loops(file, runtime) -> list:
    """The kernels in loops, whose activations have no ranges: they compute as in other files."""
    choose = partial(choose_form, activations="int8", store="fast", runtime=runtime)
    return [site for site in find_sites(file, choose, {}, "int8") if site.graph]


def file_bytes(model: keras.Model, store: Store = "fast", rest: Rest = "float32") -> int:
    """The size of the file with int8 activations; it is neither verified nor written."""
    with temporary_folder() as folder:
        plain = os.path.join(folder, "float32.tflite")
        reference = exported(model).of(full_integer.clip_ranges(model))
        choose = partial(choose_form, activations="int8", store=store, runtime=INT2)
        sites = _write_float32(plain, reference, choose, rest)
        return len(apply_forms(plain, sites))


def _write_float32(path, reference, choose, rest) -> list:
    """Writes the float32 file of a model, and finds the kernels that fewer bits hold."""
    for thinned in (True, False):  # whole, if the converter has changed a layer without its kernel
        lowered = lower(reference.model, choose.keywords["store"], thinned)
        file = convert(reference.of(lowered))
        if put_kernels(file, lowered):
            break
    _write_model(path, _cleaned(file, lowered))
    layers = {path: layer for path, (layer, _) in walk(reference.model).items()}
    return find_sites(read(path), choose, layers, rest)


def _cleaned(file, lowered):
    make_shapes_static(file)
    name_kernels(file, lowered)
    restore_kernels(file, lowered)
    name_structured_constants(file, lowered)
    drop_names(file)
    return file


def _write_model(path, file):
    with open(path, "wb") as opened:
        write_to(opened, file)


def _check_model(model):
    check_keras_3(model)
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "Export needs the TensorFlow backend of Keras. Save the model, and export it in a "
            f"process with KERAS_BACKEND=tensorflow. Received: {keras.backend.backend()!r}"
        )
    check_finite_weights(model)


def _check_arguments(activations, store, min_runtime, io, check, rest) -> tuple[int, ...]:
    if activations not in ACTIVATIONS:
        raise ValueError(f"`activations` must be one of {ACTIVATIONS}. Received: {activations!r}")
    check_store(store)
    if rest not in RESTS:
        raise ValueError(f"`rest` must be one of {RESTS}. Received: {rest!r}")
    if activations == "static_int8" and check is None:
        raise ValueError(
            "`activations='static_int8'` measures its ranges on samples: give `check`."
        )
    if io not in full_integer.IO_TYPES or (io == "int8" and activations != "static_int8"):
        raise ValueError(
            "`io` must be 'float32', or 'int8' together with `activations='static_int8'`. "
            f"Received: io={io!r}, activations={activations!r}"
        )
    return parse_version(min_runtime)


def _check_path(path):
    if path is None:
        return
    check_ending(path, ".tflite")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise ValueError(f"The folder of `path` does not exist. Received: {os.fspath(path)!r}")
