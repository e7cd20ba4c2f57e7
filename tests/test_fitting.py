"""`jensen.fit`: a request becomes a config becomes a run; the same request again goes on, resumes or refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen import fitting
from jensen.data.space import Levels
from jensen.errors import FitError, InputError
from jensen.fitting import checked, reload_data
from jensen.models.model import ClosedForm, DensityModel, GradientModel

ROWS = np.random.default_rng(0).normal(size=(60, 3))
TINY: dict[str, Any] = {"timesteps": 5, "size": "tiny", "batch_size": 20, "precision": "float32"}


def fit(data: Any, model: str = "independent", **options: Any) -> Any:
    return jensen.fit(data, model, progress=False, **options)


def test_a_finished_run_is_loaded_and_not_fitted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = fit(ROWS, run=tmp_path / "run")
    monkeypatch.setattr(fitting, "_learn", None)
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
    with pytest.raises(InputError, match="space was '4 levels', now '8 levels'"):
        fit(jensen.load_data(x, levels=8), run=tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "bogus"}, "unknown model 'bogus'; known models are "),
        ({"bogus": 1}, "no setting 'bogus'; it has none"),
        ({"steps": 5}, "closed form"),
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

    def timed(seconds: float, step: Any, evaluate: Any) -> int:
        calls.append(seconds)
        step(0)
        return 6

    def stop(self: Any, done: int = 0) -> None:
        raise FitError("stopped before the first step")

    monkeypatch.setattr(fitting, "steps_within", timed)
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


def test_types_say_what_a_model_can_do():
    assert issubclass(checked("gaussian", {}), ClosedForm)
    assert issubclass(checked("diffusion", {}), GradientModel)
    assert issubclass(checked("diffusion", {}), DensityModel)
    assert isinstance(fit(np.zeros((40, 2), np.uint8), "independent").space, Levels)
