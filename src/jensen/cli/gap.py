"""`jensen evaluate --gap N`: how much of log p - elbo the family of q has to answer for, and how much the encoder."""

from typing import Any

from torch import Tensor

from jensen.data import Examples
from jensen.errors import InputError
from jensen.models.pipeline import Pipeline
from jensen.models.vae import VAE
from jensen.noise import Noise
from jensen.training.progress import bar

CERTIFY = {"n": 32, "temperatures": 100, "chains": 4}  # rows drawn from the model, and how they are annealed


def check_gap(pipeline: Pipeline, count: int | None, most: int | None) -> None:
    """Refuse --gap where there is no encoder, or more rows than `most` that -n takes, before any work."""
    if count is None:
        return
    if not isinstance(pipeline.model, VAE):
        word = pipeline.config["model"]["word"]
        raise InputError(
            f"--gap is for vae, whose q(z | x) is a network's guess; this run's model is {word!r}; leave it out"
        )
    pipeline.model.check_gap()
    if not 2 <= count <= (10_000 if most is None else most):
        limit = "10,000" if most is None else f"the {most:,} that -n takes"
        raise InputError(f"--gap, a number of rows, must be from 2 to {limit}, got {count}")


def taken_apart(pipeline: Pipeline, rows: Examples, count: int, seed: int) -> dict[str, Any]:
    """The gap of some of the rows, and the sandwich on rows that the model draws."""
    model = pipeline.model
    assert isinstance(model, VAE)
    if len(rows) < 2:
        raise InputError(f"--gap needs at least 2 rows for an error bar, got {len(rows)}; leave it out")
    chosen = rows.take(Noise(seed, "gap", "rows").permutation(len(rows))[:count])
    batch = pipeline.encoded(chosen).batch(slice(None))
    with bar("taking the gap apart", len(chosen)) as shown:
        found = model.gap(batch.x, batch.context, ids=batch.id, seed=seed, on_calls=shown.advance)
    pair = model.certified(**CERTIFY, seed=seed)
    return {
        "rows": len(chosen),
        "gap": _mean(found.log_p.value - found.elbo.value),
        "family": _mean(found.family),
        "amortisation": _mean(found.amortisation),
        "unreliable": int((~found.log_p.told["reliable"]).sum()),
        "effective_sample_size": float(found.log_p.told["ess"].median()),
        "sandwich": {"rows": CERTIFY["n"], "gap_nats": pair.gap, "stderr_nats": pair.stderr},
        "seed": seed,
    }


def _mean(values: Tensor) -> dict[str, float]:
    return {"mean_nats": float(values.mean()), "stderr_nats": float(values.std()) / len(values) ** 0.5}
