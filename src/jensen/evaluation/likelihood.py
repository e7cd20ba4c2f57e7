"""The held-out likelihood of a run beside the controls on the same rows, and its self-check.

The self-check asks whether the model finds its own samples as likely as test rows: E_model[-log p] far from
E_test[-log p] shows a misfit, a large train - test gap shows memorising. All three numbers describe one chain, the one
the samples were drawn from.
"""

from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Examples, Split
from jensen.errors import InputError
from jensen.evaluation.calibration import classification
from jensen.evaluation.drawing import drawing_steps
from jensen.fitting import fit
from jensen.likelihood import BITS, Difference, LogLikelihood
from jensen.models.chain import ChainModel
from jensen.models.model import ClassGiven, enough_rows
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise

CONTROLS = ("independent", "gaussian")
FEW = 64


def controls_on(split: Split, rows: Examples, seed: int = 0) -> tuple[dict[str, LogLikelihood], dict[str, str]]:
    """The controls fitted to the training rows and scored on `rows`; and why one could not be."""
    found, problems = {}, {}
    for word in CONTROLS:
        try:
            found[word] = fit(split, word, seed=seed, progress=False).log_likelihood(rows, seed=seed)
        except InputError as error:
            problems[word] = str(error)
    return found, problems


def self_check(pipeline: Pipeline, split: Split, samples: Tensor, seed: int = 0) -> dict[str, Any]:
    """Mean log p of test rows, training rows and the model's own samples, under one chain.

    Args:
        pipeline: the model.
        split: its data.
        samples: rows drawn in `drawing_steps`.
        seed: of the choice of rows and of noise.
    """
    test, options = _few(split, "test", FEW, seed), _few_steps(pipeline)
    scored = train_and_test(pipeline, split, seed)
    alike = _with_the_holes_of(test.x, samples[: len(test)])
    scored["samples"] = pipeline.log_likelihood(alike, seed=seed, **options)
    return {
        "steps": drawing_steps(pipeline),
        "of": scored["test"].of,
        **{name: summary(ll) for name, ll in scored.items()},
    }


def train_and_test(pipeline: Pipeline, split: Split, seed: int = 0, most: int = FEW) -> dict[str, LogLikelihood]:
    """log p of some test rows and of as many training rows, at a cost that a look can afford.

    Args:
        pipeline: a model with a likelihood.
        split: its data.
        seed: of the choice of rows and of noise.
        most: rows of each.
    """
    options = _few_steps(pipeline)
    return {
        name: pipeline.log_likelihood(_few(split, name, most, seed), seed=seed, **options) for name in ("test", "train")
    }


def _few_steps(pipeline: Pipeline) -> dict[str, Any]:
    steps = drawing_steps(pipeline)
    return {} if steps is None else {"timesteps": steps, "calls": 8, "repetitions": 4}


def _few(split: Split, name: str, most: int, seed: int) -> Examples:
    """Test or training rows, as many of the one as of the other."""
    rows = split.test if name == "test" else split.train
    count = min(enough_rows(split.event_shape, most), len(split.test))
    return rows.take(Noise(seed, "self-check", name).permutation(len(rows))[:count])


def _with_the_holes_of(rows: Tensor, samples: Tensor) -> Tensor:
    """Samples with the cells missing that are missing in rows, so that both numbers are about the same cells."""
    return samples.masked_fill(rows[: len(samples)].isnan(), torch.nan) if rows.is_floating_point() else samples


def per_step(pipeline: Pipeline, rows: Examples, seed: int = 0) -> dict[str, Any] | None:
    """The mean cost of single steps of a chain model along the chain, in nats, with standard errors; null for one row."""
    if not isinstance(pipeline.model, ChainModel):
        return None
    few = Noise(seed, "per step").permutation(len(rows))[: enough_rows(pipeline.event_shape, 64)]
    batch = pipeline.encoded(rows).batch(few)
    steps, costs = pipeline.model.cost_per_step(batch.x, batch.id, seed)
    log_snr = pipeline.model.chain().log_snr[steps - 1]
    return {
        "step": steps.tolist(),
        "log_snr": log_snr.tolist(),
        "nats": costs.mean(1).tolist(),
        "stderr_nats": (costs.std(1) / costs.shape[1] ** 0.5).tolist() if costs.shape[1] > 1 else None,
    }


def summary(ll: LogLikelihood) -> dict[str, Any]:
    """`to_dict` with the line a person can quote."""
    return {**ll.to_dict(), "quote": str(ll)}


def difference_dict(difference: Difference) -> dict[str, Any]:
    """A JSON-able difference."""
    scale = BITS / difference.dims if difference.in_bits else None
    plain = [None if x != x or abs(x) == float("inf") else x for x in (difference.mean, difference.stderr)]
    bits = [None if x is None or scale is None else x * scale for x in plain]
    return {
        "mean_nats": plain[0],
        "stderr_nats": plain[1],
        "mean_bits_per_dim": bits[0],
        "stderr_bits_per_dim": bits[1],
        "meaning": difference.meaning,
    }


def named(pipeline: Pipeline, split: Split) -> dict[str, Any]:
    """What a record is about."""
    return {
        "model": pipeline.config["model"]["word"],
        "data": {"source": split.facts.get("source", "array"), "fingerprint": split.fingerprint},
    }


def unscored(pipeline: Pipeline, split: Split) -> dict[str, Any]:
    """The record of a model without likelihood, and why it has none."""
    return {
        **named(pipeline, split),
        "log_likelihood": None,
        "without_likelihood": pipeline.model.without_likelihood,
    }


@torch.no_grad()
def evaluate_run(
    pipeline: Pipeline, split: Split, model: LogLikelihood, samples: Tensor, seed: int = 0
) -> dict[str, Any]:
    """Everything a report says in numbers: the content of evaluation.json.

    Args:
        pipeline: the model.
        split: its data.
        model: the log-likelihood of the test rows.
        samples: rows drawn in `drawing_steps`.
        seed: of all other draws.
    """
    word = pipeline.config["model"]["word"]
    controls, problems = controls_on(split, split.test, seed) if word not in CONTROLS else ({}, {})
    classes = classification(pipeline, split.test, split.class_names, seed=seed)
    return {
        "model": word,
        "data": {"source": split.facts.get("source", "array"), "fingerprint": split.fingerprint},
        "log_likelihood": summary(model),
        "controls": {word: summary(ll) for word, ll in controls.items()}
        | {word: {"problem": line} for word, line in problems.items()},
        "differences": {
            word: difference_dict(model - control) for word, control in controls.items() if control.given == model.given
        },
        "per_step": per_step(pipeline, split.test, seed),
        "self_check": None if isinstance(pipeline.model, ClassGiven) else self_check(pipeline, split, samples, seed),
        **({} if classes is None else {"classification": classes}),
        "seed": seed,
    }
