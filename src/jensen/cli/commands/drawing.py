"""What a fitted model makes: new rows, missing cells, codes, pictures of codes."""

from pathlib import Path
from typing import Annotated

import typer

from jensen.cli.commands.app import app
from jensen.cli.options import Data, Label, Layout, LevelsOption, OtherData, RunFolder, Seed, Size


@app.command()
def sample(
    run: RunFolder,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE|DIR", help="A .png grid, .npy, .npz, .csv, or a folder for PNGs."),
    ],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 64,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Diffusion: one of ancestral, ddim, euler, heun, dpm-1s, dpm-2s, dpm-2m, dpm-3m, dpm-1s-sde, dpm-2s-sde, dpm-2m-sde, dpm-3m-sde, "
            "unipc-1 to -3, adams-2 to -4, churn, langevin. heun, dpm-2s, dpm-2s-sde, churn and langevin ask the network twice a step. "
            "Default: by the number of steps, dpm-2m up to 14, dpm-2m-sde up to 100, else ancestral."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion: sampling steps (default: the T of the fit).")] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Diffusion: the noise levels on the way: time (default), log-snr, karras, quadratic or optimised."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the sampler: eta of ddim; back of churn; ratio, rounds of langevin. Again for more.",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="The class to draw from, for models of classes: its name or code."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Draw new rows: same shape, type and range as the data. The same seed gives the same rows."""
    from jensen.cli.inputs import check_steps
    from jensen.cli.work import drawn
    from jensen.errors import InputError
    from jensen.evaluation.outputs import SAMPLE_SUFFIXES, check_format, check_not_data, check_output, write_samples
    from jensen.loading import load
    from jensen.models.model import ClassConditional
    from jensen.settings import parse

    check_output(output, SAMPLE_SUFFIXES)
    pipeline = load(run)
    check_not_data(output, pipeline.config["data"]["facts"].get("source"))
    check_format(output, pipeline)
    check_steps(pipeline, steps)
    if n < 1:
        raise InputError(f"-n, the number of samples, must be at least 1, got {n}")
    if context is not None and not isinstance(pipeline.model, ClassConditional):
        raise InputError(f"this model is unconditional and takes no context, got {context!r}; leave --context out")
    rows, how = drawn(pipeline, n, seed, sampler, steps, grid, parse(setting or []), context)
    write_samples(output, rows, pipeline)
    of = "" if context is None else f" of class {context}"
    typer.echo(f"{n} samples{of} ({how}; seed {seed}): {output}")


@app.command()
def impute(
    run: RunFolder,
    data: Data,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .csv, .npy or .npz, rows in the order of DATA.")
    ],
    draws: Annotated[
        int | None,
        typer.Option(
            help="Random draws of the missing cells instead of their mean; more than one go to .npy or .npz, draws first."
        ),
    ] = None,
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Fill in the missing cells of DATA from the observed ones of their rows; observed cells stay as they are."""
    from jensen.cli.inputs import rows_to_fill
    from jensen.errors import InputError
    from jensen.evaluation.outputs import check_format, check_not_data, check_output, write_samples
    from jensen.loading import load

    check_output(output, (".csv", ".npy", ".npz"))
    pipeline = load(run)
    check_format(output, pipeline)
    if draws is not None and not 1 <= draws <= (1 if output.suffix.lower() == ".csv" else 10_000):
        raise InputError(f"--draws must be from 1 to 10000, and 1 for a .csv, got {draws}; use .npy or .npz for more")
    check_not_data(output, data)
    rows, columns = rows_to_fill(pipeline, data, size, levels, layout, label)
    filled = pipeline.impute(rows, draws, seed=seed)
    write_samples(output, filled[0] if output.suffix.lower() == ".csv" and draws else filled, pipeline, columns)
    cells = int((~rows.batch(slice(None)).mask).sum())
    how = "the mean" if draws is None else f"{draws} draw{'s' if draws > 1 else ''}, seed {seed}"
    label_column = pipeline.config["data"]["facts"].get("label")
    without = f"; the classes, {label_column!r}, are not in it" if label_column is not None else ""
    typer.echo(f"{cells} missing cells of {len(rows)} rows filled in ({how}): {output}{without}")


@app.command()
def latent(
    run: RunFolder,
    data: OtherData = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR|FILE.png", help="The folder for the pictures, or a file for one."),
    ] = Path("latent"),
    what: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", help="map, units, reconstruct, interpolate, traverse, plane, samples (default: all)."
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help="The way between two rows: linear or spherical.")] = "linear",
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Draw the codes of rows: where they lie, what is left of a row, the way between two, along one number, over the plane.

    A reconstruction starts at a row, x → z → x; samples start at z ~ p(z).
    """
    from jensen.cli.inputs import rows_to_code
    from jensen.evaluation.latents import Gallery, chosen
    from jensen.evaluation.outputs import check_not_data, check_output, picture_paths
    from jensen.loading import load
    from jensen.models.latents import check_kind

    words = chosen(what)
    check_kind(kind)
    check_output(output, ("", ".png"))
    paths = picture_paths(output, words)
    pipeline = load(run)
    check_not_data(output, data, pipeline.config["data"]["facts"].get("source"))
    rows, names = rows_to_code(pipeline, data, size, levels, layout, label)
    shown = Gallery(pipeline, rows, names, seed)
    for word, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"{path}: {shown.save(word, path, kind=kind)}")


@app.command()
def encode(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="The rows; the same kinds of data as for `jensen fit`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .npy, .npz or .csv: one code a row.")
    ],
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Write the code of every row of DATA, in its order: features for other programs."""
    from jensen.cli.inputs import rows_to_fill
    from jensen.evaluation.outputs import check_not_data, check_output, write_codes
    from jensen.loading import load

    check_output(output, (".npy", ".npz", ".csv"))
    pipeline = load(run)
    codes = pipeline.latents
    rows, _ = rows_to_fill(pipeline, data, size, levels, layout, label)
    check_not_data(output, data, pipeline.config["data"]["facts"].get("source"))
    z = codes.encode(rows)
    write_codes(output, z, rows)
    typer.echo(f"{len(z)} codes of {codes.dims} numbers, one for every row of {data} in its order: {output}")
