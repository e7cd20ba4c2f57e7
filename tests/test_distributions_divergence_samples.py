"""Two samples: against scipy and sums written out, and p-values that are uniform under the null and small off it."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from jensen.distributions.divergence import between_samples, divergence, median_distance
from jensen.distributions.divergence import permutations as module
from jensen.distributions.divergence.permutations import labels, pair_sums
from jensen.errors import InputError
from jensen.noise import Noise


def rows(name: str, n: int, d: int = 1) -> torch.Tensor:
    return Noise(0, "samples", name).normal(range(n), (d,)).double()


X, Y = rows("x", 37), 0.3 + 1.5 * rows("y", 24)
PLANE_X, PLANE_Y = rows("px", 40, 3), rows("py", 31, 3) + 0.2


def test_on_the_line_against_scipy():
    x, y = X[:, 0].numpy(), Y[:, 0].numpy()
    assert between_samples(X, Y, "wasserstein-1").value == pytest.approx(stats.wasserstein_distance(x, y), abs=1e-12)
    assert between_samples(X, Y, "energy").value == pytest.approx(stats.energy_distance(x, y) ** 2, abs=1e-12)


def test_wasserstein_2_of_unequal_samples():
    """Every row repeated so that both samples have 37·24 rows; then it is sorted row against sorted row."""
    a, b = X[:, 0].repeat_interleave(24).sort().values, Y[:, 0].repeat_interleave(37).sort().values
    assert between_samples(X, Y, "wasserstein-2").value == pytest.approx(
        float((a - b).square().mean().sqrt()), abs=1e-12
    )


def test_energy_and_mmd_by_sums_written_out():
    x, y = PLANE_X.numpy(), PLANE_Y.numpy()
    across, in_x, in_y = cdist(x, y), cdist(x, x), cdist(y, y)
    v = 2 * across.mean() - in_x.mean() - in_y.mean()
    assert between_samples(PLANE_X, PLANE_Y).value == pytest.approx(v, abs=1e-12)
    u = 2 * across.mean() - pdist(x).mean() - pdist(y).mean()
    assert between_samples(PLANE_X, PLANE_Y, version="U").value == pytest.approx(u, abs=1e-12)
    h = np.median(pdist(x))
    found = between_samples(PLANE_X, PLANE_Y, "mmd")
    assert found.bandwidth == pytest.approx(h, abs=1e-12)
    k = [np.exp(-0.5 * (d / h) ** 2) for d in (pdist(x), pdist(y), across)]
    assert found.value == pytest.approx(k[0].mean() + k[1].mean() - 2 * k[2].mean(), abs=1e-12)
    full = [np.exp(-0.5 * (d / h) ** 2).mean() for d in (in_x, in_y, across)]
    assert between_samples(PLANE_X, PLANE_Y, "mmd", version="V").value == pytest.approx(
        full[0] + full[1] - 2 * full[2], abs=1e-12
    )


@pytest.mark.parametrize("kind", ["energy", "mmd"])
def test_u_is_unbiased(kind: str):
    """300 pairs of samples of 8 rows: the mean is the divergence of the laws, |z| < 4.5 (seed 0, failure rate 7e-6)."""
    p, q = torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 1.0)
    how = {"bandwidth": 1.3} if kind == "mmd" else {}
    truth = divergence(p, q, kind, **how).value
    x, y = rows("many x", 2400).reshape(300, 8), rows("many y", 2400).reshape(300, 8) + 1
    values = torch.tensor([between_samples(a, b, kind, version="U", **how).value for a, b in zip(x, y, strict=True)])
    assert abs(float(values.mean()) - truth) < 4.5 * float(values.std()) / 300**0.5
    assert between_samples(x[0], x[0], "energy").value == pytest.approx(0, abs=1e-12)


def test_blocks_do_not_change_the_sums(monkeypatch: pytest.MonkeyPatch):
    z = labels(40, 31, 20, 0)
    whole = pair_sums(torch.cat([PLANE_X, PLANE_Y]), z, lambda d: d)
    monkeypatch.setattr(module, "MOST_PAIRS", 71 * 3)
    monkeypatch.setattr(module, "BLOCK", 4)
    small = pair_sums(torch.cat([PLANE_X, PLANE_Y]), z, lambda d: d)
    for name in ("inside_x", "inside_y", "across"):
        torch.testing.assert_close(getattr(small, name), getattr(whole, name), rtol=1e-12, atol=0)
    d = torch.cdist(torch.cat([PLANE_X, PLANE_Y]), torch.cat([PLANE_X, PLANE_Y]))
    torch.testing.assert_close(whole.across[3], z[:, 3] @ d @ (1 - z[:, 3]), rtol=1e-9, atol=0)


KINDS = {"energy": {}, "energy U": {"version": "U"}, "mmd": {}, "wasserstein-1": {}}


@pytest.mark.parametrize("name", KINDS)
def test_p_values_are_uniform_under_the_null_and_small_off_it(name: str):
    """Null: 40 pairs of samples, 19 permutations, p uniform on {0.05, …, 1}: 20 p + a uniform dither against U(0, 1) by
    Kolmogorov–Smirnov, p > 1e-4 (seed 0; failure rate 5e-4 for the four together). Power: a shift of 0.25 σ, 300 rows each, 12
    pairs: rejected at 5 % in most (the t-test's power is 0.86).
    """
    kind, how = name.split(" ")[0], KINDS[name]
    pooled = rows("null", 40 * 32).reshape(40, 32)
    p = [between_samples(r[:20], r[20:], kind, permutations=19, seed=i, **how).p_value for i, r in enumerate(pooled)]
    dither = Noise(0, "dither", name).uniform(range(40)).numpy()
    assert stats.kstest(np.array(p) - dither / 20, "uniform").pvalue > 1e-4
    shifted = rows("power", 12 * 600).reshape(12, 600)
    found = [
        between_samples(r[:300], r[300:] + 0.25, kind, permutations=19, seed=i, **how).p_value
        for i, r in enumerate(shifted)
    ]
    assert sum(v <= 0.05 for v in found if v is not None) >= 6


def test_wasserstein_2_has_a_p_value():
    """The number of permutations at least as far apart, counted by hand."""
    z = labels(37, 24, 19, 5)
    pooled = torch.cat([X, Y])
    far = [between_samples(pooled[own == 1], pooled[own == 0], "wasserstein-2").value for own in z.T]
    found = between_samples(X, Y, "wasserstein-2", permutations=19, seed=5)
    assert found.p_value == sum(v >= far[0] for v in far) / 20


def test_ties_are_no_evidence():
    same = torch.ones(20, 1)
    assert between_samples(same[:8], same[8:], "energy", permutations=19).p_value == 1
    found = between_samples(X, Y, "energy", permutations=99, seed=2)
    assert found == between_samples(X, Y, "energy", permutations=99, seed=2)
    assert "p = " in str(found)


def test_the_median_of_many_rows_is_of_some():
    x = rows("long", 2500, 2)
    assert median_distance(x) == pytest.approx(float(np.median(pdist(x.numpy()))), rel=0.03)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: between_samples(X, Y, "kl"), "kl is a function of densities, which samples do not have; fit a model"),
        (lambda: between_samples(PLANE_X, PLANE_Y, "wasserstein-1"), "one column, not 3"),
        (lambda: between_samples(X, PLANE_X), r"not \(1,\) and \(3,\)"),
        (lambda: between_samples(X[:1], Y), "not 1 and 24"),
        (lambda: between_samples(X * torch.nan, Y), "37 of its cells"),
        (lambda: between_samples(X * 0, Y, "mmd"), "all equal"),
        (lambda: between_samples(X, Y, "energy", version="W"), "not 'W'"),
        (lambda: between_samples(X, Y, permutations=-1), "not -1"),
    ],
)
def test_mistakes_are_named(call: object, says: str):
    with pytest.raises(InputError, match=says):
        call()  # type: ignore[operator]
