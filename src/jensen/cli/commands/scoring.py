"""Score rows under a fitted model."""

from typing import Annotated

import typer

from jensen.cli.commands.app import app
from jensen.cli.options import (
    ChainSteps,
    EveryStep,
    Json,
    Label,
    Layout,
    LevelsOption,
    Method,
    MethodSettings,
    OtherData,
    Redraws,
    RunFolder,
    Scores,
    Seed,
    Size,
    Tolerance,
)


@app.command()
def evaluate(
    run: RunFolder,
    data: OtherData = None,
    method: Method = None,
    tolerance: Tolerance = None,
    steps: ChainSteps = None,
    every_step: EveryStep = False,
    output: Scores = None,
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    redraw: Redraws = None,
    settings: MethodSettings = None,
    against: Annotated[
        bool,
        typer.Option("--anomaly", help="Can log p tell DATA from the run's own test rows? AUROC, plain and corrected."),
    ] = False,
    gap: Annotated[
        int | None,
        typer.Option(
            help="vae: on so many test rows, how much of log p - elbo is the family's share and how much the encoder's; "
            "of one layer of latents, and not of prior=diffusion."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="Score so many of the rows, the same at every call (default: all, of images by ode 1000); --method samples: rows of each sample.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Log-likelihood of held-out rows under a fitted model, with what the number is and its error bars.

    --method samples measures what the model draws against test rows instead, which every model can; a model without likelihood has
    nothing else. Those of the run's own data are kept for its report.
    """
    from jensen.cli.anomaly import check_anomaly, told_apart
    from jensen.cli.gap import check_gap, taken_apart
    from jensen.cli.inputs import (
        check_redraws,
        count_or_default,
        method_settings,
        refuse_reading,
        rows_to_score,
        scoring_options,
        some_of,
    )
    from jensen.cli.printing import print_scored, warn_of_missed
    from jensen.cli.samples import measure_samples
    from jensen.cli.work import keep_scores, over_redraws, scored
    from jensen.evaluation.calibration import classification
    from jensen.evaluation.outputs import check_not_data, check_output
    from jensen.loading import load
    from jensen.models.model import DensityModel
    from jensen.training.run import Run

    check_output(output, (".csv",))
    pipeline = load(run)
    source = pipeline.config["data"]["facts"].get("source")
    check_not_data(output, data, source)
    if method == "samples" or (method is None and not isinstance(pipeline.model, DensityModel)):
        given = (tolerance, steps, output, redraw, settings, gap, against or None, every_step or None)
        refuse_reading(size, levels, layout, label)
        asked = method == "samples"
        measure_samples(Run(run), pipeline, data, count, seed, as_json, given=given, asked=asked)
        return
    options = scoring_options(pipeline, method, tolerance, steps, every_step)
    options |= method_settings(pipeline, settings, every_step)
    check_gap(pipeline, gap, count)
    check_redraws(pipeline, redraw, count)
    check_anomaly(pipeline, data, against, count)
    rows = rows_to_score(pipeline, data, size, levels, layout, label)
    rows = some_of(rows, count_or_default(rows, count, method))
    ll = scored(pipeline, rows, seed=seed, **options)
    if output:
        keep_scores(output, pipeline, rows, ll, seed)
    classes = classification(pipeline, rows, seed=seed)
    spread = None
    if redraw is not None:
        spread = over_redraws(pipeline, redraw, count, seed=seed, **options)
    shares = None if gap is None else taken_apart(pipeline, rows, gap, seed)
    apart = told_apart(pipeline, rows, ll, count, seed=seed, **options) if against else None
    more = {"classification": classes, "redraws": spread, "gap": shares, "anomaly": apart}
    print_scored(pipeline.config["model"]["word"], data or source, ll, more, as_json)
    warn_of_missed(pipeline, ll, tolerance)
    if output and not as_json:
        typer.echo(f"scores: {output}")
