"""Measures of p(y | x): scikit-learn's numbers, claims by enumeration, and worlds in which the probabilities are true."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import accuracy_score, log_loss
from torch import Tensor

import jensen
from jensen.evaluation import calibration as module
from jensen.evaluation.calibration import calibration, classification, described, left_out, verdict, wilson
from jensen.evaluation.figures import figure_png
from jensen.evaluation.reliability import reliability_figure


def world(rows: int, seed: int, power: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p claimed and classes, which are drawn from p; the claim is p to a power, normalised."""
    draw = np.random.default_rng(seed)
    p = draw.dirichlet([0.6, 0.8, 1.0], rows)
    y = (draw.random(rows)[:, None] > p.cumsum(1)).sum(1).clip(max=2)
    return torch.from_numpy(power * np.log(p)).log_softmax(1), torch.from_numpy(y)


def test_measures_are_scikit_learns_and_the_formulas():
    log_p, y = world(200, 0)
    found, p = calibration(log_p, y), log_p.exp().numpy()
    assert found["accuracy"] == pytest.approx(accuracy_score(y, p.argmax(1)))
    assert found["log_loss_nats"] == pytest.approx(log_loss(y, p, labels=[0, 1, 2]), rel=1e-12)
    one_hot = np.eye(3)[y]
    each = ((p - one_hot) ** 2).sum(1)
    assert found["brier"] == pytest.approx(each.mean(), rel=1e-12)
    assert found["brier_stderr"] == pytest.approx(each.std(ddof=1) / math.sqrt(200), rel=1e-12)
    right = (p.argmax(1) == y.numpy()).astype(float)
    number = np.minimum((p.max(1) * 10).astype(int), 9)
    gaps = [abs((right - p.max(1))[number == b].sum()) / 200 for b in range(10)]
    assert found["calibration_error"] == pytest.approx(sum(gaps), rel=1e-12)
    assert sum(b["rows"] for b in found["bins"]) == found["rows"] == 200
    for b in found["bins"]:
        own = number == round(b["from"] * 10)
        assert b["accuracy"] == pytest.approx(right[own].mean())
        assert b["confidence"] == pytest.approx(p.max(1)[own].mean())
        assert b["from"] <= b["confidence"] <= b["to"]
    assert [c["rows"] for c in found["by_class"]] == np.bincount(y, minlength=3).tolist()
    assert sum(c["right"] for c in found["by_class"]) == right.sum()


def test_claims_are_means_under_the_claim():
    """Two rows, three classes: the mean over all nine outcomes, each with its probability; the variance of the Brier score
    too, by which z is standardised.
    """
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], dtype=torch.float64)
    mean = dict.fromkeys(("accuracy", "log_loss_nats", "brier"), 0.0)
    z_square = z_mean = 0.0
    for y in itertools.product(range(3), repeat=2):
        chance = float(p[0, y[0]] * p[1, y[1]])
        found = calibration(p.log(), torch.tensor(y))
        for name in mean:
            mean[name] += chance * found[name]
        z_mean, z_square = z_mean + chance * found["brier_z"], z_square + chance * found["brier_z"] ** 2
    for name, value in mean.items():
        assert found[f"{name}_claimed"] == pytest.approx(value, rel=1e-12)
    assert z_mean == pytest.approx(0, abs=1e-12)
    assert z_square == pytest.approx(1, rel=1e-12)


def test_true_probabilities_have_a_uniform_p_value_and_a_normal_z(monkeypatch: pytest.MonkeyPatch):
    """250 worlds of 150 rows, seeds 0 … 249; Kolmogorov–Smirnov of both, failure rate 2e-4. The mean of the null is that of
    the errors: 4 standard errors, 1e-4.
    """
    monkeypatch.setattr(module, "DRAWS", 200)
    found = [calibration(*world(150, seed), seed=seed) for seed in range(250)]
    assert stats.kstest([f["p_value"] for f in found], "uniform").pvalue > 1e-4
    assert stats.kstest([f["brier_z"] for f in found], "norm").pvalue > 1e-4
    gap = np.array([f["calibration_error"] - f["calibration_error_claimed"] for f in found])
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(250)


@pytest.mark.parametrize(("power", "said"), [(2.5, "it is too sure"), (0.4, "it is not sure enough")])
def test_false_probabilities_are_found(power: float, said: str, monkeypatch: pytest.MonkeyPatch):
    """Sharpened and flattened claims, 400 rows, 40 seeds: found in each (p ≤ 0.01), and z has the right sign."""
    monkeypatch.setattr(module, "DRAWS", 150)
    for seed in range(40):
        found = calibration(*world(400, seed, power))
        assert said in verdict(found)
        assert found["brier_z"] * (power - 1) > 0
    assert "nothing speaks against" in verdict(calibration(*world(400, 0)))


@pytest.mark.parametrize(("good", "n"), [(0, 5), (5, 5), (3, 7), (90, 100)])
def test_intervals_are_scipys(good: int, n: int):
    expected = stats.binomtest(good, n).proportion_ci(0.95, method="wilson")
    assert wilson(good, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ends():
    """Certainty right and wrong, a probability of 0, one row, one class."""
    sure = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]], dtype=torch.float64)
    good, bad = calibration(sure, torch.tensor([0, 1])), calibration(sure, torch.tensor([1, 1]))
    assert (good["accuracy"], good["log_loss_nats"], good["brier"], good["calibration_error"]) == (1, 0, 0, 0)
    assert good["p_value"] == 1
    assert good["brier_z"] is None
    assert bad["log_loss_nats"] is None
    assert "log loss infinite" in described(bad)
    assert bad["p_value"] < 0.01
    one = calibration(sure[:1], torch.tensor([0]))
    assert one["accuracy_stderr"] is None
    assert "1 of 1 row right" in described(one)
    assert calibration(torch.zeros(3, 1).double(), torch.zeros(3, dtype=torch.int64))["calibration_error"] == 0


def test_unlikely_classes_keep_their_log():
    """p(y | x) below the smallest float has a finite log loss."""
    log_p = torch.tensor([[-2000.0, 0.0]], dtype=torch.float64).log_softmax(1)
    assert calibration(log_p, torch.tensor([0]))["log_loss_nats"] == pytest.approx(2000)


def test_only_models_and_rows_with_classes_are_checked():
    split = jensen.load_data("iris")
    model = jensen.fit(split, "naive-bayes", progress=False)
    found = classification(model, split.test)
    assert [c["class"] for c in found["by_class"]] == ["setosa", "versicolor", "virginica"]
    assert found == classification(model, split.test, seed=0)
    assert classification(jensen.fit(split, "gaussian", progress=False), split.test) is None
    assert classification(model, replace(split.test, context=None)) is None


def test_the_diagram_is_drawn():
    found = calibration(*world(100, 1))
    assert figure_png(reliability_figure(found["bins"])).startswith(b"\x89PNG")


def test_rows_of_which_nothing_is_known_are_counted_and_left_out():
    """A row impossible in every class has p(y | x) = 0/0; the measures are those of the other rows."""
    split = jensen.load_data("iris")
    model = jensen.fit(split, "naive-bayes", progress=False)
    x = split.test.x.double().clone()
    x[3, 0] = 1e200
    rows = replace(split.test, x=x)
    log_p = model.class_log_probabilities(rows)
    assert log_p[3].isnan().all()
    assert not log_p[torch.arange(len(x)) != 3].isnan().any()
    assert model.responsibilities(rows)[3].isnan().all()
    assert torch.isneginf(model.log_likelihood(rows).value[3])
    found = classification(model, rows)
    assert found is not None
    rest = classification(model, rows.take((torch.arange(len(x)) != 3).nonzero()[:, 0]))
    assert rest is not None
    assert found == {**rest, "unknown": 1}
    assert rest["unknown"] == 0
    assert left_out(rest) == ""
    assert described(found).endswith("; 1 row impossible in every class left out")
    json.dumps(found, allow_nan=False)


def test_all_rows_unknown():
    found = calibration(torch.full((2, 3), math.nan, dtype=torch.float64), torch.tensor([0, 2]))
    known = calibration(torch.zeros(2, 3).double().log_softmax(1), torch.tensor([0, 2]))
    assert set(found) == set(known)
    assert (found["rows"], found["unknown"], found["accuracy"]) == (0, 2, None)
    assert described(found) == "2 rows impossible in every class left out"
    assert verdict(found) == "calibration unknown"
    json.dumps(found, allow_nan=False)
