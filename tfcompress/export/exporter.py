"""`to_tflite`: exports a Keras model to a verified .tflite file."""

import os
from typing import Any

import keras

from tfcompress.export.arguments import check_arguments, check_model, check_path
from tfcompress.export.convert import full_integer
from tfcompress.export.draft import Draft
from tfcompress.export.exported import exported
from tfcompress.export.passes import finish_each_output, run_passes
from tfcompress.export.samples import (
    all_batches,
    first_batches,
    other_batches,
    sample_arrays,
    verified_samples,
)
from tfcompress.export.streaming import streamed
from tfcompress.export.verify import Limits, TFLiteFile, verify
from tfcompress.graph.private_keras import layers_in
from tfcompress.tflite.runtimes import INT2
from tfcompress.tflite.writer import write
from tfcompress.utils.errors import ExportError
from tfcompress.utils.types import Activations, Path, Rest, Sample, Store
from tfcompress.utils.writers import temporary_folder, write_file

STATIC_ERROR = 0.5  # root mean square of a full-integer file's error, as a share of the output's


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
    streaming: bool = False,
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
            `"static_int16"`: activations in int16 and kernels in 8 bits, for what needs finer
            activations, such as recurrent layers; slow on CPUs, where no delegate takes it.
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
        streaming: whether the states of recurrent layers and of causal convolutions (also of zeros
            before the first step, and a convolution without padding) are inputs and outputs of the
            file, which takes any number of steps. A sequence is given to it piece by
            piece: the states are zeros at first, and then the outputs of the same names. `check`
            has whole sequences.

    Returns:
        The bytes of the file, which are the same each time for the same model. Their attributes
        `samples` and `differences` say on how many samples the file was verified, and the largest
        difference of each output in units of its root mean square.

    Raises:
        ExportError: the model needs an operator that stock LiteRT does not have; or an output of
            the file differs from the model's by more than float32 rounding and, with int8
            activations, four times the effect of noise of one int8 step on them. The message gives
            both numbers and names the layer. With `streaming`: a layer needs the whole sequence.
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
    check_model(model)
    runtime = check_arguments(activations, store, min_runtime, io, check, rest)
    check_path(path)
    whole = exported(model, check, input_signature)
    whole, arrays = streamed(whole, check) if streaming else (whole, sample_arrays(whole, check))
    # Without the rounding that FakeQuant layers do.
    reference = whole.of(full_integer.clip_ranges(whole.model))
    with temporary_folder() as folder:
        draft = Draft(
            reference,
            whole.model,
            os.path.join(folder, "float32.tflite"),
            **{"activations": activations, "store": store, "rest": rest, "io": io},
            runtime=runtime,
            batches=() if check is None else all_batches(reference, arrays),
        )
        run_passes(draft)
        made = TFLiteFile(write(draft.file))
        made.samples = verified_samples(reference, arrays)
        batches = first_batches(reference, arrays), other_batches(reference, arrays, made.samples)
        try:
            made.differences = verify(
                made, Limits(draft), *batches, STATIC_ERROR if draft.static else None
            )
        except RuntimeError as error:  # of LiteRT: an index outside a table, for example
            tables = any("Embedding" in type(one).__name__ for one in layers_in(whole.model))
            ids = " Expected the ids of each Embedding layer to be rows of its table, 0 or more."
            raise ExportError(
                f"LiteRT cannot run the file on these inputs: {error}.{ids * tables}"
            ) from error
    if path is not None:
        write_file(path, made)
    return made


def file_bytes(model: keras.Model, store: Store = "fast", rest: Rest = "float32") -> int:
    """The size of the file with int8 activations; it is neither verified nor written."""
    return len(unverified(model, store, rest))


def unverified(
    model: keras.Model,
    store: Store = "fast",
    rest: Rest = "float32",
    activations: Activations = "int8",
    check: Sample = None,
) -> bytes:
    """The file as of `to_tflite`, which is not verified: for its size and its time."""
    with temporary_folder() as folder:
        reference = exported(model, check).of(full_integer.clip_ranges(model))
        batches = () if check is None else all_batches(reference, sample_arrays(reference, check))
        given = {"activations": activations, "store": store, "rest": rest, "batches": batches}
        path = os.path.join(folder, "float32.tflite")
        draft = Draft(reference, model, path, runtime=INT2, **given)
        run_passes(draft)
        return write(draft.file)


def file_bytes_of_outputs(
    model: keras.Model, store: Store = "fast", rest: Rest = "float32"
) -> list[int]:
    """The sizes of files of each output alone, as of `file_bytes`, in much less time."""
    with temporary_folder() as folder:
        path = os.path.join(folder, "float32.tflite")
        draft = Draft(exported(model), model, path, runtime=INT2, store=store, rest=rest)
        return [len(write(draft.file)) for _ in finish_each_output(draft)]
