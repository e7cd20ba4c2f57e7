"""The commands of diffusion models: continuous time, the flow's density, calibration anew."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import jensen
from jensen.__main__ import main
from jensen.cli.calibrating import lines
from jensen.cli.inputs import count_or_default
from jensen.data.examples import Examples
from jensen.noise import Noise
from jensen.training.run import Run

TINY: dict[str, Any] = {
    "timesteps": 20,
    "size": "tiny",
    "batch_size": 20,
    "precision": "float32",
    "progress": False,
    "steps": 5,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real values in two columns, and small images on four levels."""
    path = tmp_path_factory.mktemp("diffusion")
    g = np.random.default_rng(0)
    np.savetxt(path / "t.csv", g.normal(size=(60, 2)) * [1.0, 3.0], delimiter=",", header="a,b", comments="")
    np.save(path / "images.npy", g.integers(0, 4, (80, 4, 5)).astype(np.uint8))
    jensen.fit(str(path / "t.csv"), "diffusion", run=path / "reals", **TINY)
    jensen.fit(jensen.load_data(str(path / "images.npy"), levels=4), "diffusion", run=path / "levels", **TINY)
    np.save(path / "many.npy", g.integers(0, 4, (200, 4, 5)).astype(np.uint8))
    jensen.fit(jensen.load_data(str(path / "many.npy"), levels=4), "diffusion", run=path / "many", **TINY)
    jensen.fit(str(path / "t.csv"), "diffusion", run=path / "learned", reverse_variance="learned", **TINY)
    jensen.fit(str(path / "t.csv"), "gaussian", run=path / "table", progress=False)
    return path


@pytest.fixture
def run(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(world)
    monkeypatch.setattr("jensen.models.pipeline.TOLERANCE", 3.0)  # these scores are not read for their precision

    def command(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def scored(run: Any, *words: str) -> dict[str, Any]:
    code, out, err = run("evaluate", *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)["log_likelihood"]
    return found


def test_a_number_says_which_process_it_is_of(run: Any):
    """T, ∞ for continuous time; the variance, where it is not one a step."""
    assert scored(run, "reals", "--steps", "inf", "--tolerance", "3")["of"] == "ancestral, T = ∞"
    assert scored(run, "reals", "--steps", "40", "--tolerance", "3")["of"] == "ancestral, T = 40"
    assert scored(run, "levels", "--tolerance", "3")["of"] == "ancestral, T = 20, variance by-state"


def test_repetitions_alone_are_enough(run: Any):
    found = scored(run, "reals", "--set", "repetitions=3")["diagnostics"]
    assert (found["repetitions"], found["network_calls_per_example"]) == (3, 12)
    found = scored(run, "reals", "--set", "repetitions=3", "--set", "calls=8")["diagnostics"]
    assert (found["repetitions"], found["network_calls_per_example"]) == (3, 24)


def test_the_flow_is_an_estimate_and_on_levels_a_bound_where_its_solver_is_settled(run: Any):
    found = scored(run, "reals", "--method", "ode", "--set", "ode_steps=10")
    assert (found["kind"], found["measure"]) == ("estimate", "Lebesgue")
    assert found["of"].startswith("probability flow from N(0, I) at log-SNR -9 to 9, ending in x/α")
    assert found["stderr_monte_carlo_nats"] is None
    assert found["diagnostics"]["halved_tolerance_change_nats"] < 0.5
    assert set(found["terms"]) == {"flow", "scale", "units"}
    options = ["--set", "divergence=hutchinson", "--set", "probes=4", "--set", "ode_steps=10"]
    rough = scored(run, "reals", "--method", "ode", *options, "--tolerance", "1")
    assert rough["kind"] == "estimate"
    assert abs(rough["mean_nats"] - found["mean_nats"]) < 5 * rough["stderr_monte_carlo_nats"] + 1e-3
    levels = scored(run, "levels", "--method", "ode", "-n", "4", "--set", "ode_steps=5", "--tolerance", "1")
    settled = levels["diagnostics"]["halved_tolerance_change_nats"] <= 0.1 * 20 * math.log(2)
    assert levels["diagnostics"]["settled"] == settled
    assert (levels["kind"] == "lower bound") == settled
    assert (levels["measure"], levels["examples"]) == ("counting", 4)
    coarse = scored(
        run,
        "levels",
        "--method",
        "ode",
        "-n",
        "4",
        "--set",
        "ode_steps=1",
        "--set",
        "repetitions=2",
        "--tolerance",
        "0.001",
    )
    assert coarse["kind"] == "estimate"
    options = ["--set", "divergence=exact", "--set", "draws=3", "--set", "repetitions=2", "--set", "ode_steps=1"]
    several = scored(run, "levels", "--method", "ode", "-n", "1", *options, "--tolerance", "1")
    assert several["terms"]["importance"]["mean_nats"] > 0
    assert several["diagnostics"]["draws"] == 3
    assert levels["diagnostics"]["steps"] == 5
    assert sum(term["mean_nats"] for term in levels["terms"].values()) == pytest.approx(levels["mean_nats"])


def test_calibrating_anew_is_kept_and_used(run: Any, world: Path):
    """The bound at T = 10 is that of the printed table after it, in a fresh process's eyes; weights are left alone."""
    shutil.copytree(world / "levels", world / "anew", dirs_exist_ok=True)
    before = (world / "anew" / "model.safetensors").read_bytes()
    (world / "anew" / "evaluation.json").write_text("{}")
    code, out, err = run("calibrate", "anew", "--variance", "by-state", "-n", "4")
    assert code == 0, err
    assert "reverse variance: by-state, measured on 4 validation rows (seed 0)" in out
    seen = "(which the old calibration had seen, to its advantage)"  # the fit's, of all there are
    assert f"the bound on 4 other validation rows {seen}, as the run was (by-state) → as it is now" in out
    assert "T = 10" in out
    assert not (world / "anew" / "evaluation.json").exists()
    assert (world / "anew" / "model.safetensors").read_bytes() == before
    pipeline = jensen.load(world / "anew")
    assert type(pipeline.model.reverse.variance).__name__ == "ByState"
    assert pipeline.model.reverse.variance.by_state
    assert not (world / "anew" / "samples.png").exists()
    table = json.loads(run("calibrate", "anew", "--variance", "diagonal", "-n", "4", "--json")[1])
    assert [row["steps"] for row in table["bounds"]] == [10, 20]
    assert table["calibration"] == {"by": "diagonal", "rows": 4, "seed": 0}
    split = jensen.load_data(str(world / "images.npy"), levels=4)
    rows = split.valid.take(Noise(0, "calibrate").permutation(len(split.valid))[4:])
    again = jensen.load(world / "anew").log_likelihood(rows, timesteps=10, calls=10, repetitions=4)
    assert table["bounds"][0]["after"]["mean_nats"] == pytest.approx(again.mean, abs=1e-9)


def test_what_a_calibration_does_is_told_on_rows_that_neither_has_seen(run: Any, world: Path):
    """A run whose own calibration was of other rows: `before` is the run as it stood, on rows that are in neither."""
    shutil.copytree(world / "many", world / "again", dirs_exist_ok=True)
    assert run("calibrate", "again", "-n", "10", "--seed", "3")[0] == 0
    pipeline = jensen.load(world / "again")
    found = json.loads(run("calibrate", "again", "--variance", "diagonal", "-n", "12", "--json")[1])
    split = jensen.load_data(str(world / "many.npy"), levels=4)
    order = Noise(0, "calibrate").permutation(len(split.valid))
    own = Noise(3, "calibrate").permutation(len(split.valid))[:10]
    rows = split.valid.take(torch.tensor([i for i in order[12:].tolist() if i not in own.tolist()]))
    assert (found["seen_before"], found["scored_rows"]) == (False, len(rows))
    before = pipeline.log_likelihood(rows, timesteps=10, calls=10, repetitions=4)
    row = found["bounds"][0]
    assert row["before"]["mean_nats"] == pytest.approx(before.mean, abs=1e-9)
    gained = row["after"]["mean_nats"] - row["before"]["mean_nats"]
    assert row["difference"]["mean_nats"] == pytest.approx(gained, abs=1e-9)
    assert gained != 0
    assert pipeline.nats_per_unit == pytest.approx(20 * math.log(2))  # of 4 × 5 cells, a bit in each


def test_a_calibration_that_is_worse_says_so_and_which_way_is_better(world: Path):
    """Of the same two numbers, once the one way and once the other."""
    few, many = ({"mean_nats": x, "bits_per_dim": None, "dims": 2, "quote": ""} for x in (-3.0, -2.0))

    def told(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
        difference = {
            "mean_nats": after["mean_nats"] - before["mean_nats"],
            "stderr_nats": 0.1,
            "mean_bits_per_dim": None,
        }
        row = {"steps": 20, "before": before, "after": after, "difference": difference}
        how = {"by": "diagonal", "rows": 4, "seed": 0}
        record = {"calibration": how, "was": "calibrated", "scored_rows": 4, "seen_before": False}
        return lines({**record, "bounds": [row]})

    assert told(few, many)[-1] == "  T = 20     ≥ -3.0000 → ≥ -2.0000 nats  (1.00 ± 0.10 better)"
    *_, row, remark = told(many, few)
    assert row.endswith("(1.00 ± 0.10 worse)")
    assert remark.startswith("it is worse in the chain's own T = 20")
    assert told(few, {**few, "mean_nats": -3.0 - 1e-15})[-1] == "  T = 20     ≥ -3.0000 nats, as before"


def test_a_flow_is_printed_with_what_it_rests_on(run: Any):
    code, out, err = run(
        "evaluate", "reals", "--method", "ode", "--set", "ode_steps=3", "--set", "divergence=hutchinson"
    )
    assert code == 0, err
    assert "3 equal steps, " in out
    assert "twice as many moves log p by" in out
    assert "the probes of the divergence alone have a standard deviation of" in out
    out = run("evaluate", "reals", "--method", "ode")[1]
    assert "steps of tolerance 1e-05, " in out
    assert "probes" not in out


def test_a_tolerance_that_is_not_reached_is_told(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jensen.diffusion.likelihood.MOST_CALLS", 8)
    code, _, err = run("evaluate", "reals", "--tolerance", "0.001")
    assert code == 0
    assert "nats/dim, and --tolerance asked for 0.001" in err.splitlines()[-1]
    assert "--tolerance" not in run("evaluate", "reals", "--tolerance", "10")[2]


def test_the_equation_is_solved_for_a_thousand_images_where_no_number_is_said():
    images, rows = (Examples(torch.zeros(1001, *event), torch.arange(1001)) for event in ((1, 2, 2), (4,)))
    assert count_or_default(images, None, "ode") == 1000
    assert count_or_default(images, 7, "ode") == 7
    for kept in (images, None, "vlb"), (rows, None, "ode"), (images.take(torch.arange(1000)), None, "ode"):
        assert count_or_default(*kept) is None


def test_a_grid_of_the_bound_is_named(run: Any):
    assert (
        scored(run, "reals", "--steps", "6", "--set", "grid=optimised", "--tolerance", "1")["of"]
        == "ancestral, T = 6, optimised grid"
    )


def test_samples_on_the_optimised_grid(run: Any):
    code, out, _ = run("sample", "reals", "-o", "x.npy", "-n", "3", "--steps", "6", "--grid", "optimised")
    assert code == 0
    assert "levels by optimised" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "reals", "--steps", "2.5"], "must be a whole number between 2 and 100000, got 2.5"),
        (["evaluate", "reals", "--steps", "inf", "--every-step"], "there is no end of terms"),
        (
            ["evaluate", "reals", "--steps", "inf", "--set", "grid=karras"],
            "continuous time has no grid, got grid=karras",
        ),
        (["evaluate", "reals", "--set", "probes=2"], "probes is no option of method=vlb"),
        (["evaluate", "reals", "--method", "ode", "--set", "grid=time"], "grid is no option of method=ode"),
        (["evaluate", "reals", "--method", "ode", "--steps", "inf"], "--steps, the length of the chain"),
        (
            ["evaluate", "reals", "--method", "ode", "--set", "ode_tolerance=0"],
            "ode_tolerance must be from 1e-07 to 1, got 0",
        ),
        (
            ["evaluate", "reals", "--method", "ode", "--set", "dequantisation=uniform"],
            "these are real values, got uniform",
        ),
        (
            ["evaluate", "reals", "--method", "ode", "--set", "probes=2"],
            "the exact divergence has no probes, got probes=2",
        ),
        (["evaluate", "levels", "--method", "ode", "--set", "repetitions=1"], "at least 2 repetitions, got 1"),
        (
            ["evaluate", "reals", "--method", "ode", "--set", "ode_steps=5", "--set", "ode_tolerance=0.1"],
            "leave one of the two out",
        ),
        (["evaluate", "reals", "--set", "timesteps=20"], "the length of the chain is --steps here, got timesteps=20"),
        (["evaluate", "reals", "--method", "ode", "--set", "repetitions=3"], "nothing is drawn of real values"),
        (["evaluate", "reals", "--method", "ode", "--set", "ode_tolerance=1e-12"], "from 1e-07 to 1, got 1e-12"),
        (["evaluate", "reals", "--method", "ode", "--set", "draws=3"], "places in the bin of a level"),
        (["evaluate", "levels", "--method", "ode", "--set", "draws=3"], "say divergence=exact"),
        (
            ["evaluate", "levels", "--method", "ode", "--set", "draws=0"],
            "draws must be a whole number from 1 to 100, got 0",
        ),
        (["evaluate", "reals", "--set", "draws=3"], "draws is no option of method=vlb"),
        (["noise", "t.csv", "-o", "n.png", "--schedule", "betas"], "known are log-snr, linear, cosine, vp, sub-vp"),
        (["calibrate", "reals", "--seed", "-1"], "--seed must be a whole number from 0 to 2^63 - 1, got -1"),
        (["evaluate", "reals", "--every-step", "--set", "calls=8"], "got calls=8; leave one out"),
        (["evaluate", "reals", "--set", "calls=1"], "calls must be at least 2"),
        (["evaluate", "reals", "--set", "calls=1e15"], "and at most 100,000, got 1000000000000000"),
        (["evaluate", "learned", "--steps", "6", "--set", "grid=optimised"], "and this model's is learned"),
        (["evaluate", "reals", "--method", "ode", "--every-step"], "--every-step is about the chain of --method vlb"),
        (["evaluate", "reals", "--method", "ode", "--steps", "50"], "--steps is about the chain of --method vlb"),
        (["calibrate", "table"], "is for diffusion models, and this run's model is 'gaussian'"),
        (["calibrate", "reals", "--variance", "by-state"], "needs parametrisation=levels"),
        (["calibrate", "reals", "--variance", "diagnoal"], "did you mean 'diagonal'?"),
        (["calibrate", "learned"], "learned by its network, and there is nothing to measure"),
        (["calibrate", "reals", "-n", "1000"], "must be from 2 to 6, got 1000"),
    ],
)
def test_mistakes_are_told_in_a_line(words: list[str], message: str, run: Any, world: Path):
    before = sorted(str(path) for path in world.rglob("*"))
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert message in line
    assert sorted(str(path) for path in world.rglob("*")) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, how: (tensors, None), "does not say how it was made"),
        (
            lambda tensors, how: (tensors, how.replace("diagonal", "sorcery")),
            "there is no such calibration of this model",
        ),
        (
            lambda tensors, how: ({**tensors, "proposal": tensors["proposal"][:3].clone()}, how),
            "tensor 'proposal' has shape (3,)",
        ),
        (lambda tensors, how: ({**tensors, "proposal": -tensors["proposal"]}, how), "proposal must be positive"),
        (
            lambda tensors, how: (tensors, how.replace('"weights": "', '"weights": "0')),
            "was measured of other weights than model.safetensors",
        ),
    ],
)
def test_a_damaged_calibration_is_an_error(change: Any, message: str, run: Any, world: Path, tmp_path: Path):
    folder = tmp_path / "damaged"
    shutil.copytree(world / "reals", folder)
    model = jensen.load(folder).model
    model.calibrated_by("diagonal")
    Run(folder).write_calibration(model.calibration(), {"by": "diagonal"})
    path = folder / "calibration.safetensors"
    with safe_open(path, "pt") as file:
        how = file.metadata()["how"]
    tensors, how = change(load_file(path), how)
    save_file(tensors, path, {} if how is None else {"how": how})
    code, _, err = run("evaluate", str(folder))
    assert code == 2
    assert message in err.splitlines()[-1]
    assert err.rstrip().endswith("remove that file, and the run is as it was fitted")
    (folder / "calibration.safetensors").unlink()
    assert run("evaluate", str(folder))[0] == 0


def test_a_comparison_scores_a_run_anew_that_was_calibrated_in_it(run: Any, world: Path):
    told = ["diffusion.timesteps=20", "diffusion.size=tiny", "diffusion.reverse_variance=beta"]
    words = ["compare", "t.csv", "-m", "diffusion", "-o", "side", "--steps", "5", "--json"]
    words += [part for setting in told for part in ("--set", setting)]

    def numbers() -> dict[str, float]:
        code, out, err = run(*words)
        assert code == 0, err
        return {row["model"]: row["log_likelihood"]["mean_nats"] for row in json.loads(out)["models"]}

    first = numbers()
    assert numbers() == first
    assert run("calibrate", "side/runs/diffusion-0", "--variance", "diagonal", "-n", "4")[0] == 0
    second = numbers()
    pipeline = jensen.load(world / "side" / "runs" / "diffusion-0")
    assert second["diffusion"] == pytest.approx(pipeline.log_likelihood(jensen.load_data("t.csv").test).mean, abs=1e-9)
    assert second["diffusion"] != first["diffusion"]
    assert {**second, "diffusion": 0} == {**first, "diffusion": 0}
