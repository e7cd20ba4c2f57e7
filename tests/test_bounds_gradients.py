"""Estimators of the gradient of the k-draw bound, on a linear-Gaussian world with a posterior that is off.

    z ~ N(0, 1),  x | z ~ N(θ z, s²),  q(z | x) = N(a x + b, e^{2c})

For k = 1 the gradient in a, b, c and θ is in closed form; for more draws the estimators are held against each other, since
`reparameterised` is the derivative of the estimate itself. Seeds are fixed; a z-test beyond 4.5 happens by chance in 1 of 150,000 cases.
"""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from jensen.bounds.gradients import ESTIMATORS, advantages, leave_one_out
from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import DiagonalNormal
from jensen.errors import InputError
from jensen.importance import log_mean_exp

F64 = torch.float64
S2 = 0.4
X = torch.tensor([[0.7], [-1.3]], dtype=F64)
REPEATS = 40_000
Z = 4.5


class Prior(Conditional):
    def forward(self, given: Tensor) -> Distribution:
        zeros = given.new_zeros(len(given), 1)
        return DiagonalNormal(zeros, zeros)


class Emission(Conditional):
    def __init__(self, theta: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(theta, dtype=F64))

    def forward(self, given: Tensor) -> Distribution:
        return Independent(Normal(self.theta * given, math.sqrt(S2)), 1)


class Posterior(Conditional):
    def __init__(self, a: float, b: float, c: float) -> None:
        super().__init__()
        self.abc = nn.Parameter(torch.tensor([a, b, c], dtype=F64))

    def forward(self, given: Tensor) -> DiagonalNormal:
        a, b, c = self.abc
        return DiagonalNormal(a * given + b, c.expand(given.shape))


def world(best: bool = False) -> tuple[Prior, Emission, Posterior]:
    theta = 1.2
    if best:
        precision = 1 + theta**2 / S2
        return Prior(), Emission(theta), Posterior(theta / S2 / precision, 0.0, -0.5 * math.log(precision))
    return Prior(), Emission(theta), Posterior(0.4, 0.3, math.log(0.7))


def gradients(word: str, k: int, repeats: int = REPEATS, *, seed: int = 0, best: bool = False) -> Tensor:
    """Independent estimates `(repeats, 4)` of the gradient in (a, b, c, θ) of the mean bound over the two rows."""
    prior, emission, posterior = world(best)
    abc = posterior.abc.detach().expand(repeats, 3).clone().requires_grad_(True)
    theta = emission.theta.detach().expand(repeats).clone().requires_grad_(True)
    noise = torch.randn(k, repeats * 2, 1, dtype=F64, generator=torch.Generator().manual_seed(seed))

    class Each(Conditional):
        """Row r of every pair has parameters of its own, so that one pass gives all gradients."""

        def __init__(self, of: str) -> None:
            super().__init__()
            self.of = of

        def forward(self, given: Tensor) -> Distribution:
            if self.of == "q":
                a, b, c = (abc[:, i].repeat_interleave(2)[:, None] for i in range(3))
                return DiagonalNormal(a * given + b, c)
            return Independent(Normal(theta.repeat_interleave(2)[:, None] * given, math.sqrt(S2)), 1)

    loss = ESTIMATORS[word].loss(prior, Each("p"), Each("q"), X.repeat(repeats, 1), noise)
    slopes = torch.autograd.grad(-loss.sum() / 2, [abc, theta])
    return torch.cat([slopes[0], slopes[1][:, None]], 1)


def exact() -> Tensor:
    """The gradient of the mean ELBO over the rows, from its closed form."""
    _, emission, posterior = world()
    a, b, c = posterior.abc
    mean, var = a * X + b, (2 * c).exp()
    inside = (X - emission.theta * mean).square() + emission.theta.square() * var
    value = -0.5 * inside / S2 - 0.5 * (mean.square() + var) + c
    slopes = torch.autograd.grad(value.mean(), [posterior.abc, emission.theta])
    return torch.cat([slopes[0], slopes[1][None]])


def z_scores(found: Tensor, truth: Tensor) -> Tensor:
    return ((found.mean(0) - truth) / (found.std(0) / math.sqrt(len(found)))).abs()


@pytest.mark.parametrize("word", ESTIMATORS)
def test_of_one_draw_every_mean_is_the_closed_form(word: str):
    assert float(z_scores(gradients(word, 1), exact()).max()) < Z


@pytest.mark.parametrize("word", ["dreg", "score"])
def test_of_many_draws_every_mean_is_that_of_the_estimates_own_derivative(word: str):
    found, plain = gradients(word, 8, seed=1), gradients("reparameterised", 8, seed=2)
    error = (found.var(0) / len(found) + plain.var(0) / len(plain)).sqrt()
    assert float(((found.mean(0) - plain.mean(0)) / error).abs().max()) < Z


def test_the_reparameterised_one_is_the_derivative():
    prior, emission, posterior = world()
    noise = torch.randn(5, 2, 1, dtype=F64, generator=torch.Generator().manual_seed(3))

    def value() -> float:
        return float(-ESTIMATORS["reparameterised"].loss(prior, emission, posterior, X, noise).sum())

    ESTIMATORS["reparameterised"].loss(prior, emission, posterior, X, noise).sum().neg().backward()
    assert posterior.abc.grad is not None
    for i in range(3):
        with torch.no_grad():
            posterior.abc[i] += 1e-5
            up = value()
            posterior.abc[i] -= 2e-5
            down = value()
            posterior.abc[i] += 1e-5
        assert abs((up - down) / 2e-5 - float(posterior.abc.grad[i])) < 1e-7


@pytest.mark.parametrize("word", ESTIMATORS)
def test_values_are_the_bound(word: str):
    prior, emission, posterior = world()
    k = 1 if word == "stl" else 6
    noise = torch.randn(k, 2, 1, dtype=F64, generator=torch.Generator().manual_seed(4))
    q = posterior(X)
    z = q.place(noise)
    log_w = prior(X[:, :0]).log_prob(z) + emission(z).log_prob(X) - q.log_prob(z)
    assert torch.allclose(ESTIMATORS[word].loss(prior, emission, posterior, X, noise), -log_mean_exp(log_w), atol=1e-12)


@pytest.mark.parametrize(("word", "k"), [("stl", 1), ("dreg", 1), ("dreg", 10)])
def test_at_the_posterior_the_path_has_no_noise(word: str, k: int):
    at_best = gradients(word, k, 200, best=True)
    assert float(at_best[:, :3].abs().max()) < 1e-12
    assert float(gradients("reparameterised", 1, 200, best=True)[:, :3].std(0).max()) > 0.01


def test_dreg_has_less_variance_and_its_signal_to_noise_does_not_fall():
    """At k = 4 and 64: the plain one's falls by about √16, dreg's rises by about as much (in a and b; that of c crosses 0)."""
    found = {(word, k): gradients(word, k, 20_000, seed=k) for word in ("reparameterised", "dreg") for k in (4, 64)}
    ratio = {key: (g.mean(0).abs() / g.std(0))[:2] for key, g in found.items()}
    for k in (4, 64):
        assert bool((found["dreg", k].var(0)[:3] < found["reparameterised", k].var(0)[:3]).all())
    rise = ratio["dreg", 64] / ratio["dreg", 4]
    fall = ratio["reparameterised", 64] / ratio["reparameterised", 4]
    assert float(rise.min()) > 2.0
    assert float(fall.max()) < 0.6


def test_the_gradient_of_the_model_is_the_same_for_all():
    noise = {w: gradients(w, 6, 500, seed=9)[:, 3] for w in ("reparameterised", "dreg", "score")}
    assert torch.allclose(noise["dreg"], noise["reparameterised"], atol=1e-12)
    assert torch.allclose(noise["score"], noise["reparameterised"], atol=1e-12)


def test_the_control_variate_takes_variance_away():
    with_it = gradients("score", 8, 20_000, seed=5)[:, :3].var(0)
    prior, emission, posterior = world()
    noise = torch.randn(8, 40_000, 1, dtype=F64, generator=torch.Generator().manual_seed(5))
    x = X.repeat(20_000, 1)
    q = posterior(x)
    z = q.place(noise).detach()
    log_w = (prior(x[:, :0]).log_prob(z) + emission(z).log_prob(x) - q.log_prob(z)).detach()
    q_slope = ((z - q.loc) / q.variance).detach()  # of log q in b
    plain = ((log_mean_exp(log_w) - log_w.softmax(0)) * q_slope[..., 0]).sum(0).view(-1, 2).mean(1)
    assert float(with_it[1]) < 0.2 * float(plain.var())


def test_an_advantage_does_not_look_at_its_own_draw():
    log_w = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(6))
    changed = log_w.clone()
    changed[2] += 3.0
    baseline = log_mean_exp(log_w) - advantages(log_w)[2]
    assert torch.allclose(baseline, log_mean_exp(changed) - advantages(changed)[2], atol=1e-12)


def test_an_advantage_is_the_estimate_less_that_with_the_geometric_mean_of_the_others():
    log_w = 30 * torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(7))
    for i in range(6):
        replaced = log_w.clone()
        replaced[i] = torch.cat([log_w[:i], log_w[i + 1 :]]).mean(0)
        wanted = log_mean_exp(log_w) - log_mean_exp(replaced)
        assert torch.allclose(advantages(log_w)[i], wanted, atol=1e-10)


def test_each_less_the_mean_of_the_others():
    values = torch.randn(4, 3, dtype=F64, generator=torch.Generator().manual_seed(8))
    for i in range(4):
        others = torch.cat([values[:i], values[i + 1 :]]).mean(0)
        assert torch.allclose(leave_one_out(values)[i], values[i] - others, atol=1e-12)


def test_stl_of_many_draws_is_refused():
    with pytest.raises(InputError, match="estimator=stl is biased for more than one draw, got 3; take dreg"):
        gradients("stl", 3, 2)
