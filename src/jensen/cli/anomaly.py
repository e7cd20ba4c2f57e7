"""`jensen evaluate RUN DATA --anomaly`: can the model tell DATA from rows of its own kind?"""

from typing import Any

from jensen.cli.inputs import some_of
from jensen.cli.work import scored
from jensen.data import Examples
from jensen.errors import InputError
from jensen.evaluation.anomaly import anomaly
from jensen.likelihood import LogLikelihood
from jensen.loading import reload_data
from jensen.models.pipeline import Pipeline


def check_anomaly(pipeline: Pipeline, data: str | None, asked: bool, most: int | None) -> None:
    """Refuse --anomaly without other data, where the run's own are no longer to be had, or are fewer than -n takes."""
    if not asked:
        return
    own = reload_data(pipeline.config).test
    if most is not None and not 2 <= most <= len(own):
        raise InputError(
            f"-n with --anomaly takes as many of the run's own test rows, from 2 to {len(own):,}, got {most}; leave it out"
        )
    if data is None:
        raise InputError("--anomaly ranks DATA against the run's own test rows; give DATA, or leave --anomaly out")


def told_apart(
    pipeline: Pipeline, rows: Examples, ll: LogLikelihood, most: int | None, **options: Any
) -> dict[str, Any]:
    """AUROC of the run's own test rows, or of `most` of them, against DATA's, scored alike."""
    own = some_of(reload_data(pipeline.config).test, most)
    return anomaly(scored(pipeline, own, **options), own, ll, rows)
