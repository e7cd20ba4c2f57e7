"""The chain rule: exact masses by enumeration, samples with their law, a known world learned."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import jensen
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models.ar import Autoregressive
from jensen.noise import Noise


def shaken(event: tuple[int, ...], k: int, seed: int = 0, **options: Any) -> Autoregressive:
    """A model with random weights."""
    torch.manual_seed(seed)
    model = Autoregressive(event, Levels(k, -1.0, 2 / (k - 1)), size="tiny", **options)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


SMALL: dict[str, tuple[tuple[int, ...], int, Mapping[str, Any]]] = {
    "made": ((4,), 3, {}),
    "made, logistics": ((3,), 4, {"conditional": "logistic-mixture", "n_components": 2}),
    "pixelcnn": ((1, 2, 3), 2, {}),
    "pixelcnn, colour": ((2, 1, 2), 3, {}),
    "rnn": ((5,), 2, {"network": "rnn"}),
}
each = pytest.mark.parametrize("word", SMALL)


def every(event: tuple[int, ...], model: Autoregressive) -> Tensor:
    values = model.space.values().tolist()
    rows = torch.tensor(list(itertools.product(values, repeat=math.prod(event))), dtype=torch.float64)
    return rows.reshape(-1, *event)


@each
def test_a_mass_sums_to_one(word: str):
    event, k, options = SMALL[word]
    model = shaken(event, k, **options)
    value = model.log_likelihood(every(event, model)).value
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=2e-6)  # the network is float32
    assert float(value.std()) > 0.1


@each
def test_samples_have_the_law(word: str):
    """χ² of 3,000 samples over all rows with an expected count above 5, the others together. Seed 7; the five tests
    together fail by chance once in 2,000 (each at 1e-4).
    """
    event, k, options = SMALL[word]
    model, n = shaken(event, k, **options), 3000
    rows = every(event, model)
    p = model.log_likelihood(rows).value.exp().numpy()
    place = (model.space.index(model.sample(n, seed=7)).flatten(1) * k ** torch.arange(rows[0].numel()).flip(0)).sum(1)
    count, common = np.bincount(place.numpy(), minlength=len(p)), p * n > 5
    seen = np.append(count[common], count[~common].sum())
    wanted = np.append(p[common], 1 - p[common].sum()) * n
    kept = wanted > 1e-6
    assert stats.chisquare(seen[kept], wanted[kept] * seen[kept].sum() / wanted[kept].sum()).pvalue > 1e-4


def test_samples_are_the_same_in_any_company():
    model = shaken((1, 4, 4), 5)
    whole = model.sample(40, seed=1)
    assert torch.equal(whole[33:35], model.sample(2, seed=1, start=33))


def test_a_density_integrates_to_one_over_a_row_of_three():
    """By quadrature of the last dimension given random first ones: each conditional is a density."""
    torch.manual_seed(0)
    model = Autoregressive((3,), Real(), size="tiny", n_components=3)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    axis = torch.linspace(-30, 30, 20_001, dtype=torch.float64)
    first = torch.tensor([0.3, -1.2], dtype=torch.float64)
    joint = model.log_likelihood(torch.cat([first.expand(len(axis), 2), axis[:, None]], 1)).value
    of_two = float(torch.logsumexp(joint, 0)) + math.log(float(axis[1] - axis[0]))
    law, out = model.law, model.network(torch.tensor([[0.3, -1.2, 0.0]])).detach()
    wanted = law.log_prob(out.double()[0, :2], first).sum()
    assert of_two == pytest.approx(float(wanted), abs=1e-5)


def chain_of_levels(n: int, seed: int) -> tuple[np.ndarray, float]:
    """A Markov chain on 4 levels over 5 columns, and its entropy a row in nats."""
    move = np.array([[0.7, 0.2, 0.1, 0.0], [0.1, 0.6, 0.2, 0.1], [0.0, 0.2, 0.7, 0.1], [0.3, 0.0, 0.1, 0.6]])
    draw, rows = np.random.default_rng(seed), np.zeros((n, 5), np.uint8)
    rows[:, 0] = draw.integers(0, 4, n)
    for t in range(1, 5):
        rows[:, t] = (draw.random((n, 1)) > move[rows[:, t - 1]].cumsum(1)).sum(1).clip(max=3)
    law, entropy = np.full(4, 0.25), math.log(4)
    inner = -(move * np.log(np.where(move > 0, move, 1))).sum(1)
    for _ in range(4):
        entropy, law = entropy + law @ inner, law @ move
    return rows, float(entropy)


@pytest.mark.parametrize("network", ["made", "rnn"])
def test_a_known_chain_is_learned(network: str):
    """The mean over 800 test rows, an unbiased estimate of minus the cross-entropy, lies within four standard errors
    and 0.1 nats of minus the entropy, while independent columns lie 1.3 below. Data seed 0, fit seed 0.
    """
    rows, entropy = chain_of_levels(4000, 0)
    split = jensen.load_data(rows, levels=4)
    model = jensen.fit(split, "ar", network=network, size="tiny", steps=250, lr=5e-3, progress=False)
    ll = model.log_likelihood(split.test)
    assert ll.kind == "exact"
    assert -entropy - 0.1 - 4 * ll.total < ll.mean < -entropy + 4 * ll.total
    alone = jensen.fit(split, "independent", progress=False).log_likelihood(split.test)
    assert (ll - alone).mean > 1.0


def test_training_is_on_what_is_scored():
    """The objective a dimension times the number of dimensions is minus the log-likelihood."""
    model = shaken((1, 3, 3), 4).eval()
    x = every((1, 1, 2), model)[:8].repeat(1, 1, 3, 2)[:, :, :, :3]
    from jensen.data.examples import Batch

    loss = model.objective().eval()(Batch(x, torch.arange(len(x))), Noise(0))
    torch.testing.assert_close(-9 * loss.double(), model.log_likelihood(x).value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("event", "space", "options", "message"),
    [
        (
            (3,),
            Levels(300),
            {"conditional": "normal-mixture"},
            "categorical .* or logistic-mixture for 300 levels, got normal-mixture",
        ),
        ((3,), Levels(2000), {"conditional": "categorical"}, r"categorical \(up to 1024 levels\) .* got categorical"),
        ((3,), Real(), {"conditional": "categorical"}, "must be normal-mixture for real values, got categorical"),
        ((3,), Real(), {"network": "pixelcnn"}, r"needs images \(C, H, W\) with C ≤ 4, got rows of shape \(3,\)"),
        ((5, 2, 2), Real(), {"network": "pixelcnn"}, r"got rows of shape \(5, 2, 2\)"),
        ((3,), Real(), {"n_components": 0}, "n_components must be from 1 to 1000, got 0"),
        ((3,), Real(), {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(event, space, options, message: str):
    with pytest.raises(InputError, match=message):
        Autoregressive(event, space, **options)


def test_many_levels_take_logistics():
    assert Autoregressive((2,), Levels(65536)).law.outputs == 24
    assert Autoregressive((2,), Levels(256)).law.outputs == 256
