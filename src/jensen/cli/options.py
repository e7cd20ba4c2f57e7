"""The arguments and options that several commands share, and those of `evaluate`."""

from pathlib import Path
from typing import Annotated

import typer

from jensen.errors import InputError

Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA", help="A word (`jensen data`), a folder of images, or a .npy, .npz, .csv or IDX file."
    ),
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that `jensen fit` made.")]


def _seed(value: int) -> int:
    """A seed, checked."""
    if not 0 <= value < 2**63:
        raise InputError(f"--seed must be a whole number from 0 to 2^63 - 1, got {value}")
    return value


Seed = Annotated[int, typer.Option(callback=_seed, help="Seed of all random draws.")]
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
Binarise = Annotated[
    str | None,
    typer.Option(
        help="Grey values as zeros and ones: threshold, static, or dynamic (drawn anew at every training step)."
    ),
]
BinariseSeed = Annotated[int | None, typer.Option(help="Seed of the draws of --binarise (default: 0).")]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split where the data give none.")]

OtherData = Annotated[
    str | None, typer.Argument(metavar="[DATA]", help="Other data to score; by default the run's own test rows.")
]
Method = Annotated[
    str | None,
    typer.Option(
        help="How: exact, vlb, ode, elbo, iwae, ais or samples, as far as the model has it (its first if left out)."
    ),
]
MethodSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="An option of the method: grid, calls of vlb; repetitions of vlb, ode, elbo; probes, ode_tolerance, ode_steps, divergence, dequantisation, draws of ode; "
        "draws, repetitions of iwae; temperatures, chains, leapfrogs of ais. Again for more.",
    ),
]
Tolerance = Annotated[
    float | None,
    typer.Option(help="Monte-Carlo standard error wanted for the mean, in bits/dim (densities: nats/dim)."),
]
ChainSteps = Annotated[
    float | None, typer.Option(metavar="T", help="Diffusion, vlb: the length T of the chain; inf for continuous time.")
]
EveryStep = Annotated[bool, typer.Option(help="Diffusion: every term of the bound instead of a sample of them.")]
Redraws = Annotated[
    int | None,
    typer.Option(
        "--redraws", help="Binarised data: score as many other draws of the run's test rows, for their spread."
    ),
]
Scores = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE.csv", help="One row an example: id, value, stderr (nats)."),
]
