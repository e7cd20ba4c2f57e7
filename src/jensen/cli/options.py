"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A word (`jensen data`), a folder of images, or a .npy, .npz, .csv or IDX file."
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `jensen fit` made.")]
Seed = Annotated[int, typer.Option(help="Seed of all random draws.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Size = Annotated[str | None, typer.Option(metavar="HxW", help="Resize a folder's images, for example 32x32.")]
LevelsOption = Annotated[
    int | None,
    typer.Option(
        "--levels",
        help="Number of discrete values 0, 1, … of whole numbers; floats and tables may then have missing cells.",
    ),
]
Layout = Annotated[str | None, typer.Option(help="Order of the axes of one image in an array: HW, CHW or HWC.")]
Label = Annotated[
    str | None,
    typer.Option("--label", metavar="COLUMN", help="A table's column of classes: its name, or its number from 1."),
]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split where the data give none.")]
