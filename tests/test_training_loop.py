"""The loop: order, stages, average, skipped steps, and going on after any interruption as if there had been none."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jensen
from jensen.data.examples import Batch, Examples
from jensen.errors import FitError, InputError
from jensen.noise import Noise
from jensen.training import loop as loop_module
from jensen.training.device import precision
from jensen.training.fitter import GradientFitter, Objective, TrainingSettings
from jensen.training.loop import Loop, evaluation_interval, rows_at, steps_within
from jensen.training.optim import EMA, Stages
from jensen.training.run import Run

OPTIONS: dict[str, Any] = {
    "steps": 24,
    "timesteps": 10,
    "size": "tiny",
    "batch_size": 50,
    "dropout": 0.2,
    "precision": "float32",
}


class Line(Objective):
    """Least squares with dropout; `trouble` names steps whose loss is not finite."""

    def __init__(self, trouble: set[int] | None = None) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 1))
        self.trouble, self.seen = trouble or set(), []

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        self.seen.append((noise.path, batch.id.tolist()))
        loss = (self.network(batch.x[:, :2]) - batch.x[:, 2:]).square().sum(1)
        return loss * math.nan if noise.path[-1] in self.trouble else loss

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        fit = -(self.network(batch.x[:, :2]) - batch.x[:, 2:]).square().sum(1)
        return {"fit": fit, "draw": 0.1 * noise.normal(batch.id, ())}


def examples(n: int, seed: int = 0) -> Examples:
    x = np.random.default_rng(seed).normal(size=(n, 3))
    x[:, 2] = x[:, 0] * x[:, 1]
    return Examples(torch.from_numpy(x).float(), torch.arange(n))


def loop_of(
    run: Run | None = None,
    steps: int = 30,
    trouble: set[int] | None = None,
    every: int = 5,
    seed: int = 0,
    watched: int = 40,
    **settings: Any,
) -> Loop:
    chosen = TrainingSettings(**{"batch_size": 16, "patience": 0, **settings})
    held_out = examples(watched, 1)
    fitter = GradientFitter(Line(trouble), chosen, precision("float32"), steps=steps, held_out=held_out, seed=seed)
    return Loop(fitter, examples(50), seed=seed, every=every, run=run)


def weights(loop: Loop) -> dict[str, Tensor]:
    return {**loop.fitter.state().tensors}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Order and noise


@pytest.mark.parametrize(("rows", "batch_size"), [(10, 10), (10, 3), (7, 5), (100, 32)])
def test_every_epoch_holds_every_row_once(rows: int, batch_size: int):
    order = torch.cat([rows_at(3, step, batch_size, rows) for step in range(4 * rows // batch_size + 2)])
    epochs = [order[i : i + rows] for i in range(0, len(order) - rows + 1, rows)]
    assert len(epochs) >= 3
    assert all(torch.equal(epoch.sort().values, torch.arange(rows)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[0], rows_at(4, 0, rows, rows))


def test_rows_and_noise_are_functions_of_seed_and_step():
    """Steps taken in another order, in another loop, see the same rows and the same noise."""
    one, other = loop_of(), loop_of()
    for step in range(6):
        one.take(step)
    for step in (4, 1, 5):
        other.take(step)
    assert [one.fitter.objective.seen[step] for step in (4, 1, 5)] == other.fitter.objective.seen


def test_dropout_is_a_function_of_the_step():
    """The global generator plays no part and is left as it was."""
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append([loop_of().take(7)["loss"] for _ in range(2)])
        assert torch.equal(before, torch.get_rng_state())
    assert losses[0][0] == losses[0][1] == losses[1][0]
    assert loop_of().take(8)["loss"] != losses[0][0]


def test_another_seed_is_other_noise_and_other_dropout():
    batch = examples(16).batch(slice(None))
    one, other = loop_of(seed=0).fitter, loop_of(seed=1).fitter
    assert one.step(0, batch)["loss"] != other.step(0, batch)["loss"]
    assert one.objective.seen[0][0] != other.objective.seen[0][0]


# One step and one evaluation


def test_the_gradient_is_clipped_and_told_as_it_was():
    fitter = loop_of(grad_clip=0.01).fitter
    told = fitter.step(0, examples(16).batch(slice(None)))["grad_norm"]
    applied = math.sqrt(sum(float(p.grad.square().sum()) for p in fitter.objective.parameters()))
    assert told > 0.1
    assert applied == pytest.approx(0.01, rel=1e-3)


def test_the_first_step_of_a_warm_up_is_that_much_smaller():
    """Adam's first step is lr · rate · sign of the gradient; warm-up over 10 of 100 steps makes the rate 1/10."""
    for warmup, rate in ((0.0, 1.0), (0.1, 0.1)):
        loop = loop_of(steps=100, lr=0.01, warmup=warmup, weight_decay=0.0)
        before = [p.detach().clone() for p in loop.fitter.objective.parameters()]
        assert loop.take(0)["lr"] == pytest.approx(0.01 * rate)
        after = loop.fitter.objective.parameters()
        moved = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
        assert moved == pytest.approx(0.01 * rate, rel=1e-3)


def test_held_out_values_are_means_over_every_row():
    """300 rows in two batches, and the same noise every time."""
    fitter = loop_of(watched=300).fitter
    found = fitter.evaluate(0)
    terms = fitter.average.held_out(examples(300, 1).batch(slice(None)), Noise(0, "held-out"))
    for name, values in terms.items():
        assert found[name] == pytest.approx(float(values.double().mean()), rel=1e-5)
    assert found["bound"] == pytest.approx(found["fit"] + found["draw"])
    assert fitter.evaluate(5) == found


def test_the_history_holds_every_evaluation_and_the_mean_loss_since_the_last(tmp_path):
    """28 steps, evaluated after every 5th and after the last; a step whose loss is not finite is not averaged."""
    loop, losses = loop_of(Run(tmp_path), steps=28, trouble={7}), []
    step = loop.fitter.step

    def watched(number: int, batch: Batch) -> dict[str, float]:
        losses.append(step(number, batch))
        return losses[-1]

    loop.fitter.step = watched
    loop.go()
    history = Run(tmp_path).history()
    ends = [0, 5, 10, 15, 20, 25, 28]
    assert [record["step"] for record in history] == ends
    assert history[0]["loss"] is None
    for record, start, end in zip(history[1:], ends, ends[1:], strict=False):
        known = [m["loss"] for m in losses[start:end] if math.isfinite(m["loss"])]
        assert record["loss"] == pytest.approx(sum(known) / len(known))


# Stages and the average


def test_the_rate_has_three_stages():
    stages = Stages(steps=100, warmup=10, patience=0)
    rates = [stages.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(100 - i) / 20 for i in range(80, 100)])
    assert stages.last == 100


def test_no_improvement_starts_the_decay_early():
    stages = Stages(steps=1000, warmup=0, patience=3)
    assert [stages.saw(step, value) for step, value in [(0, 1.0), (10, 2.0), (20, 1.5), (30, 2.0)]] == [
        True,
        True,
        False,
        False,
    ]
    assert stages.last == 1000
    stages.saw(40, math.nan)
    assert (stages.decay_from, stages.last) == (40, 50)
    assert [stages.rate(step) for step in (39, 40, 45, 49)] == pytest.approx([1.0, 1.0, 0.5, 0.1])
    stages.saw(44, 0.0)
    assert stages.decay_from == 40


def test_a_run_stopped_early_is_resumed_equal(tmp_path):
    options = {"patience": 2, "lr": 0.9, "steps": 200}
    whole = loop_of(Run(tmp_path / "a"), **options)
    whole.go()
    assert whole.fitter.last() < 200
    part = loop_of(Run(tmp_path / "b"), **options)
    stop_after(part, whole.fitter.last() - 2)
    again = loop_of(Run(tmp_path / "b"), **options)
    again.go(again.resume())
    assert again.fitter.last() == whole.fitter.last()
    assert equal(weights(whole), weights(again))
    assert Run(tmp_path / "a").history() == Run(tmp_path / "b").history()


def test_the_average_is_the_formulas():
    source, average = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    ema, expected = EMA(source, average, horizon=5.0), float(average.weight)
    for n in range(12):
        source.weight.data.fill_(float(n))
        ema.update()
        decay = min(0.8, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * n
    assert float(average.weight) == pytest.approx(expected, rel=1e-5)


def test_the_average_takes_the_sources_buffers_as_they_are():
    source, average = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)) + 5)
    EMA(source, average, horizon=100.0).update()
    assert all(torch.equal(a, b) for a, b in zip(source.buffers(), average.buffers(), strict=True))
    assert float(average.running_mean.min()) > 0.1


def test_every_step_moves_the_average():
    """w̄ after n steps of the loop is the formula's, from the weights as they were after each; horizon 0.2 · 30 = 6."""
    loop = loop_of(ema=0.2)
    expected = {name: p.detach().clone() for name, p in loop.fitter.average.named_parameters()}
    for n in range(10):
        loop.take(n)
        decay = min(1 - 1 / 6, (1 + n) / (10 + n))
        for name, p in loop.fitter.objective.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * p.detach()
    for name, p in loop.fitter.average.named_parameters():
        torch.testing.assert_close(p, expected[name])


def test_what_gets_worse_later_is_not_kept():
    fitter = loop_of().fitter
    kept, before = {k: v.clone() for k, v in fitter.average.state_dict().items()}, fitter.evaluate(0)["bound"]
    for p in fitter.average.parameters():
        p.add_(3.0)
    assert fitter.evaluate(5)["bound"] < before
    fitter.keep_best()
    assert equal(fitter.objective.state_dict(), kept)
    assert not fitter.objective.training


def test_the_best_average_is_kept():
    loop = loop_of(steps=40, lr=0.5)
    best: list[tuple[float, dict[str, Tensor]]] = []
    evaluate = loop.fitter.evaluate

    def watched(number: int) -> dict[str, float]:
        found = evaluate(number)
        best.append((found["bound"], {k: v.clone() for k, v in loop.fitter.average.state_dict().items()}))
        return found

    loop.fitter.evaluate = watched
    loop.go()
    loop.fitter.keep_best()
    assert equal(loop.fitter.objective.state_dict(), max(best, key=lambda pair: pair[0])[1])


# What is not finite


def test_steps_that_are_not_finite_are_skipped_and_counted():
    clean, spoiled = loop_of(), loop_of(trouble={1, 3})
    before = weights(spoiled)
    for step in (1, 3):
        assert not math.isfinite(spoiled.take(step)["loss"])
    assert equal(before, weights(spoiled))
    assert spoiled.take(0)["skipped"] == 2
    clean.take(0)
    assert equal(weights(clean), weights(spoiled))


def test_a_fit_that_keeps_failing_stops_with_a_diagnosis_and_its_best_state(tmp_path):
    run = Run(tmp_path / "run")
    run.write_config({})
    loop = loop_of(run, steps=100, trouble=set(range(12, 100)))
    with pytest.raises(FitError, match=r"the loss has not been finite for 20 steps, since step 13 .*--set lr") as error:
        loop.go()
    assert "weights from before are kept" in str(error.value)
    done, state = run.load_state()
    assert done == 32
    reached = loop_of(steps=100)
    for step in range(12):
        reached.take(step)
    now = {name: tensor for name, tensor in state.tensors.items() if not name.startswith("best/")}
    assert equal(now, {name: tensor for name, tensor in weights(reached).items() if not name.startswith("best/")})
    assert equal({k: v for k, v in state.tensors.items() if k.startswith("best/")}, best_of(loop))


def best_of(loop: Loop) -> dict[str, Tensor]:
    return {f"best/{name}": tensor for name, tensor in loop.fitter.best.items()}


def test_failing_and_recovering_goes_on():
    loop = loop_of(steps=60, trouble=set(range(5, 24)) | set(range(30, 49)))
    loop.go()
    assert loop.fitter.skipped == 38


def test_a_loaded_state_is_the_state(tmp_path):
    """Every tensor and every counter, none of which is 0 here."""
    loop = loop_of(trouble={2, 6, 7}, lr=0.9, patience=9)
    for step in range(8):
        loop.take(step)
        loop.fitter.evaluate(step)
    state, other = loop.fitter.state(), loop_of(patience=9).fitter
    counters = {**state.numbers, **state.numbers["stages"]}
    assert all(
        counters[name] for name in ("ema_updates", "skipped", "skipped_in_a_row", "waited", "best", "decay_from")
    )
    other.load_state(state)
    assert other.state().numbers == state.numbers
    assert equal(other.state().tensors, state.tensors)
    assert {name.partition("/")[0] for name in state.tensors} == {"weights", "average", "best", "optimizer"}


def test_trouble_counts_across_an_interruption(tmp_path):
    run = Run(tmp_path / "run")
    stop_after(loop_of(run, steps=100, trouble=set(range(5, 100))), 15)
    again = loop_of(run, steps=100, trouble=set(range(5, 100)))
    with pytest.raises(FitError, match="since step 6 "):
        again.go(again.resume())


# Interruptions


def stop_after(loop: Loop, steps: int) -> None:
    """Ctrl-C in the middle of a step."""
    step = loop.fitter.step

    def interrupted(number: int, batch: Batch) -> dict[str, float]:
        if number == steps - 1:
            signal.raise_signal(signal.SIGINT)
        return step(number, batch)

    loop.fitter.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop.go(loop.resume())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("steps", [1, 7, 10, 29, 30])
def test_ctrl_c_ends_the_step_and_loses_nothing(steps: int, tmp_path):
    """Also the mean loss between evaluations, which straddles the interruption."""
    whole = loop_of(Run(tmp_path / "a"))
    whole.go(whole.resume())
    stop_after(loop_of(Run(tmp_path / "b")), steps)
    again = loop_of(Run(tmp_path / "b"))
    assert again.resume() == steps
    again.go(steps)
    assert equal(weights(whole), weights(again))
    assert (tmp_path / "a/history.jsonl").read_bytes() == (tmp_path / "b/history.jsonl").read_bytes()


def test_a_second_ctrl_c_does_not_wait():
    loop = loop_of()

    def twice(number: int, batch: Batch) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("still here")

    loop.fitter.step = twice
    with pytest.raises(KeyboardInterrupt):
        loop.go()


def test_ctrl_c_before_the_first_step_leaves_nothing_half_done(tmp_path):
    whole, run = loop_of(Run(tmp_path / "a")), Run(tmp_path / "b")
    whole.go(whole.resume())
    loop = loop_of(run)
    evaluate = loop.fitter.evaluate

    def interrupted(number: int) -> dict[str, float]:
        signal.raise_signal(signal.SIGINT)
        return evaluate(number)

    loop.fitter.evaluate = interrupted
    with pytest.raises(KeyboardInterrupt):
        loop.go(loop.resume())
    again = loop_of(run)
    again.go(again.resume())
    assert equal(weights(whole), weights(again))
    assert run.history() == Run(tmp_path / "a").history()


def test_what_came_after_the_checkpoint_is_taken_back(tmp_path):
    """A checkpoint after step 7, history up to step 15, a torn last line: as if killed there."""
    whole, run = loop_of(Run(tmp_path / "a")), Run(tmp_path / "b")
    whole.go(whole.resume())
    stop_after(loop_of(run), 7)
    for step in (10, 15):
        run.append_history({"step": step, "loss": 0.0})
    with run.file("history.jsonl").open("ab") as file:
        file.write(b'{"step": 20, "lo\xff')
    again = loop_of(run)
    again.go(again.resume())
    assert equal(weights(whole), weights(again))
    assert run.history() == Run(tmp_path / "a").history()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path):
    whole, run = loop_of(), Run(tmp_path)
    whole.go()
    stop_after(loop_of(run), 7)
    stop_after(loop_of(run), 12)
    newest = run.path / "state/step-000000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    again = loop_of(run)
    assert again.resume() == 7
    again.go(7)
    assert equal(weights(whole), weights(again))


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    run = Run(tmp_path)
    stop_after(loop_of(run), 7)
    found = run.load_state()
    found[1].tensors["weights/network.0.weight"] = torch.zeros(3, 3)
    run.save_state(8, found[1])
    with pytest.raises(InputError, match=r"checkpoint does not fit the run.s config\.json"):
        loop_of(run).resume()


def test_checkpoints_are_written_by_the_clock_and_two_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    loop_of(Run(tmp_path)).go()
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert names == ["step-000000029.safetensors", "step-000000030.safetensors"]


# Budget


def test_a_budget_becomes_steps_once():
    taken: list[int] = []
    count = steps_within(1.0, taken.append, lambda: None)
    assert max(taken) < 1000
    for tried in (taken[2:5], taken[2:10], taken[2:62]):  # from all over a run, however few
        shares = sorted(number / 1000 for number in tried)
        widest = max(b - a for a, b in itertools.pairwise([0.0, *shares, 1.0]))
        assert widest < 2.7 / (len(tried) + 1)
    assert count >= 20
    with pytest.raises(InputError, match="between 1s and 30 days, got 0 s"):
        steps_within(0, taken.append, lambda: None)


def test_steps_and_evaluations_fill_the_budget(monkeypatch: pytest.MonkeyPatch):
    """By a clock that steps and evaluations alone move: 21 evaluations of 0.5 s, the rest in steps of 0.02 s."""
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    count = steps_within(100.0, lambda number: passes(0.02), lambda: passes(0.5))
    assert count * 0.02 + 21 * 0.5 == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("stood", [0, 3, 7])
def test_a_machine_that_stands_still_for_a_while_is_not_slow(monkeypatch: pytest.MonkeyPatch, stood: int):
    """One step, and the first evaluation, that take a minute in place of 0.02 and 0.5 s."""
    now, calls = [0.0], [0, 0]

    def passes(kind: int, seconds: float, at: int) -> None:
        now[0] += 60.0 if calls[kind] == at else seconds
        calls[kind] += 1

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    count = steps_within(100.0, lambda number: passes(0, 0.02, 2 + stood), lambda: passes(1, 0.5, 0))
    assert count * 0.02 + 21 * 0.5 == pytest.approx(100, rel=0.05)


def test_evaluations_are_twenty_a_run():
    assert [evaluation_interval(steps) for steps in (1, 19, 400, 1999)] == [1, 19, 25, 99]


def test_evaluations_that_cost_much_are_fewer(monkeypatch: pytest.MonkeyPatch):
    """One that costs 30 steps is made every 150 at least; the budget counts those that there will be."""
    assert [evaluation_interval(steps, 30.0) for steps in (100, 1000, 30_000)] == [100, 150, 1500]
    now = [0.0]

    def passes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(loop_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    count = steps_within(100.0, lambda number: passes(0.1), lambda: passes(3.0), 30.0)
    assert count * 0.1 + 3 * (1 + count // 150) == pytest.approx(100, abs=3)


# kill -9

SCRIPT = """
import sys, json, jensen, torch, numpy as np
from jensen.training import loop
torch.set_num_threads(1)
loop.SECONDS_BETWEEN_CHECKPOINTS = 0.0
jensen.fit(np.load(sys.argv[1]), "diffusion", run=sys.argv[2], progress=False, **json.loads(sys.argv[3]))
"""


def start(folder: Path, run: Path, options: dict[str, Any]) -> "subprocess.Popen[bytes]":
    np.save(folder / "x.npy", data_rows())
    words = [sys.executable, "-c", SCRIPT, str(folder / "x.npy"), str(run), json.dumps(options)]
    return subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})


def data_rows() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (100, 2)).astype(np.uint8)


def kill_after(process: "subprocess.Popen[bytes]", run: Path, checkpoint: int) -> bool:
    """SIGKILL at some moment after that checkpoint; whether the process was still at work."""
    while process.poll() is None and not (run / "model.safetensors").exists():
        if any(int(path.stem[5:]) >= checkpoint for path in (run / "state").glob("step-*.safetensors")):
            break
    process.kill()
    return process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("checkpoints", [(5,), pytest.param((1, 2, 9, 15, 20), marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, checkpoints: tuple[int, ...]):
    """kill -9 in another process, then the same call: the same bytes."""
    whole = jensen.fit(data_rows(), "diffusion", run=tmp_path / "whole", progress=False, **OPTIONS)
    for checkpoint in checkpoints:
        assert kill_after(start(tmp_path, tmp_path / "cut", OPTIONS), tmp_path / "cut", checkpoint)
        assert not (tmp_path / "cut/model.safetensors").exists()
    cut = jensen.fit(data_rows(), "diffusion", run=tmp_path / "cut", progress=False, **OPTIONS)
    assert equal(whole.model.state_dict(), cut.model.state_dict())
    for name in ("model.safetensors", "history.jsonl", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes(), name
    assert not (tmp_path / "cut/state").exists()


def test_weights_are_what_is_minimised_and_what_is_watched():
    """A step on rows of which some weigh nothing is the step on the others; so is the held-out number."""
    rows, kept = examples(12), torch.arange(12) % 3 > 0
    weighted = Examples(rows.x, rows.id, weight=kept.double() * 2.5)
    fitters = []
    for data in (weighted, rows.take(torch.arange(12)[kept])):
        objective = Line()
        objective.network[2].p = 0.0
        fitter = GradientFitter(objective, TrainingSettings(), precision("float32"), steps=10, held_out=data, seed=0)
        fitter.step(0, data.batch(slice(None)))
        fitters.append((fitter, fitter.evaluate(1)))
    for one, other in zip(fitters[0][0].objective.parameters(), fitters[1][0].objective.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert fitters[0][1]["bound"] == pytest.approx(fitters[1][1]["bound"], rel=1e-5)
