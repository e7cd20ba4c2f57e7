"""Sums of bumps against brute force, bandwidths against grids and closed forms, bumps on levels against enumeration.

`brute` knows nothing of jensen's formulas: it takes densities from scipy's distributions, all pairs at once.
"""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.kernel_density import bandwidth, given, selected, sums
from jensen.kernel_density.bandwidth import Sample
from jensen.kernel_density.kernels import KERNELS
from jensen.kernel_density.levels import drawn, heights, mean_offset, mean_square, normalisers
from jensen.kernel_density.sums import Sums
from jensen.kernel_density.tree import leaves
from jensen.noise import Noise

BOTH = pytest.mark.parametrize("word", KERNELS)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_kernel(word: str, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], h: Any, k: int | None) -> Any:
    """log of one dimension's bump at x around y."""
    u = (x - y) / h
    if k is None:
        # (1 - u²) on (-1, 1) is a Beta(2, 2) on that interval
        return (stats.norm(0, 1) if word == "gaussian" else stats.beta(2, 2, loc=-1, scale=2)).logpdf(u) - np.log(h)
    own = np.exp(-(u**2) / 2) if word == "gaussian" else np.maximum(1 - u**2, 0)
    all_u = (np.arange(k) - y[..., None]) / h
    all_own = np.exp(-(all_u**2) / 2) if word == "gaussian" else np.maximum(1 - all_u**2, 0)
    with np.errstate(divide="ignore"):
        return np.log(own / all_own.sum(-1))


def pairs(word: str, x: Tensor, stored: Tensor, h: Tensor, k: int | None = None) -> np.ndarray[Any, Any]:
    """log K(x_i - x_n), every pair, over the cells of x that are there."""
    found = np.zeros((len(x), len(stored)))
    for d in range(x.shape[1]):
        column = x[:, d].numpy()
        seen = ~np.isnan(column)
        a, b = np.broadcast_arrays(column[seen][:, None], stored[:, d].double().numpy()[None])
        found[seen] += log_kernel(word, a, b, float(h[d]), k)
    return found


def brute(word: str, x: Tensor, stored: Tensor, log_w: Tensor, h: Tensor, k: int | None = None) -> Tensor:
    joint = torch.from_numpy(pairs(word, x, stored, h, k))
    return (joint + log_w).logsumexp(1)


def weights_of(n: int, seed: int = 1) -> Tensor:
    return normal(n, seed=seed).log_softmax(0)


def case(
    word: str, n: int, d: int, *, k: int | None = None, m: int = 90, width: float = 0.4
) -> tuple[Sums, Tensor, Any]:
    """A sum, rows to score (a third of them far out), and the brute-force arguments."""
    stored, x = normal(n, d), normal(m, d, seed=2) * (1 + 3 * (torch.arange(m) % 3 == 0)[:, None])
    h = width * (1 + torch.arange(d, dtype=torch.float64) / d) / KERNELS[word].spread
    if k is not None:
        stored, x = ((k / 2 + k / 6 * t).round().clamp(0, k - 1) for t in (stored, x))
        h = h * k / 6
    log_w = weights_of(n)
    return Sums(stored, log_w, h, KERNELS[word], k), x, (stored, log_w, h, k)


def equal(a: Tensor, b: Tensor, tolerance: float) -> None:
    """Equal, and impossible in the same places."""
    assert torch.equal(a.isneginf(), b.isneginf())
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@BOTH
@pytest.mark.parametrize(("n", "d"), [(1, 1), (300, 1), (700, 2), (3000, 3), (1100, 8), (600, 20)])
@pytest.mark.parametrize("k", [None, 17])
def test_sums_are_those_of_all_pairs(word: str, n: int, d: int, k: int | None):
    """In few dimensions with leaves left out, in many without; with the last leaf short, and with one row."""
    of, x, world = case(word, n, d, k=k)
    assert (of.selected is not None) == (n > selected.LEAF and d <= selected.MOST_DIMS)
    equal(of(x), brute(word, x, *world), 3e-11)


@BOTH
@pytest.mark.parametrize("k", [None, 5])
def test_missing_cells_are_left_out_of_the_product(word: str, k: int | None):
    """A product kernel's marginal is the product of the other factors; an empty row has probability 1, exactly."""
    of, x, world = case(word, 600, 3, k=k, m=40)
    x[normal(40, 3, seed=5) > 0.3] = math.nan
    x[7] = math.nan
    value = of(x)
    equal(value, brute(word, x, *world), 1e-11)
    assert float(value[7]) == 0.0


def test_leaves_are_left_out_and_none_that_matters(monkeypatch: pytest.MonkeyPatch):
    """5000 rows in 2-D, narrow bumps: most pairs are never looked at; what is lost stays below e^-25 of the density. With
    a careless depth the same comparison fails, so it would notice.
    """
    of, x, world = case("gaussian", 5000, 2, width=0.05)
    truth, seen = brute("gaussian", x, *world), [0]
    plain = torch.Tensor.exp2_

    def counted(tile: Tensor) -> Tensor:
        seen[0] += len(tile) * tile.shape[1]
        return plain(tile)

    assert of.selected is not None
    monkeypatch.setattr(torch.Tensor, "exp2_", counted)
    value = torch.cat([of(row[None]) for row in x])
    assert seen[0] / selected.BLOCK < 0.3 * len(x) * 5000
    assert float((value - truth).abs().max()) < 1.4e-11 + 1e-12 * float(truth.abs().max())
    monkeypatch.setattr(selected, "DEPTH", 2.0)
    assert float((of(x) - truth).abs().max()) > 1e-6


def test_far_rows_and_far_clusters_lose_no_digits():
    """Clusters 10⁶ bandwidths apart: beyond `COMMON` rows are taken from their leaf's centre, or ‖x‖² would cancel."""
    stored = torch.cat([normal(400, 2), normal(400, 2, seed=3) + 1e6, normal(400, 2, seed=4) - 3e5])
    x = stored[::40] + 0.3
    log_w, h = torch.full((1200,), -math.log(1200)).double(), torch.full((2,), 0.5).double()
    of = Sums(stored, log_w, h, KERNELS["gaussian"], None)
    assert of.selected is not None
    assert 0 < sum(of.selected.central) < len(of.selected.central)
    torch.testing.assert_close(of(x), brute("gaussian", x, stored, log_w, h), rtol=1e-12, atol=1e-9)
    lost = Sums(stored - 1e6, log_w, h, KERNELS["gaussian"], None)(x - 1e6)
    torch.testing.assert_close(lost, of(x), rtol=1e-12, atol=1e-8)
    distant = torch.tensor([[1e9, 0.0], [1e300, -1e300]], dtype=torch.float64)
    assert bool((of(distant) < -1e17).all())


def test_a_leaf_that_is_denser_than_the_nearest_one_by_any_factor():
    """The box of a sparse leaf holds x, though its rows are far from it; a farther box has a row beside x: e^709 is
    passed, and the row is done again.
    """
    corner = torch.tensor([[100.0, -0.1], [-100.0, -0.1]]).repeat(128, 1).double() + 1e-3 * normal(256, 2)
    corner[0, 1] = 0.1
    above = torch.tensor([[0.0, 0.2], [0.0, 250.0]]).repeat(128, 1).double()
    stored, log_w = torch.cat([corner, above]), torch.full((512,), -math.log(512)).double()
    h = torch.ones(2, dtype=torch.float64)
    of, x = Sums(stored, log_w, h, KERNELS["gaussian"], None), torch.zeros(3, 2, dtype=torch.float64)
    assert of.selected is not None
    assert bool(of.selected(x).isposinf().all())
    equal(of(x), brute("gaussian", x, stored, log_w, h), 1e-11)


@BOTH
@pytest.mark.parametrize("d", [2, 20])
def test_company_does_not_change_a_bit(word: str, d: int, monkeypatch: pytest.MonkeyPatch):
    of, x, _ = case(word, 900, d, m=300)
    x[::7, 0] = math.nan
    whole, order = of(x), torch.randperm(300, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.cat([of(part) for part in x.split(37)]), whole)
    assert torch.equal(of(x[order]), whole[order])
    monkeypatch.setattr(sums, "PIECE_ROWS", 64)
    assert torch.equal(of(x), whole)


def test_threads_do_not_change_a_bit():
    of, x, _ = case("gaussian", 900, 2, m=300)
    whole, before = of(x), torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(of(x), whole)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_leaves_hold_every_row_once_inside_their_box():
    points = normal(1000, 3)
    tree = leaves(points, 64)
    assert sorted(tree.order.tolist()) == list(range(1000))
    assert [len(tree.rows(i)) for i in range(len(tree))] == [64] * 15 + [40]
    for i, j in itertools.combinations(range(len(tree)), 2):
        apart = (tree.high[i] < tree.low[j]) | (tree.high[j] < tree.low[i])
        assert bool(apart.any()), "the boxes of two leaves do not overlap"
    x = normal(5, 3, seed=3) * 2
    gaps, most = tree.gaps(x), tree.gaps(x, largest=True)
    for leaf in range(len(tree)):
        away = points[tree.rows(leaf)][:, None] - x
        assert bool((gaps[leaf] <= away.square().sum(2).amin(0) + 1e-12).all())
        assert bool((most[leaf] <= away.abs().amax(2).square().amin(0) + 1e-12).all())
        nearest = torch.minimum(torch.maximum(x, tree.low[leaf]), tree.high[leaf])
        torch.testing.assert_close(gaps[leaf], (x - nearest).square().sum(1))


@BOTH
@pytest.mark.parametrize(("k", "h"), [(2, 0.7), (5, 0.3), (5, 2.2), (9, 40.0)])
def test_bumps_on_levels_by_enumeration(word: str, k: int, h: float):
    """Masses sum to one; normaliser, mean and mean square are those of the mass."""
    bump, level = heights(KERNELS[word], torch.tensor([h], dtype=torch.float64), k), np.arange(k)
    mass = np.exp(log_kernel(word, *np.broadcast_arrays(level[None], level[:, None].astype(float)), h, k))
    np.testing.assert_allclose(mass.sum(1), 1, rtol=1e-14)
    far = np.abs(level - level[:, None])
    np.testing.assert_allclose(bump[0].numpy()[far] / normalisers(bump)[0].numpy()[:, None], mass, rtol=1e-13)
    np.testing.assert_allclose(mean_offset(bump)[0], (mass * (level - level[:, None])).sum(1), atol=1e-13)
    np.testing.assert_allclose(mean_square(bump)[0], (mass * far**2).sum(1), rtol=1e-12)
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1]
    for v in range(k):
        got = np.bincount(drawn(bump[0], torch.full((1000,), v), u).numpy(), minlength=k) / 1000
        assert np.abs(got - mass[v]).max() < 0.0021, "an even grid of u hits every level by its mass"


@BOTH
def test_kernels_draw_themselves(word: str):
    """Kolmogorov-Smirnov on 4000 draws, seed 0; p < 0.001 fails."""
    draws = KERNELS[word].draw(Noise(0, "test"), torch.arange(4000), 1)[:, 0].numpy()
    law = stats.norm(0, 1) if word == "gaussian" else stats.beta(2, 2, loc=-1, scale=2)
    assert stats.kstest(draws, law.cdf).pvalue > 0.001
    assert KERNELS[word].spread == pytest.approx(law.std())


def sample_of(n: int, d: int, k: int | None = None) -> Sample:
    rows = normal(n, d) @ (torch.eye(d).double() + 0.4)
    rows = rows if k is None else (k / 2 + k / 5 * rows).round().clamp(0, k - 1)
    return Sample(rows, weights_of(n).exp(), k)


@BOTH
@pytest.mark.parametrize("k", [None, 7])
def test_left_out_is_the_sum_over_the_others(word: str, k: int | None, monkeypatch: pytest.MonkeyPatch):
    """Every row scored by brute force without it, weights divided by what is left; over several blocks."""
    monkeypatch.setattr(bandwidth, "BLOCK_CELLS", 7 * 60)
    sample = sample_of(60, 2, k)
    h = torch.tensor([0.9, 1.4]).double() / KERNELS[word].spread
    found = bandwidth.left_out(sample, h, KERNELS[word])
    for i in range(60):
        rest = torch.arange(60) != i
        log_w = (sample.weights[rest] / sample.weights[rest].sum()).log()
        truth = brute(word, sample.rows[i : i + 1], sample.rows[rest], log_w, h, k)
        equal(found[i : i + 1], truth, 1e-11)
    assert bandwidth.objective(sample, h, KERNELS[word]) == pytest.approx(float(sample.weights @ found))


@pytest.mark.parametrize("k", [None, 7])
def test_the_slope_is_the_derivative(k: int | None):
    """Central differences of the brute objective in log h."""
    sample, h, step = sample_of(50, 3, k), torch.tensor([0.7, 0.9, 1.3]).double(), 1e-5
    value, gradient = bandwidth.slope(sample, h)
    gaussian = KERNELS["gaussian"]
    assert value == pytest.approx(bandwidth.objective(sample, h, gaussian), abs=1e-12)
    for d in range(3):
        up, down = h.clone(), h.clone()
        up[d], down[d] = h[d] * math.exp(step), h[d] * math.exp(-step)
        numeric = (bandwidth.objective(sample, up, gaussian) - bandwidth.objective(sample, down, gaussian)) / (2 * step)
        assert float(gradient[d]) == pytest.approx(numeric, abs=1e-8)


@pytest.mark.parametrize("k", [None, 7])
def test_the_chosen_bandwidths_are_a_maximum(k: int | None):
    """The slope is zero, and no bandwidths on a grid of factors about them, or anywhere coarse, do better."""
    sample, gaussian = sample_of(150, 2, k), KERNELS["gaussian"]
    h = bandwidth.best(sample, gaussian)
    value, gradient = bandwidth.slope(sample, h)
    assert float(gradient.abs().max()) < 1e-5
    for a, b in itertools.product(np.geomspace(0.2, 5, 21), repeat=2):
        other = torch.maximum(h * torch.tensor([a, b]), bandwidth.floor(sample, gaussian))
        assert bandwidth.objective(sample, other, gaussian) <= value + 1e-12


def test_two_rows_have_their_distance_as_bandwidth():
    """log N(δ; 0, h²) is largest at h = |δ|, in each dimension."""
    sample = Sample(torch.tensor([[0.0, 1.0], [3.0, -1.0]]).double(), torch.tensor([0.5, 0.5]).double(), None)
    torch.testing.assert_close(
        bandwidth.best(sample, KERNELS["gaussian"]), torch.tensor([3.0, 2.0]).double(), rtol=1e-5, atol=0
    )


def test_a_compact_kernel_reaches_every_row(monkeypatch: pytest.MonkeyPatch):
    """An outlier fixes the least common factor; just below it some row is impossible, and the choice lies above, also
    where the search looks below.
    """
    sample = sample_of(80, 2)
    sample.rows[0] = torch.tensor([9.0, -9.0])
    kernel = KERNELS["epanechnikov"]
    h = bandwidth.best(sample, kernel)
    found = bandwidth.objective(sample, h, kernel)
    least = float(bandwidth.nearest(sample.rows / h))
    assert least < 1
    assert bandwidth.objective(sample, h * least * 0.999, kernel) == -math.inf
    for factor in np.geomspace(least * 1.001, 8, 60):
        assert bandwidth.objective(sample, h * factor, kernel) <= found + 1e-9
    real = bandwidth.nearest
    monkeypatch.setattr(bandwidth, "nearest", lambda y: 0.5 * real(y))
    assert bandwidth.objective(sample, bandwidth.best(sample, kernel), kernel) > found - 0.02
    apart = (sample.rows[:, None] - sample.rows).abs() / h
    apart[torch.arange(80), torch.arange(80)] = math.inf
    assert float(apart.amax(2).amin(1).max()) == pytest.approx(least)


def test_rules_of_thumb_are_scipys():
    """One dimension, weights and all: scipy's factor times its standard deviation."""
    sample = sample_of(40, 1)
    for word, rule in (("scott", bandwidth.scott), ("silverman", bandwidth.silverman)):
        peer = stats.gaussian_kde(sample.rows[:, 0].numpy(), word, weights=sample.weights.numpy())
        assert float(rule(sample, KERNELS["gaussian"])) == pytest.approx(math.sqrt(float(peer.covariance.item())))
    wide = float(bandwidth.scott(sample, KERNELS["epanechnikov"]) / bandwidth.scott(sample, KERNELS["gaussian"]))
    assert wide == pytest.approx(math.sqrt(5))


def test_the_floor_is_half_a_gap_or_laplaces():
    rows = torch.stack([torch.arange(8.0) // 2, torch.tensor([0.0, 1, 2, 3, 4, 5, 6, 100])], 1).double()
    assert bandwidth.gap_floor(rows).tolist() == [0.5, 0.5]
    sample = Sample(rows, torch.full((8,), 0.125).double(), 101)
    for kernel in KERNELS.values():
        next_level = heights(kernel, bandwidth.floor(sample, kernel), 2)[0, 1]
        assert float(next_level) == pytest.approx(1 / 18)


def test_a_column_that_is_rounded_stops_at_its_floor():
    """Whole numbers, each many times: L grows without limit as h → 0, and the choice is the floor, not beyond."""
    rows = torch.stack([normal(300).round(), normal(300, seed=4)], 1)
    sample, gaussian = Sample(rows, torch.full((300,), 1 / 300).double(), None), KERNELS["gaussian"]
    h = bandwidth.best(sample, gaussian)
    assert float(h[0]) == pytest.approx(0.5)
    assert float(h[1]) > 0.1
    narrower = torch.tensor([0.05, float(h[1])]).double()
    assert bandwidth.objective(sample, narrower, gaussian) > bandwidth.objective(sample, h, gaussian) + 1


@BOTH
@pytest.mark.parametrize("k", [None, 5])
@pytest.mark.parametrize("n", [50, 600])
def test_cells_given_others_are_bayes(word: str, k: int | None, n: int):
    """The mean is the ratio of brute sums, and an even grid of u picks rows by their share."""
    of, _, (stored, log_w, h, _) = case(word, n, 2, k=k, width=0.8)
    x = torch.tensor([[0.3 if k is None else 3.0, math.nan]]).double()
    joint = torch.from_numpy(pairs(word, x, stored, h, k))[0] + log_w
    share, centre = joint.softmax(0), stored[:, 1].double()
    if k is not None:
        level = np.arange(k)
        mass = np.exp(log_kernel(word, *np.broadcast_arrays(level[None], centre.numpy()[:, None]), float(h[1]), k))
        centre = torch.from_numpy((mass * level).sum(1))
    torch.testing.assert_close(given.mean(of, x)[0, 1], share @ centre, rtol=1e-10, atol=1e-10)
    u = (torch.arange(4000) + 0.5).double() / 4000
    which = given.pick(of, x, u[None])[0]
    found = torch.bincount(which, minlength=n).double() / 4000
    assert float((found - share).abs().max()) < 1.001 / 4000


def test_nothing_is_picked_where_nothing_is_possible():
    of, _, _ = case("epanechnikov", 50, 2)
    x = torch.tensor([[1e3, math.nan], [0.0, math.nan]]).double()
    assert given.pick(of, x, torch.full((2, 3), 0.5).double())[0].tolist() == [-1, -1, -1]
    assert bool(given.mean(of, x)[0].isnan().all())
    assert bool(given.mean(of, x)[1].isfinite().all())
