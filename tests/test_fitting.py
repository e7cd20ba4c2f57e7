"""`jensen.fit`: a request becomes a config becomes a run; the same request again goes on, resumes or refuses."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen import fitting, resolving
from jensen.config import built
from jensen.data.space import Levels
from jensen.errors import FitError, InputError
from jensen.loading import reload_data
from jensen.models.ddpm import DDPM
from jensen.models.model import ClosedForm, DensityModel, GradientModel
from jensen.models.pipeline import Pipeline
from jensen.resolving import checked
from jensen.training.fitter import GradientFitter

ROWS = np.random.default_rng(0).normal(size=(60, 3))
TINY: dict[str, Any] = {"timesteps": 5, "size": "tiny", "batch_size": 20, "precision": "float32"}


def fit(data: Any, model: str = "independent", **options: Any) -> Any:
    return jensen.fit(data, model, progress=False, **options)


def test_a_setting_that_the_model_refuses_is_refused_before_steps_are_timed(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(InputError, match="trained_shape"):
        jensen.fit(ROWS, "diffusion", trained_shape=True, schedule="linear", budget="1m")
    assert "timing" not in capsys.readouterr().err


def test_a_finished_run_is_loaded_and_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = fit(ROWS, run=tmp_path / "run")
    monkeypatch.setattr(fitting, "_made", None)
    again = fit(ROWS, run=tmp_path / "run")
    assert torch.equal(first.model.mean, again.model.mean)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": ROWS + 1}, "data was "),
        ({"model": "gaussian"}, "model was 'independent', now 'gaussian'"),
        ({"seed": 1}, "seed was 0, now 1"),
    ],
)
def test_any_difference_is_refused_by_name(change: dict[str, Any], named: str, tmp_path: Path):
    fit(ROWS, run=tmp_path / "run")
    before = (tmp_path / "run/model.safetensors").read_bytes()
    with pytest.raises(InputError, match=named):
        fit(**{"data": ROWS, "run": tmp_path / "run", **change})
    assert (tmp_path / "run/model.safetensors").read_bytes() == before
    fit(**{"data": ROWS, "run": tmp_path / "run", "overwrite": True, **change})


def test_other_levels_of_the_same_rows_are_another_request(tmp_path: Path):
    x = np.random.default_rng(0).integers(0, 4, (40, 2)).astype(np.uint8)
    fit(jensen.load_data(x, levels=4), run=tmp_path / "run")
    with pytest.raises(InputError, match="levels was 4, now 8"):
        fit(jensen.load_data(x, levels=8), run=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bogus"}, "unknown model 'bogus'; known models are "),
        ({"bogus": 1}, "no setting 'bogus'; it has none"),
        ({"steps": 5}, "'independent' is fitted to convergence, not for a time"),
        ({"model": "diffusion", "steps": 0}, "steps must be between 1 .*, got 0"),
        ({"model": "diffusion", "steps": 5, "budget": "5m"}, "not both .*'5m' and 5"),
        ({"model": "diffusion", "budget": "5 minutes"}, "got '5 minutes'"),
        ({"model": "diffusion", "lr": "fast"}, "lr must be a finite number, got 'fast'"),
        ({"model": "diffusion", "size": "galactic"}, "size must be one of .*, got 'galactic'"),
        ({"seed": -1}, "got -1"),
        ({"seed": 2**63}, "got 9223372036854775808"),
    ],
)
def test_mistakes_show_before_any_work(
    options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fitting, "load_data", None)
    with pytest.raises(InputError, match=message):
        fit("digits", run=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", 10**9),
        ("lr", 0),
        ("lr", -1.0),
        ("beta2", 1.0),
        ("ema", 2),
        ("warmup", -0.1),
        ("patience", -1),
        ("grad_clip", 0),
        ("precision", "float8"),
    ],
)
def test_training_settings_have_ranges(name: str, value: Any):
    with pytest.raises(InputError, match=f"{name} must be .*, got '?{value}"):
        fit(ROWS, "diffusion", **{"steps": 2, **TINY, name: value})


def test_a_budget_is_turned_into_steps_once_and_written_before_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    calls: list[float] = []

    def timed(seconds: float, step: Any, evaluate: Any, cost: float) -> int:
        calls.append(seconds)
        step(0)
        return 6

    def stop(self: Any, done: int = 0) -> None:
        raise FitError("stopped before the first step")

    monkeypatch.setattr(resolving, "steps_within", timed)
    request = {"run": tmp_path / "run", "budget": "1m", **TINY}
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Loop, "go", stop)
        with pytest.raises(FitError, match="before the first"):
            fit(ROWS, "diffusion", **request)
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert (config["training"]["steps"], config["request"]["budget"]) == (6, "1m")
    budgeted = fit(ROWS, "diffusion", **request)
    assert calls == [60.0]
    counted = fit(ROWS, "diffusion", steps=6, **TINY)
    assert all(
        torch.equal(a, b)
        for a, b in zip(budgeted.model.state_dict().values(), counted.model.state_dict().values(), strict=True)
    )


def test_the_config_holds_every_choice_as_a_plain_value(tmp_path: Path):
    fit(ROWS, "diffusion", run=tmp_path / "run", steps=3, **TINY)
    config = json.loads((tmp_path / "run/config.json").read_text())
    options = config["model"]["options"]
    assert not {"auto", None} & {value for value in options.values() if not isinstance(value, list)}
    assert {"schedule", "parametrisation", "network", "size", "timesteps"} <= set(options)
    assert config["training"]["precision"] == "float32"
    assert config["training"]["steps"] == 3
    assert set(config["versions"]) == {"jensen", "torch", "numpy", "python"}
    assert str(tmp_path).encode() not in (tmp_path / "run/model.safetensors").read_bytes()


def test_weights_that_are_not_trained_are_seeded():
    one, same, other = (fit(ROWS, "diffusion", steps=1, seed=seed, **TINY).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@dataclass
class Seen:
    """What a fit of a diffusion model gave to whom."""

    fitter: GradientFitter
    first: dict[str, torch.Tensor]
    order_seed: int
    trained: list[int]
    calibrated: list[int]
    calibration_seed: int


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Pipeline, Seen]]:
    """`fit` of a diffusion model, and what it did."""
    found: dict[str, Any] = {}

    class Watching(GradientFitter):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            found["fitter"] = self
            found["first"] = {name: p.detach().clone() for name, p in self.objective.named_parameters()}

    go, calibrate = fitting.Loop.go, DDPM.calibrate

    def gone(self: Any, done: int = 0) -> None:
        found["order_seed"], found["trained"] = self.seed, self.rows.batch(slice(None)).id.tolist()
        go(self, done)

    def calibrated(self: DDPM, valid: Any, seed: int, *rest: Any) -> None:
        found["calibrated"], found["calibration_seed"] = valid.batch(slice(None)).id.tolist(), seed
        calibrate(self, valid, seed, *rest)

    monkeypatch.setattr("jensen.models.model.GradientFitter", Watching)
    monkeypatch.setattr(fitting.Loop, "go", gone)
    monkeypatch.setattr(DDPM, "calibrate", calibrated)

    def fitted(**options: Any) -> tuple[Pipeline, Seen]:
        pipeline = fit(ROWS, "diffusion", **{"steps": 4, **TINY, **options})
        return pipeline, Seen(**found)

    return fitted


def test_each_part_of_the_data_has_its_use(watched: Any):
    """Trained on train; watched and calibrated on valid."""
    _, seen = watched()
    split = jensen.load_data(ROWS)
    assert sorted(seen.trained) == sorted(split.train.id.tolist())
    held_out = seen.fitter.rows.batch(slice(None)).id
    assert sorted(held_out.tolist()) == sorted(seen.calibrated) == sorted(split.valid.id.tolist())


def test_the_seed_reaches_weights_order_noise_and_calibration(watched: Any):
    first = {}
    for seed in (3, 4):
        _, seen = watched(seed=seed)
        assert (seen.fitter.seed, seen.order_seed, seen.calibration_seed) == (seed, seed, seed)
        first[seed] = seen.first
    assert any(not torch.equal(first[3][name], first[4][name]) for name in first[3])


def test_what_is_returned_are_the_best_averaged_weights(watched: Any):
    pipeline, seen = watched(steps=30)
    weights = dict(pipeline.model.objective().named_parameters())
    assert weights
    assert all(torch.equal(p, seen.fitter.best[name]) for name, p in weights.items())


def test_a_trained_model_is_calibrated(watched: Any):
    """Proposal, reverse variance and emission are measured, not what they were before the first step."""
    pipeline, _ = watched()
    fresh, now = built(pipeline.config).model.state_dict(), pipeline.model.state_dict()
    for name in ("proposal", "reverse.variance.log_error", "reverse.emission.log_scale"):
        assert not torch.equal(fresh[name], now[name])


def test_a_diverging_fit_is_diagnosed():
    with pytest.raises(FitError, match=r"has not been finite for 20 steps, since step \d+"):
        fit(
            np.full((60, 3), 1e30) * ROWS,
            "diffusion",
            steps=40,
            **{**TINY, "lr": 900.0, "grad_clip": 1e30, "patience": 0},
        )


def test_data_are_found_again_or_not(tmp_path: Path):
    np.save(tmp_path / "x.npy", ROWS)
    pipeline = fit(str(tmp_path / "x.npy"))
    assert reload_data(pipeline.config).fingerprint == jensen.load_data(str(tmp_path / "x.npy")).fingerprint
    np.save(tmp_path / "x.npy", ROWS + 1)
    with pytest.raises(InputError, match=r"x\.npy' are no longer those"):
        reload_data(pipeline.config)
    (tmp_path / "x.npy").unlink()
    with pytest.raises(InputError, match=r"x\.npy"):
        reload_data(pipeline.config)
    with pytest.raises(InputError, match="array in memory"):
        reload_data(fit(ROWS).config)


def test_saving_does_not_write_over_anything(tmp_path: Path):
    pipeline = fit(ROWS)
    pipeline.save(tmp_path / "a")
    with pytest.raises(InputError, match="saved model already"):
        pipeline.save(tmp_path / "a")
    with pytest.raises(InputError, match="holds another run"):
        fit(ROWS, run=tmp_path / "a")
    assert jensen.load(tmp_path / "a").config == {**pipeline.config, "schema": 1, "request": {"saved": True}}


def test_types_say_what_a_model_can_do():
    assert issubclass(checked("gaussian", {}), ClosedForm)
    assert issubclass(checked("diffusion", {}), GradientModel)
    assert issubclass(checked("diffusion", {}), DensityModel)
    assert isinstance(fit(np.zeros((40, 2), np.uint8), "independent").space, Levels)


def test_two_fits_do_not_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While one fits, the same request and one that would overwrite are both refused; a finished run is only read."""
    request = {"run": tmp_path / "run", "steps": 3, **TINY}
    refusals: list[str] = []

    def meanwhile(self: Any) -> int:
        for overwrite in (False, True):
            with monkeypatch.context() as patch, pytest.raises(InputError) as error:
                patch.setattr(fitting.Loop, "resume", None)
                fit(ROWS, "diffusion", overwrite=overwrite, **request)
            refusals.append(str(error.value))
        return resume(self)

    resume = fitting.Loop.resume
    monkeypatch.setattr(fitting.Loop, "resume", meanwhile)
    fit(ROWS, "diffusion", **request)
    assert len(refusals) == 2
    assert all("another process is fitting into" in line for line in refusals)
    assert not (tmp_path / "run/state").exists()
    with fitting.Run(tmp_path / "run").locked():
        fit(ROWS, "diffusion", **request)
    (tmp_path / "run/state").mkdir()
    (tmp_path / "run/state/lock").write_text("")  # of a process killed after its last step
    fit(ROWS, "diffusion", **request)
    assert not (tmp_path / "run/state").exists()


def test_a_refused_fit_leaves_no_folder(tmp_path: Path):
    with pytest.raises(InputError, match="constant"):
        fit(np.ones((60, 2)), "gaussian", run=tmp_path / "a/b")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_history_is_told_on_resuming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    request = {"run": tmp_path / "run", "steps": 3, **TINY}
    with monkeypatch.context() as patch, pytest.raises(FitError):
        patch.setattr(fitting.Loop, "go", lambda self, done: (_ for _ in ()).throw(FitError("stop")))
        fit(ROWS, "diffusion", **request)
    (tmp_path / "run/history.jsonl").write_text("garbage\n")
    jensen.fit(ROWS, "diffusion", **request)
    assert "history.jsonl': line 1 is damaged (no JSON object with a step) and left out" in capsys.readouterr().err
    assert [record["step"] for record in fitting.Run(tmp_path / "run").history()] == [0, 3]
