"""`jensen evaluate --method samples`: what a model draws, measured against test rows."""

from jensen.cli.inputs import own_data
from jensen.cli.printing import print_json, print_samples, print_unmeasured
from jensen.cli.work import measured, own_measures, with_samples
from jensen.errors import InputError
from jensen.evaluation.likelihood import named, unscored
from jensen.evaluation.two_sample.gauge import LEAST
from jensen.models.model import DensityModel
from jensen.models.pipeline import Pipeline
from jensen.training.run import Run


def measure_samples(
    folder: Run,
    pipeline: Pipeline,
    data: str | None,
    rows: int | None,
    seed: int,
    as_json: bool,
    given: tuple[object, ...],
    asked: bool,
) -> None:
    """Measure against the run's own test rows, keep it for the report, and print it.

    Raises:
        InputError: other data or options of likelihoods were given, or the run's data are not to be had.
    """
    if data is not None or any(option is not None for option in given):
        raise InputError(
            "--method samples measures against the run's own test rows and takes -n and --seed alone; leave DATA and the "
            "options of likelihoods out (-o, --set, --tolerance, --steps, --every-step, --redraws, --gap, --anomaly)"
        )
    split, problem = own_data(pipeline)
    if split is None:
        raise InputError(f"samples are measured against the run's own data: {problem}")
    if not asked and len(split.test) < LEAST:
        print_unmeasured(unscored(pipeline, split) | own_measures(pipeline, split), as_json)
        return
    found = measured(pipeline, split, rows, seed)
    without = None if isinstance(pipeline.model, DensityModel) else unscored(pipeline, split)
    with_samples(folder, found, without)
    record = without or named(pipeline, split)
    if as_json:
        print_json({**record, "samples": found.to_dict()})
        return
    print_samples(record["model"], record.get("without_likelihood", ""), found)
