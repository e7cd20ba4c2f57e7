"""One model with one seed: fitted, scored on the test rows and on some training rows, kept, found again.

In a folder an attempt is an ordinary run with two more files: `entry.json`, what the fit took, written as soon as it is
done, and `scores.safetensors`, the log-likelihoods row by row; the first seed's has `samples.json`. What is there is not made again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jensen.data.examples import Examples, Split
from jensen.errors import InputError
from jensen.evaluation.compare import samples
from jensen.evaluation.compare.meter import metered
from jensen.evaluation.compare.plan import Plan
from jensen.evaluation.compare.samples import Gauging
from jensen.evaluation.compare.scores import read_scores, write_scores
from jensen.files import read_json, write_json
from jensen.fitting import fit
from jensen.likelihood import LogLikelihood
from jensen.loading import load
from jensen.memory import freed_memory_kept
from jensen.models import model_class
from jensen.models.model import DensityModel
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise
from jensen.training.progress import bar
from jensen.training.run import Run

MOST_TRAIN_ROWS = 1000
ENTRY, SCORES = "entry.json", "scores.safetensors"
KEPT = ("word", "seed", "seconds", "peak_bytes", "resumed", "parameters")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Attempt:
    """What came of one fit.

    Attributes:
        word: the model.
        seed: of the fit.
        seconds: the fit took, None where that was not seen.
        peak_bytes: of memory it added at most, None where that cannot be known.
        resumed: whether `seconds` and `peak_bytes` are of the last part only of a fit that was cut off.
        parameters: the numbers in the model's weights file.
        test: the test rows' log-likelihood, None without one.
        train: that of a sample of training rows.
        problem: why something of this is missing, in a line.
        samples: two-sample measures of what it draws (`compare.samples`), None where it was not to be measured.
        failed: whether that is a failure, and not a likelihood that the model does not have.
    """

    word: str
    seed: int
    seconds: float | None = None
    peak_bytes: int | None = None
    resumed: bool = False
    parameters: int | None = None
    test: LogLikelihood | None = None
    train: LogLikelihood | None = None
    problem: str | None = None
    samples: dict[str, Any] | None = None
    failed: bool = False


def attempted(
    plan: Plan, word: str, seed: int, split: Split, run: Path | None, progress: bool, gauging: Gauging | None = None
) -> Attempt:
    """Fit, score and measure a model, or find it in its folder. What goes wrong with the model is told in the attempt."""
    attempt = Attempt(word, seed)
    try:
        kept = None if run is None else _kept(run, attempt)
        if run is not None and kept is not None and _complete(kept):
            return kept if gauging is None or kept.samples else _measured(load(run), kept, gauging, run, progress)
        pipeline, attempt = _fitted(plan, kept or attempt, split, run, progress)
        attempt = _scored(pipeline, attempt, plan.seed, split, run, progress)
        return attempt if gauging is None else _measured(pipeline, attempt, gauging, run, progress)
    except Exception as error:  # one model's failure must not cost the others' results
        return replace(attempt, problem=_line(error), failed=True)


def _fitted(plan: Plan, attempt: Attempt, split: Split, run: Path | None, progress: bool) -> tuple[Pipeline, Attempt]:
    """The fitted model with what the fit took."""
    if run is not None and attempt.parameters is not None and Run(run).finished:
        return load(run), attempt
    begun, finished = _begun(run)
    with metered() as cost:
        options = {"run": run, "seed": attempt.seed, "progress": progress, **plan.fit_options(attempt.word)}
        pipeline = fit(split, attempt.word, **options)
    count = sum(tensor.numel() for tensor in pipeline.model.state_dict().values())
    attempt = replace(attempt, parameters=count, resumed=begun)
    if not finished:  # else this was a look into the folder and no fit
        attempt = replace(attempt, seconds=cost.seconds, peak_bytes=cost.peak_bytes)
    if run is not None:
        _keep(run, attempt)
    return pipeline, attempt


def _begun(run: Path | None) -> tuple[bool, bool]:
    """Whether a folder holds a part of a fit, and whether it holds a finished one."""
    folder = None if run is None else Run(run)
    if folder is None or not folder.file("config.json").is_file():
        return False, False
    return not folder.finished, folder.finished


@freed_memory_kept()
def _scored(pipeline: Pipeline, attempt: Attempt, seed: int, split: Split, run: Path | None, progress: bool) -> Attempt:
    """The log-likelihood of the test rows and of a sample of training rows, where the model has one."""
    if not isinstance(pipeline.model, DensityModel):
        return replace(attempt, problem=_without_likelihood(attempt.word))
    scores = {
        name: _score(pipeline, rows, seed, progress) for name, rows in (("test", split.test), ("train", sampled(split)))
    }
    if run is not None:
        write_scores(run / SCORES, scores)
    return replace(attempt, test=scores["test"], train=scores["train"])


@freed_memory_kept()
def _measured(pipeline: Pipeline, attempt: Attempt, gauging: Gauging, run: Path | None, progress: bool) -> Attempt:
    """What the model draws, measured; what goes wrong with that is told in its place."""
    with bar("measuring samples", None, shown=progress):
        try:
            found = gauging.measured(pipeline)
        except Exception as error:  # the likelihood stands without it
            return replace(attempt, samples={"problem": _line(error)})
    if run is not None:
        samples.keep(run, found)
    return replace(attempt, samples=found)


def _without_likelihood(word: str) -> str | None:
    """Why a model has no likelihood; None if it has one."""
    kind = model_class(word)
    if issubclass(kind, DensityModel):
        return None
    return f"{word} has no likelihood{': ' if kind.without_likelihood else ''}{kind.without_likelihood}"


def _score(pipeline: Pipeline, rows: Examples, seed: int, progress: bool) -> LogLikelihood:
    with bar("scoring", len(rows), shown=progress) as shown:
        return pipeline.log_likelihood(rows, seed=seed, on_start=shown.total, on_calls=shown.advance)


def sampled(split: Split) -> Examples:
    """As many training rows as test rows, at most 1,000: the same ones for every model."""
    count = min(len(split.test), len(split.train), MOST_TRAIN_ROWS)
    return split.train.take(Noise(0, "compare", "train").permutation(len(split.train))[:count])


def _keep(run: Path, attempt: Attempt) -> None:
    names = KEPT
    write_json(run / ENTRY, {name: getattr(attempt, name) for name in names})


def _kept(run: Path, attempt: Attempt) -> Attempt | None:
    """What the folder knows of this attempt, with scores if they are there; None if it knows nothing."""
    try:
        found = read_json(run / ENTRY)
        same = (found["word"], found["seed"]) == (attempt.word, attempt.seed)
        kept = Attempt(
            **{name: value for name, value in found.items() if name in KEPT},
            problem=_without_likelihood(attempt.word),
            samples=samples.kept(run),
        )
    except (InputError, KeyError, TypeError):
        return None
    if not same or not Run(run).finished:
        return None
    try:
        scores = read_scores(run / SCORES)
        return replace(kept, test=scores["test"], train=scores["train"])
    except (InputError, KeyError):
        return kept


def _complete(attempt: Attempt) -> bool:
    """Whether nothing is left to fit and to score."""
    return _without_likelihood(attempt.word) is not None or (attempt.test is not None and attempt.train is not None)


def _line(error: Exception) -> str:
    """An error in one line; one that was not foreseen with its type."""
    foreseen = type(error).__name__ in ("InputError", "FitError")
    said = " ".join(str(error).split()) or "no message"
    return said if foreseen else f"{type(error).__name__}: {said}"
