"""`fit_mle`: a maximum by an independent log-likelihood (scipy's densities), errors by its curvature and by repetition.

`WORLDS` is family → rows and scipy's log-density at given parameters. Statistical tests state seed and failure rate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import jensen
from jensen.errors import FitError, InputError
from jensen.estimation.family import flat
from jensen.estimation.mle import FAMILIES, MLE, fit_mle
from jensen.estimation.newton import derivatives, maximise

F64 = torch.float64
RNG = np.random.default_rng(0)
N = 400
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class World:
    """Rows, and scipy's log p of them at the flattened parameters."""

    x: Array
    logpdf: Callable[[Array, Array], Array]


def of_mvn(x: Array, p: Array) -> Array:
    return stats.multivariate_normal(p[:2], p[2:].reshape(2, 2)).logpdf(x)


WORLDS = {
    "bernoulli": World(RNG.binomial(1, 0.3, N), lambda x, p: stats.bernoulli(p[0]).logpmf(x)),
    "categorical": World(RNG.choice(4, N, p=[0.1, 0.2, 0.3, 0.4]), lambda x, p: np.log(p[x.astype(int)])),
    "poisson": World(RNG.poisson(3.0, N), lambda x, p: stats.poisson(p[0]).logpmf(x)),
    "geometric": World(RNG.geometric(0.3, N) - 1, lambda x, p: stats.geom(p[0], loc=-1).logpmf(x)),
    "negative-binomial": World(RNG.negative_binomial(3, 0.4, N), lambda x, p: stats.nbinom(p[0], 1 - p[1]).logpmf(x)),
    "normal": World(RNG.normal(5.0, 2.0, N), lambda x, p: stats.norm(p[0], p[1]).logpdf(x)),
    "multivariate-normal": World(RNG.normal(size=(N, 2)) @ [[2.0, 1.0], [0.0, 0.5]] + [1.0, -3.0], of_mvn),
    "log-normal": World(
        np.exp(RNG.normal(1.0, 0.6, N)), lambda x, p: stats.lognorm(p[1], scale=math.exp(p[0])).logpdf(x)
    ),
    "laplace": World(RNG.laplace(1.0, 2.0, N), lambda x, p: stats.laplace(p[0], p[1]).logpdf(x)),
    "student-t": World(2.0 + 3.0 * RNG.standard_t(4, N), lambda x, p: stats.t(p[0], p[1], p[2]).logpdf(x)),
    "uniform": World(RNG.uniform(2.0, 5.0, N), lambda x, p: stats.uniform(p[0], p[1] - p[0]).logpdf(x)),
    "exponential": World(RNG.exponential(2.0, N), lambda x, p: stats.expon(scale=1 / p[0]).logpdf(x)),
    "gamma": World(RNG.gamma(2.5, 3.0, N), lambda x, p: stats.gamma(p[0], scale=1 / p[1]).logpdf(x)),
    "weibull": World(4.0 * RNG.weibull(1.7, N), lambda x, p: stats.weibull_min(p[1], scale=p[0]).logpdf(x)),
    "beta": World(RNG.beta(0.5, 2.0, N), lambda x, p: stats.beta(p[0], p[1]).logpdf(x)),
    "von-mises": World(RNG.vonmises(2.0, 3.0, N), lambda x, p: stats.vonmises(p[1], p[0]).logpdf(x)),
}
each_family = pytest.mark.parametrize("family", WORLDS)
SMOOTH = [name for name in WORLDS if name not in ("uniform", "laplace", "categorical", "multivariate-normal")]


def fitted(family: str) -> MLE:
    return fit_mle(family, WORLDS[family].x.astype(float))


def numbers(fit: MLE) -> Array:
    return flat(fit.parameters).numpy()


def test_every_family_is_here():
    assert set(WORLDS) == set(FAMILIES)


@each_family
def test_the_log_likelihood_is_scipys(family: str):
    world, fit = WORLDS[family], fitted(family)
    assert fit.log_likelihood == pytest.approx(world.logpdf(world.x, numbers(fit)).sum(), rel=1e-9)
    tolerance = 1e-6 if family == "von-mises" else 1e-12  # torch's von Mises approximates log I_0
    own = float(fit.distribution.log_prob(torch.from_numpy(world.x.astype(float))).sum())
    assert fit.log_likelihood == pytest.approx(own, rel=tolerance)
    assert (fit.n, fit.family) == (N, family)


@each_family
def test_the_gradient_is_zero_at_the_estimate(family: str):
    """To 1e-8 a row, in the family's coordinates; Laplace in its scale (its location is a corner, tested below)."""
    if family == "uniform":
        return
    fit, kind = fitted(family), FAMILIES[family]()
    phi = kind.coordinates(fit.parameters)
    _, gradient, _ = derivatives(lambda p: kind.mean_log_prob(fit.sample, p), phi)
    if family == "laplace":
        gradient = gradient[1:]
    assert float(gradient.abs().max()) < 1e-8


@each_family
def test_no_other_member_is_more_likely(family: str):
    """scipy's log-likelihood falls from the estimate in 40 random directions, at steps of 1e-3 and of 0.1."""
    world, fit, kind = WORLDS[family], fitted(family), FAMILIES[family]()
    phi, draw = kind.coordinates(fit.parameters), np.random.default_rng(1)
    top = world.logpdf(world.x, numbers(fit)).sum()
    for size in (1e-3, 0.1):
        for _ in range(40):
            near = phi + size * torch.from_numpy(draw.normal(size=len(phi)))
            value = world.logpdf(world.x, flat(kind.parameters(near)).numpy()).sum()
            assert value < top + 1e-9 * abs(top)


PEERS: dict[str, Callable[[Array], list[float]]] = {
    "gamma": lambda x: [stats.gamma.fit(x, floc=0)[0], 1 / stats.gamma.fit(x, floc=0)[2]],
    "beta": lambda x: list(stats.beta.fit(x, floc=0, fscale=1)[:2]),
    "weibull": lambda x: [stats.weibull_min.fit(x, floc=0)[2], stats.weibull_min.fit(x, floc=0)[0]],
    "student-t": lambda x: list(stats.t.fit(x)),
    "log-normal": lambda x: [math.log(stats.lognorm.fit(x, floc=0)[2]), stats.lognorm.fit(x, floc=0)[0]],
    "laplace": lambda x: list(stats.laplace.fit(x)),
    "normal": lambda x: list(stats.norm.fit(x)),
    "von-mises": lambda x: [stats.vonmises.fit(x, fscale=1)[1], stats.vonmises.fit(x, fscale=1)[0]],
}


@pytest.mark.parametrize("family", PEERS)
def test_scipy_finds_no_better(family: str):
    """A cross-check: scipy's general fits stop at 1e-3 or so, and never higher."""
    world, fit = WORLDS[family], fitted(family)
    peer = np.array(PEERS[family](world.x))
    np.testing.assert_allclose(numbers(fit), peer, rtol=5e-3)
    assert world.logpdf(world.x, numbers(fit)).sum() >= world.logpdf(world.x, peer).sum() - 1e-9


def curvature(f: Callable[[Array], float], at: Array, steps: Array) -> Array:
    """-∇²f by central differences."""
    count, out = len(at), np.empty((len(at), len(at)))
    move = np.diag(steps)
    for i in range(count):
        for j in range(count):
            corners = [f(at + a * move[i] + b * move[j]) * a * b for a in (1, -1) for b in (1, -1)]
            out[i, j] = -sum(corners) / (4 * steps[i] * steps[j])
    return out


@pytest.mark.parametrize("family", SMOOTH)
def test_standard_errors_are_the_curvature_of_scipys_log_likelihood(family: str):
    """In torch's own parameters, by differences: nothing of coordinates or of the delta method."""
    world, fit = WORLDS[family], fitted(family)
    at = numbers(fit)
    assert fit.standard_errors is not None
    steps = 0.02 * flat(fit.standard_errors).numpy()
    information = curvature(lambda p: float(world.logpdf(world.x, p).sum()), at, steps)
    np.testing.assert_allclose(fit.covariance, np.linalg.inv(information), rtol=2e-3, atol=1e-9)
    assert fit.information == "observed"


def test_standard_errors_in_closed_form():
    fit = fitted("multivariate-normal")
    sigma = fit.parameters["covariance_matrix"]
    errors = fit.standard_errors
    assert errors is not None
    torch.testing.assert_close(errors["loc"], (sigma.diagonal() / N).sqrt())
    expected = ((sigma.diagonal()[:, None] * sigma.diagonal() + sigma.square()) / N).sqrt()
    torch.testing.assert_close(errors["covariance_matrix"], expected)
    p = fitted("categorical").parameters["probs"]
    errors = fitted("categorical").standard_errors
    assert errors is not None
    torch.testing.assert_close(errors["probs"], (p * (1 - p) / N).sqrt())
    kind = FAMILIES["categorical"]()
    generic = super(type(kind), kind).covariance(fitted("categorical").sample, fitted("categorical").parameters)
    torch.testing.assert_close(fitted("categorical").covariance, generic)  # by the delta method


@pytest.mark.parametrize("family", [f for f in WORLDS if f not in ("multivariate-normal",)])
def test_whole_weights_are_repeated_rows(family: str):
    x = WORLDS[family].x.astype(float)[:60]
    times = np.random.default_rng(2).integers(0, 4, 60)
    weighted, repeated = fit_mle(family, x, times), fit_mle(family, np.repeat(x, times))
    torch.testing.assert_close(flat(weighted.parameters), flat(repeated.parameters), rtol=1e-8, atol=1e-10)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-10)
    if weighted.covariance is not None:
        torch.testing.assert_close(weighted.covariance, repeated.covariance, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("family", ["normal", "laplace", "student-t", "uniform", "multivariate-normal"])
def test_units_change_nothing_else(family: str):
    """Law 25: x → 1e6 + x/1000 moves the log-likelihood by n d log 1000, and errors along."""
    x = WORLDS[family].x
    fit, other = fit_mle(family, x), fit_mle(family, 1e6 + x / 1000)
    dims = x.shape[1] if x.ndim == 2 else 1
    assert other.log_likelihood == pytest.approx(fit.log_likelihood + N * dims * math.log(1000), rel=1e-5)
    if fit.standard_errors is not None and other.standard_errors is not None and "loc" in fit.parameters:
        torch.testing.assert_close(other.standard_errors["loc"] * 1000, fit.standard_errors["loc"], rtol=1e-4, atol=0)


def test_the_median_is_the_middle_of_the_medians():
    for x, w, expected in (
        ([3.0, 1.0, 2.0], None, 2.0),
        ([4.0, 1.0, 2.0, 3.0], None, 2.5),
        ([1.0, 2.0, 10.0], [1.0, 1.0, 2.0], 6.0),
        ([1.0, 2.0, 10.0], [1.0, 1.0, 3.0], 10.0),
    ):
        assert float(fit_mle("laplace", x, w).parameters["loc"]) == expected


REPEATED: dict[str, tuple[Callable[[np.random.Generator, int], Array], list[float]]] = {
    "poisson": (lambda r, n: r.poisson(2.0, n), [2.0]),
    "normal": (lambda r, n: r.normal(1.0, 2.0, n), [1.0, 2.0]),
    "laplace": (lambda r, n: r.laplace(1.0, 2.0, n), [1.0, 2.0]),
    "gamma": (lambda r, n: r.gamma(1.5, 1 / 0.8, n), [1.5, 0.8]),
    "bernoulli": (lambda r, n: r.binomial(1, 0.2, n), [0.2]),
}


def repeated(family: str, repeats: int, n: int) -> tuple[Array, Array, Array]:
    """Estimates, standard errors and whether the 95 % interval holds the truth, each `(repeats, q)`, seeds 0, 1, …"""
    draw, truth = REPEATED[family]
    out: list[tuple[Array, Array, Array]] = []
    for seed in range(repeats):
        fit = fit_mle(family, draw(np.random.default_rng(seed), n).astype(float))
        assert fit.standard_errors is not None
        ends = fit.interval(0.95)
        low, high = (torch.stack([ends[name][side] for name in fit.parameters]).numpy() for side in (0, 1))
        out.append((numbers(fit), flat(fit.standard_errors).numpy(), (low <= truth) & (np.array(truth) <= high)))
    estimates, errors, inside = (np.stack(part) for part in zip(*out, strict=True))
    return estimates, errors, inside


@pytest.mark.parametrize("family", REPEATED)
def test_standard_errors_are_the_spread_of_estimates(family: str):
    """150 repeats of 300 rows: the ratio of spread to claim has a standard error of 0.06, and ±0.26 is 4.5 of them:
    failure rate 1e-4 over the nine parameters. Intervals at 95 %: 150 of them hold the truth fewer than 128 times with
    probability 2e-7 each, and all of them with 5e-4. Seeds 0 … 149.
    """
    estimates, errors, inside = repeated(family, 150, 300)
    ratio = estimates.std(0, ddof=1) / np.sqrt((errors**2).mean(0))
    assert ((ratio > 0.74) & (ratio < 1.26)).all()
    assert (inside.sum(0) >= 128).all()
    assert (inside.sum(0) < 150).all()


@pytest.mark.slow
@pytest.mark.parametrize("family", REPEATED)
def test_intervals_hold_the_truth_as_often_as_they_say(family: str):
    """Law 24: 2,000 repeats of 300 rows; 93 to 97 % is ± 4.1 standard errors; failure rate 4e-4. Seeds 0 … 1999."""
    _, _, inside = repeated(family, 2000, 300)
    assert ((inside.mean(0) > 0.93) & (inside.mean(0) < 0.97)).all()


def test_intervals_stay_inside_the_family():
    p = fit_mle("bernoulli", [0.0, 0.0, 0.0, 1.0]).interval(0.999)["probs"]
    assert 0 < float(p[0]) < 0.25 < float(p[1]) < 1
    scale = fit_mle("normal", [0.0, 1.0, 5.0]).interval(0.999)["scale"]
    assert 0 < float(scale[0]) < float(scale[1])
    wide = fit_mle("multivariate-normal", WORLDS["multivariate-normal"].x[:4]).interval(0.9999)["covariance_matrix"]
    assert float(wide[0].diagonal().min()) > 0


IRREGULAR = {
    "uniform": ("uniform", [1.0, 2.0, 4.0], "err by about 1/n"),
    "no success": ("bernoulli", [0.0, 0.0], "estimate 0 lies on the boundary"),
    "no count": ("poisson", [0.0, 0.0, 0.0], "estimate 0 lies on the boundary"),
    "no failure": ("geometric", [0.0, 0.0], "estimate 1 lies on the boundary"),
    "a category never seen": ("categorical", [0.0, 2.0, 2.0], "p_1 = 0 lies on the boundary"),
    "two rows": ("normal", [0.0, 1.0], "2 rows are too few"),
}


@pytest.mark.parametrize("what", IRREGULAR)
def test_no_standard_errors_where_there_are_none(what: str):
    family, x, why = IRREGULAR[what]
    fit = fit_mle(family, x)
    assert fit.standard_errors is None
    assert fit.information is None
    assert fit.reason is not None
    assert why in fit.reason
    assert math.isfinite(fit.log_likelihood)
    with pytest.raises(InputError, match="no standard errors here"):
        fit.interval()


def test_boundary_estimates_are_likely_all_the_same():
    """P(all rows) = 1 under the estimate."""
    for family in ("bernoulli", "poisson", "geometric"):
        assert fit_mle(family, [0.0, 0.0, 0.0]).log_likelihood == 0.0
    assert fit_mle("bernoulli", [1.0, 1.0]).log_likelihood == 0.0


REFUSED: dict[str, tuple[str, Any, str]] = {
    "a word": ("norml", [0.0], "unknown family 'norml'; did you mean 'normal'"),
    "one value": ("normal", [2.0, 2.0], "every row is 2: the likelihood of 'normal' grows without bound"),
    "one value, laplace": ("laplace", [2.0, 2.0], "grows without bound"),
    "one value, gamma": ("gamma", [2.0, 2.0], "every row is 2"),
    "one value, uniform": ("uniform", [2.0], "every row is 2"),
    "one angle": ("von-mises", [1.0, 1.0], "same angle"),
    "angles that cancel": ("von-mises", [0.0, math.pi], "cancel"),
    "zeros": ("exponential", [0.0, 0.0], "every row is 0"),
    "a zero": ("gamma", [0.0, 1.0], "row 0 is 0, and the support of 'gamma' is the positive"),
    "an end": ("beta", [0.5, 1.0], "row 1 is 1, and the support of 'beta'"),
    "a half": ("poisson", [1.0, 0.5], "row 1 is 0.5, and the support of 'poisson'"),
    "a two": ("bernoulli", [0.0, 2.0], "row 1 is 2, and the support of 'bernoulli' is 0 and 1"),
    "too regular": ("negative-binomial", [1.0, 2.0, 3.0], "variance of the rows, 0.666667, is not above their mean, 2"),
    "light tails": ("student-t", np.linspace(-1, 1, 50), "no heavier than a normal's; fit 'normal'"),
    "a code too high": ("categorical", [1e9], "a code is 1e"),
    "few rows": ("multivariate-normal", np.eye(2), "2 rows of 2 dimensions"),
    "a line": ("multivariate-normal", np.outer(np.arange(5.0), [1.0, 2.0]), "singular"),
    "NaN": ("normal", [0.0, math.nan], "NaN or infinite"),
    "no rows": ("normal", [], r"shape \(n,\) with n from 1, got \(0,\)"),
    "a matrix": ("normal", np.zeros((3, 2)), r"got \(3, 2\)"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_no_maximum_is_refused_by_name(what: str):
    family, x, message = REFUSED[what]
    with pytest.raises(InputError, match=message):
        fit_mle(family, x)


@pytest.mark.parametrize(
    ("weights", "message"), [([1.0], r"got \(1,\)"), ([1.0, -1.0], "got -1"), ([0.0, 0.0], "not all zero")]
)
def test_weights_that_cannot_be_are_refused(weights: list[float], message: str):
    with pytest.raises(InputError, match=message):
        fit_mle("normal", [0.0, 1.0], weights)


def test_a_surface_is_the_log_likelihood_and_its_top_the_estimate():
    world, fit = WORLDS["gamma"], fitted("gamma")
    grids = {name: fit.grid(name, points=21) for name in fit.parameters}
    surface = fit.surface(**grids)
    expected = [
        [world.logpdf(world.x, np.array([a, b])).sum() for b in grids["rate"].numpy()]
        for a in grids["concentration"].numpy()
    ]
    np.testing.assert_allclose(surface, np.array(expected), rtol=1e-10)
    assert int(surface.argmax()) == 10 * 21 + 10
    assert float(surface.max()) == pytest.approx(fit.log_likelihood, rel=1e-12)
    line = fit.surface(rate=grids["rate"])
    torch.testing.assert_close(line, surface[10])


def test_the_parabola_touches_the_surface():
    """What is left is of third order: it falls by 8 when the distance halves."""
    fit = fitted("gamma")
    a, b = (fit.parameters[name] for name in ("concentration", "rate"))
    left = []
    for h in (0.08, 0.04):
        grids = {
            "concentration": a * (1 + h * torch.tensor([1.0], dtype=F64)),
            "rate": b * (1 + 0.5 * h * torch.ones(1)),
        }
        left.append(float((fit.surface(**grids) - fit.quadratic(**grids)).abs()))
    assert 6 < left[0] / left[1] < 10


def test_outside_the_family_nothing_is_likely():
    fit = fitted("normal")
    values = fit.surface(scale=torch.tensor([-1.0, 0.0, 2.0]))
    assert values.isneginf().tolist() == [True, True, False]
    ends = fitted("uniform").surface(low=torch.tensor([0.0, 3.0]), high=torch.tensor([1.0, 6.0]))
    assert ends.isneginf().tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize(
    ("family", "grids", "message"),
    [
        ("normal", {}, "one or two parameters, got 0"),
        ("normal", {"lock": torch.zeros(1)}, "no parameter 'lock'; did you mean 'loc'"),
        ("categorical", {"probs": torch.zeros(1)}, "no single number"),
        ("normal", {"loc": torch.zeros(3000), "scale": torch.zeros(3000)}, "at most 4194304 points, got 9000000"),
    ],
)
def test_surfaces_that_cannot_be_are_refused(family: str, grids: dict[str, torch.Tensor], message: str):
    with pytest.raises(InputError, match=message):
        fitted(family).surface(**grids)


def test_newton_climbs_where_the_curvature_is_wrong():
    """From a start between two tops, and on a function without one."""
    two_tops = lambda p: -(p.square() - 1).square().sum()  # noqa: E731
    found = maximise(two_tops, torch.tensor([0.1], dtype=F64), "two tops")
    assert abs(abs(float(found[0])) - 1) < 1e-10
    with pytest.raises(FitError, match="a slope has no maximum"):
        maximise(lambda p: p.sum(), torch.zeros(1, dtype=F64), "a slope")


def test_lists_lose_no_digits():
    x = [0.1, 1 / 3, math.pi]
    assert fit_mle("normal", x).log_likelihood == fit_mle("normal", np.array(x)).log_likelihood


def test_it_is_a_public_name():
    assert jensen.fit_mle is fit_mle
    assert fit_mle("normal", torch.tensor([[1.0], [3.0]])).parameters["loc"] == 2.0
