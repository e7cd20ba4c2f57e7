"""Noise: a pure function of (seed, stream, row), independent between all of them, with the right moments.

Statistical tests: seed in the code; |z| < 5 each, failure rate 6e-7 a comparison.
"""

import itertools

import pytest
import torch
from scipy import stats

from jensen.noise import Noise


def test_the_same_row_gets_the_same_noise_in_any_batch():
    noise = Noise(3, "train", 17)
    for draw in (noise.normal, noise.uniform):
        whole = draw(range(20), (3, 4))
        assert torch.equal(draw([7, 19, 0], (3, 4)), whole[[7, 19, 0]])
        assert torch.equal(draw(torch.tensor([5]), (3, 4))[0], whole[5])
        assert torch.equal(torch.cat([draw([i], (3, 4)) for i in range(20)]), whole)


def test_a_stream_is_named_by_its_whole_path():
    assert torch.equal(Noise(1, "a", 2).normal([0], (4,)), Noise(1).at("a").at(2).normal([0], (4,)))
    assert torch.equal(Noise(1).at("a", 2).normal([0], (4,)), Noise(1).at("a").at(2).normal([0], (4,)))


def test_every_change_of_seed_label_or_row_changes_the_noise():
    """Also labels that look alike: 1 and "1", ("a", "b") and ("ab",), large and negative ids."""
    streams = [
        Noise(0),
        Noise(1),
        Noise(-1),
        Noise(0, 1),
        Noise(0, "1"),
        Noise(0, "a", "b"),
        Noise(0, "ab"),
        Noise(0, "b", "a"),
    ]
    ids = [0, 1, -1, 2**32, 2**40]
    rows = torch.cat([stream.normal(ids, (8,)) for stream in streams])
    for a, b in itertools.combinations(range(len(rows)), 2):
        assert not bool((rows[a] == rows[b]).any())


def test_an_id_may_repeat():
    a = Noise(0).normal([4, 4], (5,))
    assert torch.equal(a[0], a[1])


def test_shapes_and_dtypes():
    assert Noise(0).normal([1, 2], (3, 1)).shape == (2, 3, 1)
    assert Noise(0).normal([1, 2], (3,)).dtype == torch.float32
    assert Noise(0).uniform([1, 2]).shape == (2,)
    assert Noise(0).uniform([1]).dtype == torch.float64
    assert Noise(0).normal([], (3,)).shape == (0, 3)


def test_normal_moments_and_law():
    """100,000 draws: mean 0, variance 1, third 0, fourth 3 within 5 standard errors; Kolmogorov–Smirnov p > 1e-6."""
    x = Noise(0, "moments").normal(range(1000), (100,)).double().flatten()
    n = len(x)
    for power, moment, variance in [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)]:
        assert abs(float(x.pow(power).mean()) - moment) < 5 * (variance / n) ** 0.5
    assert stats.kstest(x.numpy(), "norm").pvalue > 1e-6


def test_uniform_moments_and_law():
    u = Noise(0, "moments").uniform(range(1000), (100,)).flatten()
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 5 * (1 / 12 / len(u)) ** 0.5
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("kind", ["row", "label", "seed", "position"])
def test_neighbours_are_uncorrelated(kind: str):
    """Noise of neighbouring rows, labels, seeds and positions: correlations of 40,000 pairs below 5/√n, also of squares."""
    base = Noise(5, "x", 1).normal(range(400), (101,)).double()
    here = base[:, :100]
    there = {
        "row": Noise(5, "x", 1).normal(range(1, 401), (101,)).double()[:, :100],
        "label": Noise(5, "x", 2).normal(range(400), (101,)).double()[:, :100],
        "seed": Noise(6, "x", 1).normal(range(400), (101,)).double()[:, :100],
        "position": base[:, 1:],
    }[kind]
    n = here.numel()
    assert abs(float((here * there).mean())) < 5 / n**0.5
    assert abs(float(((here**2 - 1) * (there**2 - 1)).mean())) < 5 * 2 / n**0.5


def test_a_permutation_is_one_and_is_uniform():
    """The place of item 0 among 5, over 5000 streams: chi-square p > 1e-6."""
    places = [int(Noise(i, "p").permutation(5)[0]) for i in range(5000)]
    assert sorted(Noise(0).permutation(100).tolist()) == list(range(100))
    assert stats.chisquare(torch.bincount(torch.tensor(places), minlength=5).numpy()).pvalue > 1e-6


def test_drawing_leaves_the_global_generators_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Noise(0).normal([0], (3,))
    assert torch.equal(before, torch.get_rng_state())
