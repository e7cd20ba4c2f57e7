"""The one training loop. It eats fitters, and knows nothing of models.

The rows of step n are a pure function of (seed, n), so a run that was cut off goes on as if nothing had happened:
load the newest checkpoint, cut the history back to it, continue. When checkpoints are written depends on the clock;
nothing that affects weights does.
"""

import math
import statistics
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from jensen.data.binarise import at_step
from jensen.errors import FitError, InputError
from jensen.noise import Noise
from jensen.training.fitter import Fitter, Rows, State
from jensen.training.interrupt import held_back
from jensen.training.progress import Bar, Silent
from jensen.training.run import Run

EVALUATIONS, SHARE, LONG = 20, 0.2, 0.01
TRIAL, GOLDEN = 1000, (math.sqrt(5) - 1) / 2
SECONDS_BETWEEN_CHECKPOINTS = 30.0
SKIPS_BEFORE_STOP = 20


def rows_at(seed: int, step: int, batch_size: int, rows: int) -> Tensor:
    """The row numbers of a step: every row once an epoch, in an order drawn for that epoch."""
    start = step * batch_size
    first, last = start // rows, (start + batch_size - 1) // rows
    orders = torch.cat([_order(seed, epoch, rows) for epoch in range(first, last + 1)])
    offset = start - first * rows
    return orders[offset : offset + batch_size]


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, rows: int) -> Tensor:
    """The order of an epoch, drawn once and not at every step."""
    return Noise(seed, "order", epoch).permutation(rows)


class Loop:
    """Runs a fitter to its end.

    Args:
        fitter: what to train.
        rows: the training rows, in the fitter's units.
        seed: orders the rows.
        run: where checkpoints and history go; None keeps nothing.
        every: steps between evaluations.
        bar: where progress is shown.
        describe: turns metrics into the text behind the bar.
    """

    def __init__(
        self,
        fitter: Fitter,
        rows: Rows,
        *,
        seed: int,
        every: int,
        run: Run | None = None,
        bar: Bar | None = None,
        describe: Callable[[dict[str, float]], str] = lambda metrics: "",
    ) -> None:
        self.fitter, self.rows, self.seed, self.run, self.every = fitter, rows, seed, run, every
        self.bar, self.describe = bar or Silent(), describe
        self.metrics: dict[str, float] = {}
        self._loss_sum, self._losses = 0.0, 0
        self._bad_since: int | None = None

    def resume(self) -> int:
        """Load the newest checkpoint of the run, if any; the number of steps already done."""
        if self.run is None:
            return 0
        found = self.run.load_state()
        step = -1 if found is None else found[0]
        if found is not None:
            self._load(found[1])
        self.run.cut_history(step)
        return max(0, step)

    def _load(self, state: State) -> None:
        try:
            own = state.numbers["loop"]
            self.fitter.load_state(State(state.tensors, state.numbers["fitter"]))
            self.metrics, self._bad_since = dict(own["metrics"]), own["bad_since"]
            self._loss_sum, self._losses = own["loss_sum"], own["losses"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"the checkpoint does not fit the run's config.json ({str(error)[:100]}); begin anew with --overwrite"
            ) from error

    def _save(self, done: int) -> None:
        if self.run is None or done == 0:
            return
        state = self.fitter.state()
        own = {
            "metrics": self.metrics,
            "bad_since": self._bad_since,
            "loss_sum": self._loss_sum,
            "losses": self._losses,
        }
        self.run.save_state(done, State(state.tensors, {"fitter": state.numbers, "loop": own}))

    def go(self, done: int = 0) -> None:
        """Train from step `done` to the end. Ctrl-C lets the step end, saves a checkpoint and raises KeyboardInterrupt."""
        saved = began = time.monotonic()
        begun_at = done
        with held_back() as interrupted:
            if done == 0:
                self._evaluate(0)
            while done < self.fitter.last() and not interrupted():
                metrics = self.take(done)
                done += 1
                self._watch(done, metrics)
                if done % self.every == 0 or done >= self.fitter.last():
                    self._evaluate(done)
                if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    self._save(done)
                    saved = time.monotonic()
                rate = (done - begun_at) * self.fitter.batch_size / max(1e-9, time.monotonic() - began)
                self.bar.total(self.fitter.last())
                self.bar.advance()
                self.bar.note(self.describe({**self.metrics, "rows_per_second": rate}))
            self._save(done)
        if interrupted():
            raise KeyboardInterrupt

    def take(self, number: int) -> dict[str, float]:
        """Take one step; what happened."""
        return self._take(number, number)

    def try_out(self, number: int) -> dict[str, float]:
        """Take a step from anywhere in a run, on the rows of the first, so that no other epoch's order is drawn for it."""
        return self._take(number, 0)

    def _take(self, number: int, at: int) -> dict[str, float]:
        indices = rows_at(self.seed, at, self.fitter.batch_size, len(self.rows))
        batch = at_step(self.rows, indices, Noise(self.seed, "redraw", number))
        return self.fitter.step(number, batch)

    def _watch(self, done: int, metrics: dict[str, float]) -> None:
        """Take note of a step; stop where they keep failing."""
        self.metrics.update(metrics)
        if math.isfinite(metrics["loss"]):
            self._loss_sum, self._losses = self._loss_sum + metrics["loss"], self._losses + 1
        if math.isfinite(metrics["loss"]) and math.isfinite(metrics.get("grad_norm", 0.0)):
            self._bad_since = None
            return
        self._bad_since = done if self._bad_since is None else self._bad_since
        if done - self._bad_since + 1 >= SKIPS_BEFORE_STOP:
            self._save(done)
            what = "loss" if not math.isfinite(metrics["loss"]) else "gradient"
            raise FitError(
                f"the {what} has not been finite for {SKIPS_BEFORE_STOP} steps, since step {self._bad_since} "
                f"(learning rate {metrics.get('lr', math.nan):.2g}); the weights from before are kept. "
                "Try --set lr=… ten times lower, --set precision=float32, or look at the data with `jensen show`"
            )

    def _evaluate(self, number: int) -> None:
        held_out = self.fitter.evaluate(number)
        if "bound" in held_out:
            self.metrics["held_out"] = held_out["bound"]
        else:
            self.metrics.update([next(iter(held_out.items()))])
        loss = self._loss_sum / self._losses if self._losses else None
        self._loss_sum, self._losses = 0.0, 0
        kept: dict[str, Any] = {
            name: self.metrics[name] for name in ("grad_norm", "lr", "skipped") if name in self.metrics
        }
        record: dict[str, Any] = {"step": number, "loss": loss, **kept, "held_out": held_out}
        if self.run:
            self.run.append_history({k: _plain(v) for k, v in record.items()})


def evaluation_interval(steps: int, cost: float = 0.0) -> int:
    """Steps between evaluations: twenty a run, but never so close that the stop rule would judge a handful of steps, nor that they would
    take more than a fifth as long as the steps.

    Args:
        steps: of the run.
        cost: of an evaluation, in steps (`Fitter.evaluation_cost`).
    """
    return max(1, min(steps, max(25, steps // EVALUATIONS, math.ceil(cost / SHARE))))


def spread(count: int) -> int:
    """The step that is tried next when `count` have been."""
    return int(TRIAL * ((count + 1) * GOLDEN % 1))


def steps_within(seconds: float, step: Callable[[int], Any], evaluate: Callable[[], Any], cost: float = 0.0) -> int:
    """The number of steps that fit a budget, from the time of a few steps that are thrown away.

    They are taken from all over a run of `TRIAL` steps, since later steps may cost more than the first; multiples of the
    golden ratio, modulo 1, are spread evenly however many there are.

    Args:
        seconds: the budget.
        step: takes a step, of a number below `TRIAL`, on something disposable.
        evaluate: one held-out evaluation, of which a run has as many as `evaluation_interval` says.
        cost: for that.
    """
    if not 1 <= seconds <= 30 * 86400:
        raise InputError(f"a budget must lie between 1s and 30 days, got {seconds:g} s")
    for number in range(2):
        step(spread(number))
    a_step = _a_step(step, min(10.0, 0.03 * seconds))
    an_evaluation = _timed(evaluate)
    if an_evaluation > LONG * seconds:
        an_evaluation = min(an_evaluation, _timed(evaluate))
    steps = int(seconds / a_step)
    for _ in range(20):
        evaluations = 1 + steps // evaluation_interval(steps, cost)
        steps = int(max(seconds - an_evaluation * evaluations, 0.3 * seconds) / a_step)
    return max(EVALUATIONS, steps)


def _a_step(step: Callable[[int], Any], enough: float) -> float:
    """Seconds of a step, from so many seconds of them; once more where the machine stood still for most of these."""
    took: list[float] = []
    for _ in range(2):
        began = time.monotonic()
        while time.monotonic() - began < enough or len(took) < 3:
            took.append(_timed(lambda: step(spread(len(took)))))
        if _usual(took) * len(took) > 0.5 * enough:
            break
    return _usual(took)


def _timed(do: Callable[[], Any]) -> float:
    """Seconds."""
    began = time.monotonic()
    do()
    return time.monotonic() - began


def _usual(took: list[float]) -> float:
    """The mean, none counted for more than four times the median: a machine that once stood still, a lid that was closed, are no pace."""
    most = 4 * statistics.median(took)
    return statistics.mean(min(seconds, most) for seconds in took)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value if not isinstance(value, float) or math.isfinite(value) else None
