"""The commands that carry out one method: quantize, prune, distill, plan."""

from pathlib import Path
from typing import Annotated

import typer

from tfcompress_cli.app import app
from tfcompress_cli.options import Data, Json, Latency, Model, Output, SomeData
from tfcompress_cli.quiet import errors_as_messages


@app.command()
def quantize(
    model: Model,
    output: Output,
    bits: Annotated[int, typer.Option(help="Of weights: 16, or 8 to 2; small kernels: more.")] = 8,
    data: SomeData = None,
    json: Json = False,
) -> None:
    """Round all kernels; with --data, each to what does least to the outputs of its layer."""
    with errors_as_messages():
        from tfcompress.cli.data import load_data
        from tfcompress.cli.files import check_output, load_model, print_file, write_model
        from tfcompress.layers import rounding
        from tfcompress.rewriting.swap import swap

        check_output(output)
        rules = rounding(bits)
        loaded = load_model(model)
        seen = None if data is None else load_data(data, loaded)
        small = swap(loaded, rules, data=seen)
        write_model(small, output, rest="float16" if bits == 16 else "int8")
        print_file(output, json)


@app.command()
def prune(
    model: Model,
    output: Output,
    sparsity: Annotated[float, typer.Option(help="The share of the weights to set to zero.")],
    data: SomeData = None,
    scope: Annotated[
        str, typer.Option(help="global: the share of all weights; layer: of each layer.")
    ] = "layer",
    json: Json = False,
) -> None:
    """Set the smallest weights to zero; with --data, by Optimal Brain Surgeon.

    Zeros make a .tfc archive or a zipped file smaller. To keep them, train on with
    `tfcompress.callbacks.Prune`.
    """
    with errors_as_messages():
        from tfcompress.cli.data import load_data
        from tfcompress.cli.files import check_output, load_model, print_file, write_model
        from tfcompress.pruning.one_shot import prune as run

        check_output(output)
        loaded = load_model(model)
        seen = None if data is None else load_data(data, loaded)
        score = "magnitude" if data is None else "obs"
        small = run(loaded, sparsity, data=seen, score=score, scope=scope)
        write_model(small, output)
        print_file(output, json)


@app.command()
def distill(
    model: Annotated[Path, typer.Argument(help="The student: .keras, .h5 or .tfc.")],
    teacher: Annotated[Path, typer.Option(help="The teacher: .keras, .h5 or .tfc.")],
    output: Output,
    data: Data,
    epochs: Annotated[int, typer.Option(help="Epochs of training.")] = 3,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-3,
    loss: Annotated[
        str | None, typer.Option(help="A Keras loss of the labels. Else that of the teacher.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a student towards a teacher; where the data have labels, on these as well."""
    with errors_as_messages():
        import keras

        from tfcompress.cli.data import has_labels, load_data
        from tfcompress.cli.files import check_output, load_model, print_file, write_model
        from tfcompress.distillation.distiller import Distiller
        from tfcompress.graph.private_training import compiled_loss
        from tfcompress.utils.batches import HELD, check_repeats, some
        from tfcompress.utils.checks import check_above_zero, whole_number

        check_output(output)
        whole_number(epochs, "--epochs")
        check_above_zero(learning_rate, "--learning-rate")
        student, guide = load_model(model), load_model(teacher, compile=True)
        given = load_data(data, student)
        check_repeats(given, epochs)
        if not hasattr(given, "__next__"):
            some(student, given, 1, HELD)  # raises unless the model takes them
        terms = (loss, None) if loss else compiled_loss(guide) or (None, None)
        if terms[0] is None and has_labels(given):
            raise ValueError(
                "The data have labels, and the teacher was saved without a loss: give `--loss`, or "
                "data without labels."
            )
        distiller = Distiller(student=student, teacher=guide)
        distiller.compile(keras.optimizers.Adam(learning_rate), *terms)
        x, *more = given if isinstance(given, tuple) else (given,)
        labels = dict(zip(("y", "sample_weight"), more, strict=False))
        distiller.fit(x, **labels, epochs=epochs, verbose=0 if json else "auto")
        write_model(student, output)
        print_file(output, json)


@app.command()
def plan(
    model: Model,
    data: Data,
    budget: Annotated[
        list[str],
        typer.Option(
            help="A share of the float32 cost, 10%, a number, or time, 5ms; give it twice for "
            "another cost and time."
        ),
    ],
    target: Annotated[
        str,
        typer.Option(help="What the budget counts: bits, tflite, archive, macs or milliseconds."),
    ] = "bits",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the model too: .tflite, .tfc or .keras."),
    ] = None,
    store: Annotated[str, typer.Option(help="fast, or small: of the .tflite file.")] = "fast",
    latency: Latency = None,
    json: Json = False,
) -> None:
    """Choose a form for each layer under one budget, without training."""
    with errors_as_messages():
        from tfcompress.cli.data import load_data
        from tfcompress.cli.files import (
            check_output,
            load_model,
            print_plan,
            read_budgets,
            write_model,
        )
        from tfcompress.planning.planner import plan as run

        if output is not None:
            check_output(output)
        limits = read_budgets(budget, target)
        loaded = load_model(model, compile=True)
        given = load_data(data, loaded), limits, target
        made = run(loaded, *given, store=store, latency=latency)
        if output is not None:
            # as the plan has counted it
            write_model(made.model, output, store=store, half=target == "archive")
        print_plan(made, output, json)


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="The compressed model: .keras, .h5 or .tfc.")],
    baseline: Annotated[Path, typer.Option(help="The model from which it was made.")],
    data: Data,
    tflite: Annotated[Path | None, typer.Option(help="Its .tflite file.")] = None,
    try_cures: Annotated[
        bool, typer.Option("--try-cures", help="Measure what each cure gives.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="An HTML page to write.")] = None,
    model_explorer: Annotated[
        Path | None, typer.Option(help="A folder of node data for Model Explorer to write.")
    ] = None,
    json: Json = False,
) -> None:
    """Show in which layers a compressed model lost its accuracy, why, and what helps."""
    with errors_as_messages():
        from tfcompress.cli.data import load_data
        from tfcompress.cli.files import check_output, load_model
        from tfcompress.diagnosis.explain import explain as run
        from tfcompress.reporting.model_report import report

        if model_explorer is not None and tflite is None:
            raise ValueError("`--model-explorer` is for a file: give `--tflite`.")
        if html is not None:
            check_output(html, [".html", ".htm"])
        small, float_model = load_model(model), load_model(baseline, compile=True)
        given = load_data(data, float_model)
        found = run(float_model, small, given, tflite, try_cures=try_cures)
        if html is not None:
            report(small, float_model).to_html(html, explanation=found)
        if model_explorer is not None:
            found.to_model_explorer(model_explorer, tflite)
        print(found.to_json() if json else found)
