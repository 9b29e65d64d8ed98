"""Arguments that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    Path, typer.Argument(help="A Keras model: .keras, .h5 of older versions, or a .tfc archive.")
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="The file to write: .tflite, .tfc (archive), or .keras."),
]
Data = Annotated[
    str, typer.Option(help="An .npz file (x and y), a folder of images, or module:function.")
]
SomeData = Annotated[
    str | None,
    typer.Option(
        "--data", help="An .npz file (x, perhaps y), a folder of images, or module:function."
    ),
]
Latency = Annotated[
    Path | None,
    typer.Option(
        help="For budgets of time: a table that `bench model.keras -o times.json` wrote. Default: "
        "times of this machine."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the data as JSON.")]
