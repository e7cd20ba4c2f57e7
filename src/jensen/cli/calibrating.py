"""`jensen calibrate`: a finished network's reverse variance measured anew, and what that does to the bound."""

from typing import Any

import torch
from torch import Tensor

from jensen.data import Examples, Split
from jensen.data.examples import Batch
from jensen.diffusion.variance import Learned
from jensen.errors import InputError, did_you_mean
from jensen.evaluation.likelihood import difference_dict, summary
from jensen.likelihood import BITS, LogLikelihood, plus_minus
from jensen.memory import freed_memory_kept
from jensen.models.chain import ChainModel
from jensen.models.ddpm import CALIBRATION_ROWS, DDPM
from jensen.models.model import enough_rows
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise
from jensen.training.progress import bar
from jensen.training.run import Run

LENGTHS, ROUNDING = (10, 25, 50, 100), 1e-9
MOST_ROWS, SCORED, CALLS, REPETITIONS = 1024, 64, 16, 4


@freed_memory_kept()
def calibrated_anew(
    folder: Run, pipeline: Pipeline, split: Split, by: str | None, count: int | None, seed: int
) -> dict[str, Any]:
    """Measure on `count` validation rows (None: up to 1024, at most three quarters), score others as the run was and as it is then, and keep it.

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
    strangers, known = _strangers(order[count:], _own_rows(pipeline, len(split.valid)))
    others = split.valid.take(strangers[: enough_rows(split.event_shape, SCORED)])
    batch = pipeline.encoded(split.valid).batch(order[:count])
    before = _bounds(pipeline, others, seed)
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
    return {"calibration": how, "was": old, "scored_rows": len(others), "seen_before": known, "bounds": table}


def _own_rows(pipeline: Pipeline, rows: int) -> Tensor:
    """The validation rows that the run's calibration is from: of an earlier `jensen calibrate`, or of the fit."""
    fitted = {"seed": pipeline.config["request"]["seed"], "rows": enough_rows(pipeline.event_shape, CALIBRATION_ROWS)}
    later = pipeline.config.get("calibration", {})
    known = {name: value for name, value in later.items() if isinstance(value, int) and value >= 0}
    how = {name: known.get(name, value) for name, value in fitted.items()}
    return Noise(how["seed"], "calibrate").permutation(rows)[: how["rows"]]


def _strangers(rows: Tensor, own: Tensor) -> tuple[Tensor, bool]:
    """Those that the run's own calibration has not seen; all, and that it has, where they are fewer than 2."""
    unseen = rows[~torch.isin(rows, own)]
    return (unseen, False) if len(unseen) > 1 else (rows, True)


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
        return [*told, "fewer than 2 other validation rows are left to score; give a smaller -n to see what it does"]
    seen = " (which the old calibration had seen, to its advantage)" if record["seen_before"] else ""
    told.append(
        f"the bound on {record['scored_rows']} other validation rows{seen}, as the run was ({record['was']}) → as it is now (± of the paired difference):"
    )
    told += [f"  T = {row['steps']:<6} {_change(row)[0]}" for row in table]
    if _change(table[-1])[1]:
        told.append(
            f"it is worse in the chain's own T = {table[-1]['steps']}; without calibration.safetensors the run is as it was fitted"
        )
    return told


def _change(row: dict[str, Any]) -> tuple[str, bool]:
    """The two bounds of a chain and how far apart they are, in words; and whether the second is surely worse."""
    old, new, difference = row["before"], row["after"], row["difference"]
    bits = difference["mean_bits_per_dim"] is not None
    sign, unit, name = ("≤", "bits/dim", "bits_per_dim") if bits else ("≥", "nats", "mean_nats")
    first, last, gained = old[name], new[name], difference["mean_bits_per_dim" if bits else "mean_nats"]
    if abs(gained) <= ROUNDING * abs(first):
        return f"{sign} {first:.4f} {unit}, as before", False
    error = (difference["stderr_nats"] or 0.0) * (BITS / old["dims"] if bits else 1.0)
    change = f"{plus_minus(abs(gained), error)} {'better' if gained > 0 else 'worse'}"
    return f"{sign} {first:.4f} → {sign} {last:.4f} {unit}  ({change})", gained < -2 * error
