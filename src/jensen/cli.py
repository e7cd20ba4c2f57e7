"""The command line: words in, results on stdout, progress on stderr.

Commands stay thin: they read options, call the library, print. Heavy imports happen inside them, so that `--help` is
quick. With `--json`, stdout is one JSON object and nothing else.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jensen.data.examples import Examples, Split
    from jensen.models.pipeline import Pipeline

app = typer.Typer(
    help="Fit generative models to data, say how likely data are under them, draw new data.",
    epilog="A first run:  jensen fit digits -m diffusion -o runs/digits --budget 2m",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

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
LevelsOption = Annotated[int | None, typer.Option("--levels", help="Number of discrete values of whole-number arrays.")]
Layout = Annotated[str | None, typer.Option(help="Order of the axes of one image in an array: HW, CHW or HWC.")]
SplitSeed = Annotated[int, typer.Option(help="Seed of the split where the data give none.")]


@app.command()
def fit(
    data: Data,
    run: Annotated[Path, typer.Option("--run", "-o", metavar="RUN", help="The folder to keep the run in.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's word (`jensen models`).")] = "diffusion",
    budget: Annotated[str | None, typer.Option(help="Training time such as 90s, 5m, 1h30m (default 5m).")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of a budget.")] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of model, network or training; again for more."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in the folder.")] = False,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    split_seed: SplitSeed = 0,
    as_json: Json = False,
) -> None:
    """Fit a model to DATA, score the held-out test rows, draw samples, write a report.

    The same command again resumes a run that was cut off, and shows one that is finished.
    """
    from jensen import settings as words
    from jensen.fitting import checked
    from jensen.fitting import fit as fit_model
    from jensen.training.run import Run

    chosen = words.parse(settings or [])
    checked(model, chosen, budget=budget, steps=steps, seed=seed)
    split = _load(data, size, levels, layout, split_seed)
    pipeline = fit_model(
        split, model, run=run, budget=budget, steps=steps, seed=seed, overwrite=overwrite, progress=True, **chosen
    )
    folder = Run(run)
    shown = all(folder.file(name).is_file() for name in ("samples.png", "report.html"))
    if not shown or _evaluation(folder) is None:
        _finish(folder, pipeline, split)
    _print_result(folder, as_json)


@app.command()
def evaluate(
    run: RunFolder,
    data: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Other data to score; by default the run's own test rows.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How: exact, vlb, elbo, … (the model's first if left out).")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Monte-Carlo standard error wanted for the mean, in bits/dim (densities: nats/dim)."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion: the length T of the chain.")] = None,
    every_step: Annotated[
        bool, typer.Option(help="Diffusion: every term of the bound instead of a sample of them.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE.csv", help="One row an example: id, value, stderr (nats)."),
    ] = None,
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    as_json: Json = False,
) -> None:
    """Log-likelihood of held-out rows under a fitted model, with what the number is and its error bars."""
    from jensen.evaluation.likelihood import summary
    from jensen.evaluation.outputs import check_output, write_scores
    from jensen.fitting import load

    check_output(output, (".csv",))
    pipeline = load(run)
    rows = _rows_to_score(pipeline, data, size, levels, layout)
    options: dict[str, Any] = {"timesteps": steps} if steps is not None else {}
    if every_step:
        options |= {"calls": None, "repetitions": 2}
    ll = _scored(pipeline, rows, seed=seed, method=method, tolerance=tolerance, **options)
    if output:
        write_scores(output, rows, ll)
    word, source = pipeline.config["model"]["word"], data or pipeline.config["data"]["facts"].get("source")
    if as_json:
        _print_json({"model": word, "data": source, "log_likelihood": summary(ll)})
        return
    typer.echo(f"{word} on {source}: {ll}")
    for line in _breakdown(summary(ll)):
        typer.echo(line)
    if output:
        typer.echo(f"scores: {output}")


@app.command()
def sample(
    run: RunFolder,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE|DIR", help="A .png grid, .npy, .npz, .csv, or a folder for PNGs."),
    ],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 64,
    sampler: Annotated[str | None, typer.Option(help="Diffusion: ancestral (default) or ddim.")] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion: sampling steps (default: all T).")] = None,
    eta: Annotated[float, typer.Option(help="DDIM: share of the bridge's noise, 0 to 1.")] = 0.0,
    context: Annotated[str | None, typer.Option(help="What to condition on, for models that take a condition.")] = None,
    seed: Seed = 0,
) -> None:
    """Draw new rows: same shape, type and range as the data. The same seed gives the same rows."""
    from jensen.errors import InputError
    from jensen.evaluation.outputs import SAMPLE_SUFFIXES, check_format, check_output, write_samples
    from jensen.fitting import load

    check_output(output, SAMPLE_SUFFIXES)
    pipeline = load(run)
    check_format(output, pipeline)
    if context is not None:
        raise InputError(f"this model is unconditional and takes no context, got {context!r}; leave --context out")
    rows, how = _drawn(pipeline, n, seed, sampler, steps, eta)
    write_samples(output, rows, pipeline)
    typer.echo(f"{n} samples ({how}; seed {seed}): {output}")


@app.command()
def show(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.png", help="Draw some of the rows.")
    ] = None,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    split_seed: SplitSeed = 0,
    as_json: Json = False,
) -> None:
    """What is in the data: rows, shape, levels, classes, range, duplicates, missing cells; and a picture."""
    from jensen.data import describe, describe_lines
    from jensen.evaluation.outputs import check_output

    check_output(output, (".png",))
    split = _load(data, size, levels, layout, split_seed)
    facts = describe(split)
    if output:
        from jensen.evaluation.plots import save_figure, show_figure

        save_figure(show_figure(split), output)
    if as_json:
        _print_json(facts)
        return
    for line in describe_lines(facts):
        typer.echo(line)
    if output:
        typer.echo(f"picture    {output}")


@app.command()
def noise(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture.")],
    schedule: Annotated[str, typer.Option(help="log-snr, linear or cosine.")] = "log-snr",
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    split_seed: SplitSeed = 0,
) -> None:
    """Draw the forward process x_0 … x_T on the data, with α and σ under it."""
    from jensen.evaluation.outputs import check_output
    from jensen.evaluation.plots import noise_figure, save_figure
    from jensen.models.ddpm import schedule_named

    check_output(output, (".png",))
    split = _load(data, size, levels, layout, split_seed)
    chosen = schedule_named(schedule, split.space)
    save_figure(noise_figure(split, chosen, seed=seed), output)
    typer.echo(f"forward process ({schedule}): {output}")


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report.html again: one self-contained page with pictures."""
    from jensen.fitting import load
    from jensen.training.run import Run

    folder = Run(run)
    pipeline = load(run)
    split, problem = _own_data(pipeline)
    if problem:
        print(f"some panels are left out: {problem}", file=sys.stderr)
    if split is not None and _evaluation(folder) is None:
        _evaluate(folder, pipeline, split)
    typer.echo(f"report: {_report(folder, split, problem)}")


@app.command()
def info(run: RunFolder, as_json: Json = False) -> None:
    """What a run is: data, model, options, versions, result."""
    from jensen.training.run import Run

    folder = Run(run)
    config = folder.config()
    result = _evaluation(folder)
    if as_json:
        _print_json({"config": config, "finished": folder.finished, "evaluation": result})
        return
    for name in ("data", "model", "training", "versions"):
        for key, value in (config.get(name) or {}).items():
            typer.echo(f"{name}.{key}: {json.dumps(value, ensure_ascii=False)}")
    typer.echo(f"state: {'finished' if folder.finished else 'not finished; the same `jensen fit` command goes on'}")
    if result:
        typer.echo(f"result: {result['log_likelihood']['quote']}")


@app.command()
def models(as_json: Json = False) -> None:
    """The models there are, their settings and their defaults."""
    from jensen.models import MODELS, model_class
    from jensen.models.model import GradientModel, settings_of, shown_default

    table: dict[str, dict[str, Any]] = {}
    for word in MODELS:
        kind = model_class(word)
        known = settings_of(kind, with_training=issubclass(kind, GradientModel))
        table[word] = {
            "summary": kind.summary,
            "paper": kind.paper,
            "settings": {name: shown_default(parameter) for name, parameter in known.items()},
        }
    if as_json:
        _print_json(table)
        return
    for word, row in table.items():
        typer.echo(f"{word}: {row['summary']} [{row['paper']}]")
        for name, default in row["settings"].items():
            typer.echo(f"    --set {name}={default}")


@app.command("data")
def list_data(as_json: Json = False) -> None:
    """The named data sets."""
    from jensen.data import NAMED

    table = {word: named.description for word, named in NAMED.items()}
    if as_json:
        _print_json(table)
        return
    for word, description in table.items():
        typer.echo(f"{word}: {description}")
    typer.echo("or a folder of images, or a .npy, .npz, .csv, .tsv or IDX file")


def _load(data: str, size: str | None, levels: int | None, layout: str | None, split_seed: int) -> "Split":
    from jensen.data import load_data

    return load_data(data, size=_parsed_size(size), levels=levels, layout=layout, split_seed=split_seed)


def _parsed_size(size: str | None) -> tuple[int, int] | None:
    from jensen.errors import InputError

    if size is None:
        return None
    height, cross, width = size.lower().partition("x")
    if not cross or not height.isdecimal() or not width.isdecimal():
        raise InputError(f"--size takes HxW such as 32x32, got {size!r}")
    return int(height), int(width)


def _rows_to_score(
    pipeline: "Pipeline", data: str | None, size: str | None, levels: int | None, layout: str | None
) -> "Examples":
    """The run's own test rows; or DATA's test rows if it has such a part or is the run's data; or all of DATA."""
    from jensen.data import load_data
    from jensen.fitting import reload_data

    if data is None:
        return reload_data(pipeline.config).test
    facts = pipeline.config["data"]["facts"]
    kept = facts if facts.get("kind") == "images" and Path(data).is_dir() else {}
    fitted_size = tuple(kept["size"]) if kept.get("size") else None
    split = load_data(
        data,
        size=_parsed_size(size) or fitted_size,
        levels=levels if levels is not None else _same_levels(facts, data),
        layout=layout,
        split_seed=facts.get("split_seed", 0),  # the run's own data must fall into the run's own parts
    )
    if split.fingerprint == pipeline.config["data"]["fingerprint"] or "test" in split.facts.get("given_parts", []):
        return split.test
    return split.all_rows()


def _same_levels(facts: dict[str, Any], data: str) -> int | None:
    """Whole-number arrays have the levels that were declared for the run."""
    return facts.get("levels") if Path(data).suffix in (".npy", ".npz") else None


def _scored(pipeline: "Pipeline", rows: Any, **options: Any) -> Any:
    from jensen.training.progress import bar

    with bar("scoring", len(rows)) as shown:
        return pipeline.log_likelihood(rows, on_start=shown.total, on_calls=shown.advance, **options)


def _drawn(
    pipeline: "Pipeline", n: int, seed: int, sampler: str | None, steps: int | None, eta: float
) -> tuple[Any, str]:
    from jensen.errors import InputError
    from jensen.models.ddpm import DDPM, sampler_named
    from jensen.training.progress import bar

    if not isinstance(pipeline.model, DDPM):
        if sampler is not None or steps is not None:
            raise InputError("only diffusion models have samplers and steps; leave out --sampler and --steps")
        return pipeline.sample(n, seed=seed), "exact draws"
    solver = sampler_named(sampler, eta)
    count = steps if steps is not None else pipeline.model.reverse.chain.steps
    with bar("sampling", count * -(-n // pipeline.sampling_batch())) as shown:
        rows = pipeline.sample(n, seed=seed, sampler=solver, steps=steps, watch=lambda i, x, denoised: shown.advance())
    return rows, solver.describe(count)


def _finish(folder: Any, pipeline: "Pipeline", split: "Split") -> None:
    """What follows a fit: the likelihood beside the controls, samples, the report."""
    from jensen.evaluation.images import save_grid
    from jensen.evaluation.likelihood import picture_steps

    rows, how = _drawn(pipeline, 64, 0, None, picture_steps(pipeline), 0.0)
    print(f"samples for pictures: {how}", file=sys.stderr)
    save_grid(rows, pipeline.space, folder.file("samples.png"))
    if _evaluation(folder) is None:
        _evaluate(folder, pipeline, split, rows)
    _report(folder, split, None)


def _evaluate(folder: Any, pipeline: "Pipeline", split: "Split", samples: Any = None) -> None:
    from jensen.evaluation.likelihood import evaluate_run
    from jensen.files import write_json
    from jensen.training.progress import bar

    with bar("scoring", len(split.test)) as shown:
        _, record = evaluate_run(pipeline, split, samples=samples, on_start=shown.total, on_calls=shown.advance)
    write_json(folder.file("evaluation.json"), record)


def _report(folder: Any, split: "Split | None", problem: str | None) -> Path:
    from jensen.evaluation.report import write_report

    print("writing the report …", file=sys.stderr)
    return write_report(folder.path, split, problem)


def _own_data(pipeline: "Pipeline") -> "tuple[Split | None, str | None]":
    from jensen.errors import InputError
    from jensen.fitting import reload_data

    try:
        return reload_data(pipeline.config), None
    except InputError as error:
        return None, str(error)


def _evaluation(folder: Any) -> dict[str, Any] | None:
    """The content of evaluation.json; None where it is missing or damaged, so that it is made again."""
    from jensen.errors import InputError
    from jensen.files import read_json

    try:
        record = read_json(folder.file("evaluation.json"))
        quoted = isinstance(record["log_likelihood"]["quote"], str) and isinstance(record["controls"], dict)
    except (InputError, KeyError, TypeError):
        return None
    return record if quoted and "model" in record else None


def _print_result(folder: Any, as_json: bool) -> None:
    result = _evaluation(folder) or {}
    if as_json:
        _print_json({**result, "run": str(folder.path)})
        return
    typer.echo(f"{result['model']:<12} {result['log_likelihood']['quote']}")
    for word, control in result["controls"].items():
        typer.echo(f"{word:<12} {control.get('quote') or control['problem']}  [control]")
    for line in _breakdown(result["log_likelihood"]):
        typer.echo(line)
    typer.echo(_in_words(result["log_likelihood"]))
    typer.echo(f"samples: {folder.file('samples.png')}")
    typer.echo(f"report:  {folder.file('report.html')}")


def _breakdown(summary: dict[str, Any]) -> list[str]:
    """The terms in the unit of the headline."""
    from jensen.likelihood import BITS

    scale, unit = (-BITS / summary["dims"], "bits/dim") if summary["bits_per_dim"] is not None else (1.0, "nats")
    terms = {name: term["mean_nats"] for name, term in summary["terms"].items() if term["mean_nats"] is not None}
    if not terms:
        return []
    parts = " + ".join(f"{name} {value * scale:.4f}" for name, value in terms.items())
    calls = summary["diagnostics"].get("network_calls_per_example")
    cost = f"; {calls} network calls an example" if calls else ""
    return [f"             = {parts} ({unit}; {summary['of']}{cost})"]


def _in_words(summary: dict[str, Any]) -> str:
    if summary["bits_per_dim"] is None:
        return "Mean log-density of test rows the model never saw, in nats; higher is better."
    bound = " A bound (≤): the model's true cost is at most this." if summary["kind"] == "lower bound" else ""
    return (
        f"Bits to store one of the {summary['dims']} dimensions of a test row the model never saw; lower is better.{bound} "
        "± is one standard error over the test rows."
    )


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))
