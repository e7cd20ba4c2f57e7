"""Zeros and ones from grey values. Seeds fixed; z-tests at 4 standard errors."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jensen
from jensen.__main__ import main
from jensen.cli.inputs import some_of
from jensen.data.binarise import Redrawn, at_step, binarised
from jensen.data.bits import read_bits
from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.noise import Noise
from jensen.training.loop import rows_at

GREY = np.random.default_rng(0).integers(0, 256, (400, 3, 5)).astype(np.uint8)
GREY[:, 0, 0], GREY[:, 0, 1] = 0, 255


def loaded(protocol: str, seed: int = 0):
    return jensen.load_data(GREY, binarise=protocol, binarise_seed=seed)


def z_score(bits: torch.Tensor, p: torch.Tensor) -> float:
    return float((bits.double() - p).sum() / (p * (1 - p)).sum().sqrt())


@pytest.mark.parametrize("protocol", ["static", "dynamic"])
def test_ones_are_as_frequent_as_the_values_are_bright(protocol: str):
    split, grey = loaded(protocol), jensen.load_data(GREY)
    assert split.space == Levels(2)
    for part in ("train", "valid", "test"):
        bits, p = getattr(split, part).x, getattr(grey, part).x.double() / 255
        assert bits.dtype == torch.uint8
        assert abs(z_score(bits, p)) < 4
        bright, dark = p > 0.7, p < 0.3
        assert abs(z_score(bits[bright], p[bright])) < 4
        assert abs(z_score(bits[dark], p[dark])) < 4
        assert int(bits[:, 0, 0, 0].max()) == 0
        assert int(bits[:, 0, 0, 1].min()) == 1
        assert torch.equal(getattr(split, part).id, getattr(grey, part).id)


def test_a_threshold_draws_nothing():
    split, grey = loaded("threshold", 1), jensen.load_data(GREY)
    assert torch.equal(split.test.x, (grey.test.x >= 128).to(torch.uint8))
    odd = jensen.load_data(GREY % 5, levels=5, binarise="threshold")
    assert torch.equal(odd.train.x, (jensen.load_data(GREY % 5, levels=5).train.x >= 2).to(torch.uint8))


def test_a_draw_is_a_function_of_seed_and_row():
    split = loaded("static")
    assert loaded("static").fingerprint == split.fingerprint == loaded("dynamic").fingerprint
    assert loaded("static", 1).fingerprint != split.fingerprint
    half = binarised(replace(g := jensen.load_data(GREY), test=g.test.take(torch.arange(5, 20))), "static")
    assert torch.equal(half.test.x, split.test.x[5:20])


def test_steps_draw_training_rows_anew():
    train = loaded("dynamic").train
    assert isinstance(train, Redrawn)
    at = torch.arange(40)
    one, same, two = (at_step(train, at, Noise(0, "redraw", n)).x for n in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, two)
    assert torch.equal(at_step(train, at[7:9], Noise(0, "redraw", 1)).x, one[7:9])
    draws = torch.stack([at_step(train, at, Noise(0, "redraw", n)).x for n in range(300)]).double()
    p = jensen.load_data(GREY).train.x[:40].double() / 255
    z = (draws.mean(0) - p) / (p * (1 - p) / 300).sqrt().clamp(min=1e-9)
    assert float(z.abs().max()) < 5
    assert torch.equal(train.batch(at).x, train.x[:40])
    assert torch.equal(train.take(at).fresh(at[:3], Noise(0, "redraw", 1)).x, one[:3])
    assert not isinstance(loaded("static").train, Redrawn)


def test_the_loop_draws_anew_and_the_pipeline_too(monkeypatch: pytest.MonkeyPatch):
    """What a fitter is given at step n is the draw of (seed, n), and other epochs see other zeros and ones."""
    from jensen.training.fitter import GradientFitter

    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    take = GradientFitter.step

    def spy(self, number, batch):
        seen[number] = (batch.id, batch.x)
        return take(self, number, batch)

    monkeypatch.setattr(GradientFitter, "step", spy)
    split = loaded("dynamic")
    jensen.fit(split, "ar", network="made", size="tiny", steps=12, batch_size=100, progress=False)
    for number in (0, 5, 11):
        at = rows_at(0, number, 100, len(split.train))
        wanted = at_step(split.train, at, Noise(0, "redraw", number))
        assert torch.equal(seen[number][0], wanted.id)
        assert torch.equal((seen[number][1] > 0).to(torch.uint8), wanted.x)
    assert not torch.equal((seen[0][1] > 0).to(torch.uint8), split.train.batch(rows_at(0, 0, 100, 280)).x)


def test_the_protocol_stands_beside_the_number():
    split = loaded("dynamic", 3)
    model = jensen.fit(split, "independent", progress=False)
    ll = model.log_likelihood(split.test)
    assert "binarised: dynamic" in str(ll)
    assert "seed 3" in str(ll)
    assert ll.to_dict()["protocol"] == split.facts["told"]
    assert not model.log_likelihood(split.test.x).protocol, "rows of which nothing is known but their values"
    again = model.log_likelihood(loaded("static", 5).test)
    assert "static" in again.protocol
    assert "seed 5" in again.protocol
    other = loaded("static", 3)
    with pytest.raises(ValueError, match="different protocol"):
        ll - jensen.fit(other, "independent", progress=False).log_likelihood(other.test)
    p = jensen.load_data(GREY).train.x.double().mean(0) / 255
    exact = (p * p.log() + (1 - p) * (1 - p).log()).nan_to_num(nan=0.0).sum()  # of test rows, each cell alone
    assert abs(ll.mean - float(exact)) < 4 * ll.total + 0.1


@pytest.mark.parametrize(
    ("data", "protocol", "message"),
    [
        (GREY, "dynamik", "binarise must be one of threshold, static, dynamic, got 'dynamik'; did you mean 'dynamic'"),
        (GREY / 255.0, "static", "binarise=static is for data of more than two levels, got real values; leave it out"),
        ((GREY > 9).astype(np.uint8), "static", "more than two levels, got 2 levels"),
    ],
)
def test_what_is_not_grey_is_refused(data: np.ndarray, protocol: str, message: str):
    with pytest.raises(InputError, match=message):
        jensen.load_data(data, binarise=protocol, levels=2 if data.max() == 1 and data.dtype == np.uint8 else None)


@pytest.mark.parametrize("protocol", ["threshold", "static", "dynamic"])
def test_zeros_and_ones_of_256_levels_are_not_made_black(protocol: str):
    """1 of 255 is not grey: by its level nearly all cells would become 0."""
    with pytest.raises(InputError, match=f"binarise={protocol}.*no value but 0 and 1 of 256 levels; say --levels 2"):
        jensen.load_data((GREY > 9).astype(np.uint8), binarise=protocol)


def test_the_command_line_binarises_says_so_and_redraws(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "grey.npy", GREY)
    fit = ["fit", str(tmp_path / "grey.npy"), "-m", "independent", "-o", str(tmp_path / "run"), "--binarise", "dynamic"]
    assert main([*fit, "--binarise-seed", "2"]) == 0
    told = capsys.readouterr()
    assert "binarised: dynamic" in told.out
    assert "binarised: dynamic" in told.err
    assert main(["evaluate", str(tmp_path / "run"), "--redraws", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    means = []
    run = jensen.load(tmp_path / "run")
    for seed in (3, 4, 5, 6):
        rows = jensen.load_data(str(tmp_path / "grey.npy"), binarise="dynamic", binarise_seed=seed).test
        means.append(run.log_likelihood(rows).mean)
    assert found["redraws"]["means_nats"] == pytest.approx(means)
    assert found["redraws"]["sd_nats"] == pytest.approx(np.std(means, ddof=1))
    assert found["redraws"]["seeds"] == [3, 6]
    assert main(["evaluate", str(tmp_path / "run"), "--redraws", "2", "-n", "7", "--json"]) == 0
    few = json.loads(capsys.readouterr().out)
    rows = jensen.load_data(str(tmp_path / "grey.npy"), binarise="dynamic", binarise_seed=4).test
    assert few["redraws"]["means_nats"][1] == pytest.approx(run.log_likelihood(some_of(rows, 7)).mean)
    assert few["log_likelihood"]["examples"] == 7
    assert main([*fit[:-1], "threshold", "--binarise-seed", "2"]) == 2
    assert "--binarise-seed is for --binarise static or dynamic, got threshold" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", GREY[::-1].copy())
    assert main(["evaluate", str(tmp_path / "run"), str(tmp_path / "other.npy")]) == 0
    assert "400 examples" in capsys.readouterr().out
    assert main(["fit", str(tmp_path / "grey.npy"), "-m", "independent", "-o", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "plain"), "--redraws", "4"]) == 2
    assert (
        "--redraws is for runs on data with --binarise static or dynamic, got data as they are"
        in capsys.readouterr().err
    )
    capsys.readouterr()
    assert main([*fit[:-1], "static", "--binarise-seed", "2"]) == 2, "the same test rows, other training rows"
    assert "holds another run: binarise was 'dynamic', now 'static'" in capsys.readouterr().err


def test_a_comparison_is_of_one_protocol_and_says_which(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "grey.npy", GREY)
    words = ["compare", str(tmp_path / "grey.npy"), "-m", "gaussian,vae", "-o", str(tmp_path / "c"), "--steps", "3"]
    words += ["--set", "vae.beta=0.5", "--binarise"]
    assert main([*words, "dynamic"]) == 0
    told, page = capsys.readouterr().out, (tmp_path / "c" / "compare.html").read_text()
    for note in (
        "binarised: dynamic (training rows drawn anew",
        "vae was trained with the divergence weighted 0.5, not by the bound",
    ):
        assert f"note: {note}" in told
        assert note in page
    assert main([*words, "static"]) == 2
    assert "binarise was 'dynamic', now 'static'" in capsys.readouterr().err


def test_the_protocol_stands_beside_measures_of_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    np.save(tmp_path / "grey.npy", GREY)
    run = str(tmp_path / "run")
    assert main(["fit", str(tmp_path / "grey.npy"), "-m", "gaussian", "-o", run, "--binarise", "static"]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "--binarise static" in page
    assert "binarised: static" in page
    capsys.readouterr()
    assert main(["evaluate", run, "--method", "samples", "-n", "40"]) == 0
    assert "as many test rows (binarised: static" in capsys.readouterr().out


def amat(rows: np.ndarray) -> str:
    return "\n".join(" ".join(map(str, row)) + " " for row in rows) + "\n"


def test_the_fixed_binarisation_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bits = np.random.default_rng(1).integers(0, 2, (9, 784))
    folder = tmp_path / "binarized-mnist"
    folder.mkdir()
    for part, rows in (("train", bits[:4]), ("valid", bits[4:6]), ("test", bits[6:])):
        (folder / f"binarized_mnist_{part}.amat").write_text(amat(rows))
    monkeypatch.setenv("JENSEN_DATA", str(tmp_path))
    split = jensen.load_data("binarized-mnist")
    assert split.space == Levels(2)
    assert split.event_shape == (1, 28, 28)
    for part, rows in (("train", bits[:4]), ("valid", bits[4:6]), ("test", bits[6:])):
        assert np.array_equal(getattr(split, part).x.numpy().reshape(-1, 784), rows)
    assert "fixed" in split.facts["told"]
    (folder / "binarized_mnist_test.amat").unlink()
    with pytest.raises(InputError, match=r"binarized_mnist_test\.amat was not found.*another protocol"):
        jensen.load_data("binarized-mnist")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 1 1\n0 2 1\n", r"line 2 must hold zeros and ones, got b'2'"),
        ("0 1 1\n0 1\n", "line 2 must hold 3 values, got 2"),
        ("", "holds no rows"),
        ("0 1 0 1 0 1 0 1 0 1 0 1 0 1", "line 1 must hold 3 values, got 12"),
        ("0.5 1 1\n", "must hold zeros and ones"),
    ],
)
def test_files_that_hold_something_else_are_refused(text: str, message: str, tmp_path: Path):
    path = tmp_path / "x.amat"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_bits(path, 3)


def test_bits_are_counted():
    assert math.isclose(float(loaded("threshold").train.x.double().mean()), 0.5, abs_tol=0.05)
