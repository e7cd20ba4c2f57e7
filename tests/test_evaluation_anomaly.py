"""AUROC and complexity. Seeds fixed; 4 standard errors."""

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import roc_auc_score

import jensen
from jensen.__main__ import main
from jensen.data.examples import Examples
from jensen.errors import InputError
from jensen.evaluation.anomaly import anomaly, auroc, code_length


def normal(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift


def test_the_area_is_scikit_learns_with_ties():
    own, others = normal(80, 0, 0.5).round(decimals=1), normal(60, 1).round(decimals=1)
    wanted = roc_auc_score(np.r_[np.ones(80), np.zeros(60)], np.r_[own.numpy(), others.numpy()])
    assert auroc(own, others).value == pytest.approx(wanted, abs=1e-12)


def test_rows_that_do_not_overlap_give_no_bar():
    found = auroc(normal(9, 0, 50.0), normal(8, 1))
    assert (found.value, found.stderr) == (1.0, None)
    assert str(found) == "1.000 (no bar: the rows do not overlap)"


def test_the_area_of_two_normals_and_its_bar():
    """Φ(δ/√2); the bar is the spread over repeats to a tenth, and 95 % intervals cover."""
    truth = stats.norm.cdf(1 / math.sqrt(2))
    found = [auroc(normal(150, 2 * i, 1.0), normal(100, 2 * i + 1)) for i in range(600)]
    values, bars = np.array([f.value for f in found]), np.array([f.stderr for f in found])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(600)
    assert bars.mean() == pytest.approx(values.std(), rel=0.1)
    assert 0.92 < np.mean(np.abs(values - truth) < 1.96 * bars) < 0.98


def test_a_code_length_is_that_of_the_best_filter():
    flat = torch.full((1, 1, 8, 8), 7, dtype=torch.uint8)
    stripes = (torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8) * 4).repeat(1, 1, 1, 1)
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 8, 8)).astype(np.uint8))
    lengths = code_length(Examples(torch.cat([flat, stripes, noise]), torch.arange(3)))
    assert lengths[0] < lengths[1] < lengths[2]
    raw = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = raw.compress(noise.numpy().tobytes()) + raw.flush()
    assert float(lengths[2]) == 8 * len(plain)
    with pytest.raises(InputError, match="float64 values have none of"):
        code_length(Examples(torch.zeros(2, 3, dtype=torch.float64), torch.arange(2)))


def test_simple_images_are_ranked_high_and_the_correction_sees_it():
    """A model of noisy pictures finds flat ones likely; the compressor finds them likelier still."""
    draw = np.random.default_rng(0)
    noisy = np.clip(128 + 40 * draw.normal(size=(600, 6, 7)), 0, 255).astype(np.uint8)
    flat = np.clip(128 + 3 * draw.normal(size=(80, 1, 1)) + np.zeros((80, 6, 7)), 0, 255).astype(np.uint8)
    split = jensen.load_data(noisy)
    run = jensen.fit(split, "independent", progress=False)
    other = Examples(torch.from_numpy(flat)[:, None], torch.arange(80))
    found = anomaly(run.log_likelihood(split.test), split.test, run.log_likelihood(other), other)
    assert found["log_likelihood"]["value"] < 0.4
    assert found["complexity_corrected"]["value"] > 0.95


def test_the_command_ranks_other_rows_against_the_runs_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit", "digits", "-m", "independent", "-o", str(tmp_path / "run")]) == 0
    split = jensen.load_data("digits")
    turned = split.all_rows().x.transpose(2, 3).contiguous()[:200, 0].numpy()
    np.save(tmp_path / "turned.npy", turned)
    capsys.readouterr()
    words = ["evaluate", str(tmp_path / "run"), str(tmp_path / "turned.npy"), "--levels", "17", "--anomaly"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["anomaly"]
    run = jensen.load(tmp_path / "run")
    own = run.log_likelihood(split.test).value
    others = run.log_likelihood(torch.from_numpy(turned)[:, None]).value
    assert found["log_likelihood"]["value"] == pytest.approx(auroc(own, others).value)
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "AUROC by log p" in told
    assert "corrected for complexity" in told
    assert "ranks simple rows high" in told
    assert main(["evaluate", str(tmp_path / "run"), "--anomaly"]) == 2
    assert "give DATA" in capsys.readouterr().err
