"""Importance sampling: estimates against closed forms, error bars against repeats, and where they can not be trusted."""

import math

import pytest
import torch
from analytic import LinearGaussian, PPCAEmission, PPCAPosterior, PPCAPrior, hermite_nodes, ppca
from torch.distributions import Normal

from jensen.distributions.tail import pareto_k, shape_of
from jensen.errors import InputError
from jensen.importance import (
    diagnostics,
    effective_sample_size,
    expectation,
    log_evidence,
    log_mean_exp,
    prior_evidence,
)
from jensen.noise import Noise

F64 = torch.float64
P, Q = Normal(torch.tensor(0.5, dtype=F64), 1.0), Normal(torch.tensor(0.0, dtype=F64), 1.5)


def from_q(n: int, b: int, name: str = "q") -> torch.Tensor:
    return 1.5 * Noise(0, "importance", name).normal(range(b), (n,)).double().T


@pytest.mark.parametrize("self_normalised", [False, True])
def test_expectations_and_their_error_bars(self_normalised: bool):
    """E_p z² = 1.25 from 400 draws of q, 3000 times: mean within 4.5 errors (plus the 1/n bias), 95 % intervals cover 93–97 %
    (seed 0, failure rate 1e-5).
    """
    z = from_q(400, 3000)
    log_w = P.log_prob(z) - Q.log_prob(z) + (3.0 if self_normalised else 0.0)
    found = expectation(z.square(), log_w, self_normalised=self_normalised)
    assert found.value.shape == (3000,)
    spread = float(found.value.std()) / 3000**0.5
    assert abs(float(found.value.mean()) - 1.25) < 4.5 * spread + (2 / 400 if self_normalised else 0)
    covered = float(((found.value - 1.25).abs() < 1.96 * found.stderr).double().mean())
    assert 0.93 < covered < 0.97
    assert found.kind == ("biased of order 1/n" if self_normalised else "unbiased")
    assert bool(found.diagnostics.reliable.all())


def test_zeros_of_p_count_for_nothing_and_zeros_of_q_can_not_be_seen():
    """Note 2's slip: q must reach wherever p f ≠ 0. Draws of a q on (0, ∞) give E_p[f; z > 0], with small error bars and a fine ESS."""
    z = from_q(4000, 1, "half").abs()
    log_q = Q.log_prob(z) + math.log(2)
    half = expectation(torch.ones_like(z), P.log_prob(z) - log_q, self_normalised=False)
    assert float(half.value) == pytest.approx(float(1 - P.cdf(torch.tensor(0.0))), abs=4.5 * float(half.stderr))
    assert float(half.value) < 0.75  # not 1
    assert bool(half.diagnostics.reliable)  # and no diagnostic knows
    f = torch.where(z > 1, torch.inf, z)  # of no matter where the weight is 0
    found = expectation(f, torch.where(z > 1, -torch.inf, 0.0))
    assert bool(torch.isfinite(found.value))


def test_log_evidence_of_a_known_world():
    """At the exact posterior every weight is p(x); at another proposal exp is unbiased and log is low in mean (Jensen).

    10,000 repeats of 10 draws a row, seed 0: |z| < 4.5 for each of three rows, failure rate 2e-5.
    """
    world = ppca()
    x = world.sample(3, torch.Generator().manual_seed(0))
    prior, emission = PPCAPrior(world), PPCAEmission(world)

    def weights(scale: float, n: int) -> torch.Tensor:
        q = PPCAPosterior(world, 0.1, scale)(x) if scale != 1 else PPCAPosterior(world)(x)
        z = q.sample(torch.Size([n]))
        log_prior = Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_like = Normal(z @ world.loadings.T + world.mean, world.noise).log_prob(x).sum(-1)
        return log_prior + log_like - q.log_prob(z)

    torch.manual_seed(0)
    exact = log_evidence(weights(1.0, 200))
    truth = world.log_prob(x)
    torch.testing.assert_close(exact.value, truth, atol=1e-10, rtol=0)
    assert float(exact.stderr.max()) < 1e-6
    blocks = weights(2.0, 10 * 10_000).reshape(10_000, 10, 3).transpose(0, 1).reshape(10, -1)
    found = log_evidence(blocks)
    values = found.value.reshape(10_000, 3)
    ratio = (values - truth).exp()
    assert bool(((ratio.mean(0) - 1).abs() < 4.5 * ratio.std(0) / 10_000**0.5).all())
    gap = values.mean(0) - truth
    assert bool((gap < -3 * values.std(0) / 10_000**0.5).all())  # biased low, visibly
    half_variance = -0.5 * found.stderr.square().reshape(10_000, 3).mean(0)
    torch.testing.assert_close(gap, half_variance, rtol=0.35, atol=0)  # by half of the squared error, to first order
    assert found.kind == "unbiased in exp"
    assert found.in_mean == "lower bound"
    torch.manual_seed(0)
    one = prior_evidence(prior, emission, x, 1000)
    assert bool(((one.value - truth).abs() < 4.5 * one.stderr).all())


def test_sampling_the_prior_collapses_with_dimension():
    """z ~ N(0, I_d), x = z + 0.3 e at x_j = 1: log p(x) in closed form. From 300 draws of the prior the error grows with d to hundreds of
    nats, ESS falls to 1, and the standard error stays below 1 nat; k̂ says so.
    """
    errors, sizes, shapes = [], [], []
    torch.manual_seed(0)
    for d in (1, 8, 16, 64):
        world = LinearGaussian(torch.eye(d, dtype=F64), torch.zeros(d, dtype=F64), 0.3)
        x = torch.ones(4, d, dtype=F64)
        truth = Normal(0.0, math.sqrt(1.09)).log_prob(x).sum(1)
        found = prior_evidence(PPCAPrior(world), PPCAEmission(world), x, 300)
        errors.append(float((found.value - truth).abs().mean()))
        sizes.append(float(found.diagnostics.ess.mean()))
        shapes.append(float(found.diagnostics.pareto_k.mean()))
        assert float(found.stderr.max()) <= 1
    assert errors[0] < 0.15
    assert 10 < errors[2] < 100 < errors[-1]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 2
    assert not bool(found.diagnostics.reliable.any())
    assert shapes[0] < 0.5 < 1 < shapes[-1]


@pytest.mark.parametrize("k", [-0.5, 0.0, 0.3, 0.5, 0.7, 1.0, 2.0])
def test_pareto_k_of_exact_tails(k: float):
    """20 samples of 2,000 exact generalised Pareto draws: |mean k̂ - k| < 4.5 (1 + k)/√(2000·20), the asymptotic error (k > -½), and
    a bias of 1/n, is allowed; seed 0, failure rate 5e-5. The tail of 10,000 draws: within 0.15 in the mean.
    """
    u = Noise(0, "pareto").uniform(range(20), (10_000,)).T.clamp(min=1e-300)
    y = -u.log() if k == 0 else torch.expm1(-k * u.log()) / k
    fitted = shape_of(y[:2000].sort(0).values)
    assert abs(float(fitted.mean()) - k) < 4.5 * max(0.5, 1 + k) / math.sqrt(2000 * 20) + 2 / 2000
    tail = pareto_k(y.log())
    assert tail is not None
    assert abs(float(tail.mean()) - k) < 0.15
    torch.testing.assert_close(pareto_k(y.log() + 700), tail, rtol=1e-6, atol=1e-6)  # no units


def test_pareto_k_of_importance_weights():
    """Normal weights p/q with σ_q² = r σ_p² have tail shape 1 - r for r < 1: variance is finite iff r > ½ (ORACLES law 3)."""
    z = Noise(0, "weights").normal(range(20), (20_000,)).double().T
    for r in (0.3, 0.5, 2.0):
        x = z * math.sqrt(r)
        k = pareto_k(Normal(0.0, 1.0).log_prob(x) - Normal(0.0, math.sqrt(r)).log_prob(x))
        assert k is not None
        if r > 1:
            assert float(k.mean()) < 0
        else:
            assert float(k.mean()) == pytest.approx(1 - r, abs=0.25)  # logarithmic corrections vanish slowly


def test_few_or_degenerate_weights():
    assert pareto_k(torch.randn(99, 2)) is None
    assert pareto_k(torch.randn(100, 2)) is not None
    assert diagnostics(torch.zeros(50, 1)).reliable is None
    assert torch.isneginf(pareto_k(torch.zeros(100)))
    lone = torch.full((200,), -3000.0)
    lone[7] = 0
    assert torch.isposinf(pareto_k(lone))
    assert float(effective_sample_size(lone)) == pytest.approx(1)
    nothing = log_evidence(torch.full((200, 1), -torch.inf))
    assert torch.isneginf(nothing.value).all()
    assert torch.isnan(nothing.stderr).all()
    assert float(nothing.diagnostics.ess) == 0
    assert not bool(nothing.diagnostics.reliable)


def test_small_identities():
    log_w = Noise(0, "w").normal(range(3), (500,)).double().T
    w = log_w.exp()
    torch.testing.assert_close(log_mean_exp(log_w), w.mean(0).log())
    torch.testing.assert_close(effective_sample_size(log_w), w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(log_evidence(log_w).stderr, w.std(0) / w.mean(0) / 500**0.5)
    torch.testing.assert_close(log_evidence(log_w + 900).value, log_evidence(log_w).value + 900)


def test_rows_do_not_know_each_other():
    log_w = Noise(0, "w").normal(range(5), (300,)).double().T
    together, alone = log_evidence(log_w), log_evidence(log_w[:, 3:4])
    torch.testing.assert_close(together.value[3:4], alone.value, rtol=1e-14, atol=0)
    torch.testing.assert_close(together.diagnostics.pareto_k[3:4], alone.diagnostics.pareto_k, rtol=1e-12, atol=0)


def test_fishers_identity_on_a_mixture():
    """∇_θ log p(x) = E_{p(z|x)}[∇_θ log p(x, z)], z summed out; θ = logits, means and log-scales."""
    theta = [
        torch.tensor(v, dtype=F64, requires_grad=True) for v in ([0.3, -0.2, 0.5], [-1.0, 0.2, 1.7], [0.1, -0.5, 0.3])
    ]
    x = torch.tensor(0.4, dtype=F64)
    logits, means, scales = theta
    joint = logits.log_softmax(0) + Normal(means, scales.exp()).log_prob(x)
    left = torch.autograd.grad(joint.logsumexp(0), theta, retain_graph=True)
    posterior = joint.softmax(0).detach()
    right = torch.autograd.grad((posterior * joint).sum(), theta)
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_fishers_identity_on_a_linear_gaussian():
    """The same with z integrated: log p(x, z) is quadratic in z, so Gauss–Hermite under the posterior is exact. And with weights of draws of
    the prior, within 4.5 errors (self-normalised, 20,000 draws, seed 0, failure rate 4e-5 over six gradients).
    """
    world = ppca()
    x = world.sample(1, torch.Generator().manual_seed(1))
    W = world.loadings.clone().requires_grad_()
    covariance = W @ W.T + world.noise**2 * torch.eye(3, dtype=F64)
    left = torch.autograd.grad(torch.distributions.MultivariateNormal(world.mean, covariance).log_prob(x).sum(), W)[0]
    mean, spread = world.posterior(x)
    nodes, weights = hermite_nodes(2, 4)
    z = mean + nodes @ torch.linalg.cholesky(spread).reshape(2, 2).T
    residual = x - z @ world.loadings.T - world.mean
    gradient = residual[:, :, None] * z[:, None, :] / world.noise**2  # ∇_W log p(x | z)
    torch.testing.assert_close((weights[:, None, None] * gradient).sum(0), left, rtol=0, atol=1e-10)
    draws = Noise(0, "fisher").normal(range(2), (20_000,)).double().T
    residual = x - draws @ world.loadings.T - world.mean
    gradient = (residual[:, :, None] * draws[:, None, :] / world.noise**2).reshape(-1, 6)
    log_w = Normal(0.0, world.noise).log_prob(residual).sum(1)[:, None].expand(-1, 6)
    found = expectation(gradient, log_w)
    assert bool(((found.value - left.flatten()).abs() < 4.5 * found.stderr).all())


def test_weights_that_can_not_be_are_refused():
    with pytest.raises(InputError, match="1 of 200 are not; a proposal has q > 0"):
        log_evidence(torch.cat([torch.zeros(199, 1), torch.full((1, 1), torch.inf)]))
    with pytest.raises(InputError, match="at least 2 draws, not 1"):
        log_evidence(torch.zeros(1, 3))


@pytest.mark.parametrize("self_normalised", [False, True])
@pytest.mark.parametrize("n", [8, 200])
def test_an_example_whose_weights_are_all_zero_says_so_and_touches_no_other(self_normalised: bool, n: int):
    """0/0 is unknown, an unbiased 0 is 0, neither has an error bar; log p(x) is -∞. The other example is as it is alone."""
    z = from_q(n, 1)
    log_w = P.log_prob(z) - Q.log_prob(z)
    nothing = torch.full_like(log_w, -math.inf)
    alone = expectation(z, log_w, self_normalised=self_normalised)
    both = expectation(z.expand(-1, 2), torch.cat([log_w, nothing], 1), self_normalised=self_normalised)
    torch.testing.assert_close(both.value[:1], alone.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(both.stderr[:1], alone.stderr, rtol=1e-12, atol=0)
    assert math.isnan(both.value[1]) if self_normalised else both.value[1] == 0
    assert math.isnan(both.stderr[1])
    assert both.diagnostics.ess[1] == 0
    if n > 100:
        assert both.diagnostics.reliable is not None
        assert not both.diagnostics.reliable[1]
    evidence = log_evidence(torch.cat([log_w, nothing], 1))
    assert torch.isneginf(evidence.value[1])
    assert math.isnan(evidence.stderr[1])
    torch.testing.assert_close(evidence.value[:1], log_evidence(log_w).value, rtol=1e-12, atol=0)
