"""`jensen calibrate`: a finished network's reverse variance measured anew, and what that does to the bound."""

from typing import Any

from jensen.data import Examples, Split
from jensen.data.examples import Batch
from jensen.diffusion.variance import Learned
from jensen.errors import InputError, did_you_mean
from jensen.evaluation.likelihood import difference_dict, summary
from jensen.likelihood import BITS, LogLikelihood, plus_minus
from jensen.models.chain import ChainModel
from jensen.models.ddpm import DDPM
from jensen.models.model import enough_rows
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise
from jensen.training.progress import bar
from jensen.training.run import Run

LENGTHS = (10, 25, 50, 100)
MOST_ROWS, SCORED, CALLS, REPETITIONS = 1024, 64, 16, 4


def calibrated_anew(
    folder: Run, pipeline: Pipeline, split: Split, by: str | None, count: int | None, seed: int
) -> dict[str, Any]:
    """Measure on `count` validation rows (None: up to 1024, at most three quarters), score others before and after, and keep it in the run.

    Raises:
        InputError: a model that cannot, an unknown way, more rows than there are.
    """
    model = pipeline.model
    if not isinstance(model, DDPM):
        word = pipeline.config["model"]["word"]
        raise InputError(f"jensen calibrate is for diffusion models, and this run's model is {word!r}")
    old = model.reverse.variance.word
    if by is None and isinstance(model.reverse.variance, Learned):
        raise InputError(
            "this run's reverse variance is learned by its network, and there is nothing to measure; to put a measured one in its place, name it with --variance"
        )
    by = by or (old if old in model.calibrations else "calibrated")
    if by not in model.calibrations:
        near = did_you_mean(by, model.calibrations)
        raise InputError(f"unknown --variance {by!r}; {near}known are {', '.join(model.calibrations)}")
    count = max(2, min(MOST_ROWS, 3 * len(split.valid) // 4)) if count is None else count
    if not 2 <= count <= len(split.valid):
        raise InputError(f"-n, a number of validation rows, must be from 2 to {len(split.valid):,}, got {count}")
    model.variance_by(by)  # refused before any work, if at all
    order = Noise(seed, "calibrate").permutation(len(split.valid))
    others = split.valid.take(order[count:][: enough_rows(split.event_shape, SCORED)])
    batch = pipeline.encoded(split.valid).batch(order[:count])
    _calibrate(model, batch, seed)  # as it was, on the same rows, so that both are strangers to the others
    before = after = _bounds(pipeline, others, seed)
    if by != old:
        model.calibrated_by(by)
        _calibrate(model, batch, seed)
        after = _bounds(pipeline, others, seed)
    how = {"by": by, "rows": count, "seed": seed}
    with folder.locked():
        folder.write_calibration(model.calibration(), how)
    table = [
        {"steps": steps, "before": summary(before[steps]), "after": summary(after[steps])}
        | {"difference": difference_dict(after[steps] - before[steps])}
        for steps in before
    ]
    return {"calibration": how, "was": old, "scored_rows": len(others), "bounds": table}


def _calibrate(model: DDPM, batch: Batch, seed: int) -> None:
    with bar("calibrating", model.calibration_calls(len(batch.x), most=len(batch.x))) as shown:
        model.calibrate_on(batch, seed, shown.advance)


def _bounds(pipeline: Pipeline, rows: Examples, seed: int) -> dict[int, LogLikelihood]:
    """Of some validation rows in chains of several lengths."""
    assert isinstance(pipeline.model, ChainModel)
    own = pipeline.model.chain().steps
    lengths = [*(steps for steps in LENGTHS if 2 <= steps < own), own]
    if len(rows) < 2:
        return {}
    with bar("scoring other validation rows", len(lengths)) as shown:
        found = {}
        for steps in lengths:
            calls = min(CALLS, steps) if steps > 1 else None
            found[steps] = pipeline.log_likelihood(
                rows, timesteps=steps, calls=calls, repetitions=REPETITIONS, seed=seed
            )
            shown.advance()
    return found


def lines(record: dict[str, Any]) -> list[str]:
    """What a person reads."""
    how, table = record["calibration"], record["bounds"]
    told = [f"reverse variance: {how['by']}, measured on {how['rows']} validation rows (seed {how['seed']})"]
    if not table:
        return [*told, "there are no other validation rows to score; give a smaller -n to see what it does"]
    told.append(f"the bound on {record['scored_rows']} other validation rows" + _change(record) + ":")
    if record["was"] == how["by"]:
        return told + [f"  T = {row['steps']:<6} {row['after']['quote']}" for row in table]
    for row in table:
        old, new, difference = row["before"], row["after"], row["difference"]
        in_bits = difference["mean_bits_per_dim"] is not None
        unit = "bits/dim" if in_bits else "nats"
        first, last = (x["bits_per_dim"] if in_bits else x["mean_nats"] for x in (old, new))
        dims = old["dims"]
        error = (difference["stderr_nats"] or 0.0) * (BITS / dims if in_bits else 1.0)
        gained = (difference["mean_bits_per_dim"] or 0.0) if in_bits else difference["mean_nats"]
        sign, change = "≤" if in_bits else "≥", "better" if gained >= 0 else "worse"
        told.append(
            f"  T = {row['steps']:<6} {sign} {first:.4f} → {sign} {last:.4f} {unit}  ({plus_minus(abs(gained), error)} {change})"
        )
    if gained < -2 * error:
        told.append(
            f"it is worse in the chain's own T = {row['steps']}; without calibration.safetensors the run is as it was fitted"
        )
    return told


def _change(record: dict[str, Any]) -> str:
    """What the two numbers of a line are, where there are two."""
    old, new = record["was"], record["calibration"]["by"]
    return "" if old == new else f", {old} → {new} (± of the paired difference)"
