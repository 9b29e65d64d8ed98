"""The commands that show, compress to a budget, convert and time models."""

from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from tfcompress_cli.options import Data, Json, Latency, Model, Output
from tfcompress_cli.quiet import errors_as_messages

app = typer.Typer(
    help="Make Keras networks small and fast.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
TARGETS = {".tflite": "tflite", ".tfc": "archive", ".keras": "bits"}  # of `compress`, by output
RESTS = {32: "float32", 16: "float16", 8: "int8"}  # of `export`, by bits


def print_version(asked: bool) -> None:
    """Prints the version and ends."""
    if asked:
        typer.echo(version("tfcompress"))
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Make Keras networks small and fast."""


@app.command()
def report(
    model: Model,
    tflite: Annotated[Path | None, typer.Option(help="Its .tflite file.")] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="The model from which it was made, to compare with.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="An HTML page to write, with pictures.")] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="For its picture, JSON: by name, bytes and accuracy of each model."),
    ] = None,
    accuracy: Annotated[
        float | None, typer.Option(help="For the page: of the model, such as 0.91.")
    ] = None,
    json: Json = False,
) -> None:
    """Show the stored bits, the MACs and the bytes in the .tflite file of each layer."""
    with errors_as_messages():
        from tfcompress.cli.files import check_output, load_model, read_points
        from tfcompress.reporting import model_report as reports

        for_page = {"--points": points, "--accuracy": accuracy}
        if html is None and (given := [name for name, x in for_page.items() if x is not None]):
            raise ValueError(f"`{given[0]}` is for the page that `--html` writes.")
        if html is not None:
            check_output(html, [".html", ".htm"])
        shown = None if points is None else read_points(points)
        before = None if baseline is None else load_model(baseline)
        made = reports.report(load_model(model), before, tflite)
        if html is not None:
            made.to_html(html, shown, accuracy)
        print(made.to_json() if json else made)


@app.command()
def compress(
    model: Model,
    output: Output,
    data: Data,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Of the output: a share of the float32 size, 10%, bytes, 80000, or time, 5ms; "
            "give it twice for size and time."
        ),
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="The largest loss of accuracy, such as 0.01.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(help="Like --data, to measure on. Default: a tenth of --data.")
    ] = None,
    epochs: Annotated[
        str, typer.Option(help="Of training with the model as the teacher, or auto to find out.")
    ] = "3",
    train: Annotated[
        str | None,
        typer.Option(
            help="To train on in place of --data, augmented for example: module:function of a "
            "dataset. Needs --validation."
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="A Keras loss of the labels. Else the model's own, or the teacher alone teaches."
        ),
    ] = None,
    store: Annotated[str, typer.Option(help="fast, or small: of the .tflite file.")] = "fast",
    activations: Annotated[
        str,
        typer.Option(help="How the .tflite file computes: int8, or static_int8 (all in int8)."),
    ] = "int8",
    latency: Latency = None,
    json: Json = False,
) -> None:
    """Compress a trained model to a budget, or as far as its accuracy allows."""
    with errors_as_messages():
        from tfcompress.cli.data import load_data
        from tfcompress.cli.files import (
            check_output,
            load_to_train,
            read_budgets,
            read_epochs,
            save_compressed,
        )
        from tfcompress.planning.compression import compress as run
        from tfcompress.utils.checks import check_store

        check_output(output)
        check_store(store)
        target = TARGETS[output.suffix]
        limits = read_budgets(budget, target) if budget else None
        loaded = load_to_train(model, loss)
        made = run(
            loaded,
            load_data(data, loaded),
            limits,
            max_drop,
            fine_tune=read_epochs(epochs),
            train=None if train is None else load_data(train, loaded),
            validation_data=None if validation is None else load_data(validation, loaded),
            target=target,
            store=store,
            loss=loss,
            latency=latency,
            activations=activations,
            path=output if output.suffix == ".tflite" else None,
        )
        save_compressed(made, output, json)


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .tflite file to write.")],
    check: Annotated[
        str | None,
        typer.Option(
            "--check", help="Real samples, to verify the file on: .npz, folder, module:function."
        ),
    ] = None,
    activations: Annotated[
        str,
        typer.Option(help="How layers compute: int8, float32, or static_int8 (needs --check)."),
    ] = "int8",
    store: Annotated[
        str, typer.Option(help="fast, or small: fewest bytes, perhaps slower.")
    ] = "fast",
    bits: Annotated[int, typer.Option(help="Of kernels that nobody compressed: 32, 16 or 8.")] = 32,
    min_runtime: Annotated[
        str, typer.Option(help="The oldest LiteRT that must run the file, at least 1.2.")
    ] = "2.1.2",
    json: Json = False,
) -> None:
    """Convert a model to a verified .tflite file."""
    with errors_as_messages():
        from tfcompress.cli.data import load_inputs
        from tfcompress.cli.files import check_output, load_model, print_file
        from tfcompress.export import to_tflite

        check_output(output, [".tflite"])
        if bits not in RESTS:
            raise ValueError(f"`--bits` must be 32, 16 or 8. Received: {bits}")
        options = {"activations": activations, "store": store, "min_runtime": min_runtime}
        options["rest"] = RESTS[bits]
        loaded = load_model(model)
        samples = None if check is None else load_inputs(check, loaded)
        to_tflite(loaded, output, check=samples, **options)
        print_file(output, json)


@app.command()
def archive(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The archive, .tfc; or .keras to unpack one.")
    ],
    half: Annotated[bool, typer.Option("--half", help="Round float32 weights to float16.")] = False,
    json: Json = False,
) -> None:
    """Write a model into one entropy-coded archive, or an archive back into a .keras file."""
    with errors_as_messages():
        from tfcompress.archive import files as archives
        from tfcompress.cli.files import check_output, load_model, print_file
        from tfcompress.utils.writers import save_model

        check_output(output, [".tfc", ".keras"])
        if half and output.suffix == ".keras":
            raise ValueError("`--half` is for writing an archive, .tfc.")
        loaded = load_model(model)
        if output.suffix == ".tfc":
            archives.save(loaded, output, half=half)
        else:
            save_model(loaded, output)
        print_file(output, json)


@app.command()
def bench(
    files: Annotated[
        list[Path],
        typer.Argument(help=".tflite files; the first is the reference. Or one Keras model."),
    ],
    threads: Annotated[int, typer.Option(help="Threads of each run.")] = 1,
    batch: Annotated[int, typer.Option(help="Samples in each run.")] = 1,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Of a Keras model: the table of times, .json."),
    ] = None,
    adb: Annotated[
        Path | None,
        typer.Option(
            help="Of a Keras model: LiteRT's benchmark_model for the phone that adb reaches."
        ),
    ] = None,
    store: Annotated[
        str, typer.Option(help="Of a Keras model: fast, or small, as in export.")
    ] = "fast",
    activations: Annotated[
        str, typer.Option(help="Of a Keras model: int8 or static_int8, as in compress.")
    ] = "int8",
    json: Json = False,
) -> None:
    """Time .tflite files against each other, or each layer of a Keras model in each form.

    The table of a model's layers, of this machine or of a phone, is for the --latency of plan and
    compress on another one.
    """
    with errors_as_messages():
        from tfcompress.reporting import benchmark

        if output is not None:
            if batch != 1:
                raise ValueError("`--batch` is for files: layers are timed with one sample.")
            terms = {"store": store, "threads": threads, "activations": activations}
            print_times(files, output, adb, json, **terms)
            return
        for_a_model = {"--adb": adb is not None, "--store": store != "fast"}
        for_a_model["--activations"] = activations != "int8"
        for_a_model["A Keras model"] = any(f.suffix in (".keras", ".h5", ".tfc") for f in files)
        if given := [name for name, is_given in for_a_model.items() if is_given]:
            raise ValueError(f"{given[0]} is for a table of its layers' times: give -o TIMES.json.")
        made = benchmark.bench(files, threads=threads, batch=batch)
        print(made.to_json() if json else made)


def print_times(
    files: list[Path], output: Path, adb: Path | None, json: bool, **terms: Any
) -> None:
    """Times the layers of a Keras model, writes the table and prints it."""
    from tfcompress.cli.files import check_output, load_model
    from tfcompress.planning.latency.measured import time_layers

    check_output(output, [".json"])
    if len(files) != 1 or files[0].suffix == ".tflite":
        raise ValueError(
            f"`-o` is for the layers of one Keras model, .keras, .h5 or .tfc. Received: "
            f"{', '.join(map(str, files))}"
        )
    times = time_layers(load_model(files[0]), output, adb, **terms)
    print(output.read_text() if json else times)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="The folder of the results.")] = Path("demo-results"),
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: less training.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the weights and of the order of data.")] = 0,
) -> None:
    """Train a small CNN, compress it in seven ways, and compare accuracy, bytes and time."""
    with errors_as_messages():
        from tfcompress.cli.demo import demo as run

        run(output, quick=quick, seed=seed)
