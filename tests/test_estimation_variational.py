"""Variational inference where the evidence and the posterior are known: log p(x) = ELBO + KL, and verdicts that are true.

Statistical bounds are 4.5 standard errors (failure rate 7e-6 each) at the seeds that stand here.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

import jensen
from jensen.errors import FitError, InputError
from jensen.estimation.variational import (
    FAMILIES,
    Family,
    Flow,
    FullRank,
    LowRank,
    MeanField,
    Mixture,
    NormalMixture,
    Variational,
    fit_variational,
)
from jensen.noise import Noise

F64 = torch.float64
LogJoint = Callable[[Tensor], Tensor]
each_family = pytest.mark.parametrize("word", FAMILIES)


def normal(
    mean: list[float], covariance: list[list[float]], log_evidence: float = 0.0
) -> tuple[LogJoint, MultivariateNormal]:
    """p(x) times a normal posterior."""
    law = MultivariateNormal(torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64), validate_args=False)
    return lambda z: law.log_prob(z) + log_evidence, law


CORRELATED = normal([3.0, -1.0], [[4.0, 1.2], [1.2, 0.5]], log_evidence=-7.0)


def regression() -> tuple[LogJoint, float, MultivariateNormal]:
    """y = X b + ε, b ~ N(0, 4 I), ε ~ N(0, 0.25): joint, log p(y), posterior; the columns of X are nearly one."""
    draw = np.random.default_rng(0)
    first = draw.normal(size=12)
    x = torch.from_numpy(np.stack([np.ones(12), first, first + 0.3 * draw.normal(size=12)], 1))
    y = x @ torch.tensor([1.0, -2.0, 0.5], dtype=F64) + torch.from_numpy(0.5 * draw.normal(size=12))
    marginal = MultivariateNormal(torch.zeros(12, dtype=F64), 4 * x @ x.T + 0.25 * torch.eye(12))
    precision = x.T @ x / 0.25 + torch.eye(3) / 4
    posterior = MultivariateNormal(torch.linalg.solve(precision, x.T @ y / 0.25), precision_matrix=precision)

    def log_joint(b: Tensor) -> Tensor:
        prior = -0.5 * b.square().sum(1) / 4 - 1.5 * math.log(2 * math.pi * 4)
        return prior - 0.5 * (y - b @ x.T).square().sum(1) / 0.25 - 6 * math.log(2 * math.pi * 0.25)

    return log_joint, float(marginal.log_prob(y)), posterior


def beta_binomial(k: int = 3, n: int = 10, a: float = 0.7, b: float = 0.7) -> LogJoint:
    """k of n, probability Beta(a, b), in z = logit of the probability: log p(x, z) with the log-determinant θ (1 - θ)."""
    constant = math.log(math.comb(n, k)) - (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))
    up, down = torch.nn.functional.logsigmoid, lambda z: torch.nn.functional.logsigmoid(-z)
    return lambda z: (k + a) * up(z[:, 0]) + (n - k + b) * down(z[:, 0]) + constant


def banana(z: Tensor) -> Tensor:
    """N(z_1; 0, 1) N(z_2; z_1², 0.3²): log evidence 0."""
    bent = (z[:, 1] - z[:, 0].square()) / 0.3
    return -0.5 * (z[:, 0].square() + bent.square()) - math.log(2 * math.pi * 0.3)


def two_modes(z: Tensor) -> Tensor:
    """On the line: log of 2 (0.3 N(-3, 0.5²) + 0.7 N(2, 1))."""
    left = stats_log_normal(z[:, 0], -3.0, 0.5) + math.log(0.3)
    return torch.logaddexp(left, stats_log_normal(z[:, 0], 2.0, 1.0) + math.log(0.7)) + math.log(2)


def stats_log_normal(z: Tensor, mean: float, sd: float) -> Tensor:
    return -0.5 * ((z - mean) / sd).square() - math.log(sd) - 0.5 * math.log(2 * math.pi)


@cache
def full_rank_regression() -> Variational:
    return fit_variational(regression()[0], "full-rank", dims=3, draws=8, fresh_draws=2000)


@cache
def mean_field_correlated() -> Variational:
    return fit_variational(CORRELATED[0], "mean-field", dims=2, draws=32)


def test_full_rank_finds_a_correlated_posterior_exactly():
    """Bayesian linear regression: every draw's weight is log p(y), and the moments are the posterior's to 1e-5."""
    _, truth, posterior = regression()
    found = full_rank_regression()
    torch.testing.assert_close(found.q.mean[0], posterior.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.q.covariance_matrix[0], posterior.covariance_matrix, rtol=0, atol=1e-5)
    assert float((found.log_weights - truth).abs().max()) < 1e-3
    assert found.elbo == pytest.approx(truth, abs=1e-6)
    assert found.log_evidence == pytest.approx(truth, abs=1e-6)
    wide = found.wide_evidence
    assert abs(float(wide.value) - truth) < 4.5 * float(wide.stderr)
    assert found.converged
    assert found.reliable
    assert not found.misses
    assert "is the posterior to within 0.01 nats" in found.verdict
    assert found.ess == pytest.approx(found.draws, rel=1e-6)


def test_low_rank_holds_what_its_rank_can():
    """diag + a rank-one covariance in four dimensions, far from where it begins and of unequal units."""
    direction, size = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=F64), torch.tensor([0.5, 0.1, 2.0, 1.0], dtype=F64)
    covariance = (size.square().diag() + direction[:, None] * direction).tolist()
    log_joint, law = normal([4.0, 0.0, -5.0, 1.0], covariance, 2.0)
    found = fit_variational(log_joint, LowRank(4, rank=1), draws=8, fresh_draws=1000)
    assert found.elbo == pytest.approx(2.0, abs=1e-3)
    torch.testing.assert_close(found.q.variance[0], law.variance, rtol=1e-2, atol=0)


def test_units_do_not_matter():
    """A mean of 500 and a deviation of 50, from N(0, 1): the steps grow with q."""
    log_joint, _ = normal([500.0], [[2500.0]])
    found = fit_variational(log_joint, "full-rank", dims=1, draws=2, steps=600, fresh_draws=100)
    assert float(found.q.mean) == pytest.approx(500, abs=0.1)
    assert float(found.q.variance) == pytest.approx(2500, rel=1e-2)


def test_mean_field_has_the_known_closed_form():
    """Of a normal with precision Λ: the right means, variances 1/Λ_ii, and a divergence ½ (Σ log Λ_ii - log det Λ)."""
    precision = CORRELATED[1].precision_matrix
    found = mean_field_correlated()
    torch.testing.assert_close(found.q.mean[0], CORRELATED[1].mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.q.variance[0], 1 / precision.diagonal(), rtol=0.03, atol=0)
    gap = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert abs(found.elbo - (-7.0 - gap)) < 4.5 * found.elbo_stderr + 1e-3


def test_evidence_is_bound_plus_divergence():
    """log p(x) = ELBO + KL(q ‖ p(z | x)), the divergence of two normals in closed form."""
    found = mean_field_correlated()
    q = MultivariateNormal(found.q.mean[0], found.q.variance[0].diag())
    divergence = float(kl_divergence(q, CORRELATED[1]))
    assert divergence > 0.3
    assert abs(found.elbo + divergence - (-7.0)) < 4.5 * found.elbo_stderr


def test_a_tail_that_mean_field_misses_is_flagged():
    """Correlation 0.99: q's variances are 2 % of the posterior's, and the verdict says so."""
    log_joint, _ = normal([0.0, 0.0], [[1.0, 0.99], [0.99, 1.0]])
    found = fit_variational(log_joint, "mean-field", dims=2, draws=16, fresh_draws=2000, tolerance=1e-2)
    assert found.pareto_k > 0.7
    assert not found.reliable
    assert "try low-rank, full-rank, mixture or flow" in found.verdict
    assert "k̂ = " in found.verdict
    assert found.verdict in str(found)


def test_beta_binomial_by_quadrature():
    """The evidence in closed form (scipy), the divergence by quadrature over z."""
    log_joint, truth = beta_binomial(), float(stats.betabinom(10, 0.7, 0.7).logpmf(3))
    found = fit_variational(log_joint, "mean-field", dims=1, draws=32)

    def integrand(z: float) -> float:
        at = torch.tensor([[z]], dtype=F64)
        log_q = float(found.q.log_prob(at))
        return math.exp(log_q) * (log_q - float(log_joint(at)) + truth)

    divergence = integrate.quad(integrand, -12, 10, limit=200)[0]
    assert divergence > 1e-4
    assert abs(found.elbo + divergence - truth) < 4.5 * found.elbo_stderr
    assert abs(found.log_evidence - truth) < 4.5 * found.log_evidence_stderr
    assert abs(found.divergence - divergence) < 4.5 * found.divergence_stderr


def test_a_mixture_finds_both_modes():
    """Its ELBO beats one normal's, and its evidence is that of quadrature, log 2."""
    single = fit_variational(two_modes, "full-rank", dims=1, draws=8, steps=300, fresh_draws=2000)
    found = fit_variational(two_modes, Mixture(1, components=3), draws=12, scale=2.0, fresh_draws=4000)
    z = torch.linspace(-15, 15, 6001, dtype=F64)[:, None]
    area = float(two_modes(z).exp().sum()) * 0.005
    assert area == pytest.approx(2.0, rel=1e-9)
    assert found.elbo > single.elbo + 0.2
    assert abs(found.log_evidence - math.log(area)) < 4.5 * found.log_evidence_stderr + 1e-4
    share = float((found.sample(4000, seed=1)[:, 0] < -1).double().mean())
    assert abs(share - 0.3) < 4.5 * math.sqrt(0.21 / 4000) + 0.01
    assert "is the posterior" in found.verdict


def by_hand(log_weights: Tensor, wide: Tensor | None = None) -> Variational:
    """What a fit with these weights would say."""
    return Variational(
        full_rank_regression().q, "mean-field", log_weights, log_weights if wide is None else wide, [], True
    )


def test_error_bars_are_the_spread_over_repeats():
    """log w ~ N(-σ²/2, σ²), σ = 0.4: evidence 1, ELBO -σ²/2. 400 repeats of 500 draws: a standard deviation is known to 3.5 %."""
    repeats = 0.4 * torch.randn(400, 500, generator=torch.Generator().manual_seed(0), dtype=F64) - 0.08
    found = [by_hand(row) for row in repeats]
    for value, error, truth in (
        ("elbo", "elbo_stderr", -0.08),
        ("log_evidence", "log_evidence_stderr", 0.0),
        ("divergence", "divergence_stderr", 0.08),
    ):
        values = torch.tensor([getattr(one, value) for one in found])
        claimed = torch.tensor([getattr(one, error) for one in found]).square().mean().sqrt()
        assert float(values.std() / claimed) == pytest.approx(1, abs=0.15)
        assert float(values.mean()) == pytest.approx(truth, abs=5 * float(claimed) / 20 + 1e-3)


def test_wider_draws_that_find_more_are_told():
    """Light tails everywhere; the wider draws' evidence is larger by 0.2 nats, or the same."""
    even = 0.05 * torch.randn(2000, generator=torch.Generator().manual_seed(0), dtype=F64)
    more, same = by_hand(even, even.repeat(2) + 0.2), by_hand(even, even.repeat(2))
    assert more.misses
    assert "misses a part of the posterior" in more.verdict
    assert "find log p(x) ≈ 0.201 ± 0.0008 nats" in more.verdict or "≈ 0.20" in more.verdict
    assert not same.misses
    assert "is the posterior" in same.verdict
    wider = by_hand(10 * even)
    assert "near enough to weight its draws" in wider.verdict


def test_a_flow_bends_where_a_normal_cannot():
    """A banana, whose log evidence is 0: no normal is above -0.75. The flow is stopped early, and says so."""
    plain = fit_variational(banana, "full-rank", dims=2, draws=8, steps=300, fresh_draws=2000)
    flow = fit_variational(banana, Flow(2, width=16), draws=32, steps=200, fresh_draws=2000)
    assert plain.elbo < -0.7
    assert plain.elbo + 0.15 < flow.elbo < 0
    assert not flow.converged
    assert "has not converged" in flow.verdict
    assert "stopped after 200 steps" in str(flow)
    assert not plain.reliable or plain.misses


def test_a_flow_begins_at_the_best_normal():
    found = fit_variational(CORRELATED[0], Flow(2, layers=1, width=4), draws=8, steps=80, fresh_draws=200)
    assert found.stages[0].elbo > -7.5


def test_wider_draws_see_an_arm_that_q_does_not():
    """0.95 N(0, 1) + 0.05 N(6, 1): a normal at 0 loses log 1/0.95 nats, and its own weights are the same everywhere it goes."""

    def log_joint(z: Tensor) -> Tensor:
        main = stats_log_normal(z[:, 0], 0.0, 1.0) + math.log(0.95)
        return torch.logaddexp(main, stats_log_normal(z[:, 0], 6.0, 1.0) + math.log(0.05))

    found = fit_variational(log_joint, "mean-field", dims=1, draws=16, scale=0.5, steps=200, fresh_draws=4000)
    assert abs(float(found.q.mean)) < 0.3
    assert found.divergence < 0.02
    assert found.misses
    told = replace(found, converged=True).verdict
    assert "misses a part of the posterior" in told or "too narrow" in told
    assert not full_rank_regression().misses


@each_family
def test_the_gradient_is_that_of_the_elbo(word: str):
    """At a member that is not the best, against the score-function estimate, which uses no path: within 4.5 of both standard
    errors in each of at most 14 numbers. Flows leave nothing out and are held against central differences under the same noise.
    """
    family, log_joint = made(word), CORRELATED[0]
    noise, params = Noise(0, "gradient"), [p for p in family.parameters() if p.numel() <= 16]
    if word == "flow":
        compare_with_differences(family, log_joint, noise)
        return
    slopes = []
    for number in range(30):
        family.zero_grad()
        family.values(log_joint, noise.at(number), 16).mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in params]))
    found = torch.stack(slopes)
    truth, spread = gradient_by_reweighting(family, params, log_joint)
    error = (found.var(0) / 30 + spread.square()).sqrt()
    assert bool(((found.mean(0) - truth).abs() <= 4.5 * error + 1e-9).all())
    assert float(truth.abs().max()) > 6 * float(error.max())


def compare_with_differences(family: Family, log_joint: LogJoint, noise: Noise) -> None:
    family.values(log_joint, noise, 8).mean().backward()
    for parameter in family.parameters():
        at = (0,) * parameter.ndim
        ends = []
        for step in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                parameter[at] += step
                ends.append(float(family.values(log_joint, noise, 8).mean()))
        assert float(parameter.grad[at]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-6)


@each_family
def test_values_are_weights_of_draws(word: str):
    """Their mean is the ELBO: that of 20,000 independent draws of q, within 4.5 standard errors."""
    family, log_joint = made(word), CORRELATED[0]
    with torch.no_grad():
        q = family()
        z, log_q = q.place_with_log_prob(Noise(1, "draws").normal(range(20_000), (q.noise_dims,)).double()[:, None])
        plain, own = log_joint(z[:, 0]) - log_q[:, 0], family.values(log_joint, Noise(0, "own"), 20_000)
    each = own.view(2, -1).mean(0)  # draws come in pairs
    error = math.hypot(float(plain.std()) / 20_000**0.5, float(each.std()) / len(each) ** 0.5)
    assert abs(float(plain.mean() - own.mean())) < 4.5 * error


def gradient_by_reweighting(family: Family, params: list[Tensor], log_joint: LogJoint) -> tuple[Tensor, Tensor]:
    """The score-function gradient E_q[(log p - log q - b) ∇ log q], which uses no path: mean and standard error over 20 batches."""
    q, slopes = family(), []
    for number in range(20):
        with torch.no_grad():
            noise = Noise(1, "score", number).normal(range(800), (q.noise_dims,)).double()
            z = q.place(noise[:, None])
            ratio = log_joint(z[:, 0]) - q.log_prob(z)[:, 0]
        family.zero_grad()
        ((ratio - ratio.mean()) * family().log_prob(z)[:, 0]).mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in params]) * 800 / 799)
    found = torch.stack(slopes)
    return found.mean(0), found.std(0) / 20**0.5


def made(word: str) -> Family:
    """A member whose every parameter has been moved."""
    family = (
        Flow(2, layers=1, width=4) if word == "flow" else LowRank(2, 1) if word == "low-rank" else FAMILIES[word](2)
    )
    family = Mixture(2, components=3) if word == "mixture" else family
    family.place(torch.tensor([2.0, -1.0], dtype=F64), 0.7, Noise(0, "place"))
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw, dtype=F64)
    return family


@each_family
def test_coordinates_change_and_q_does_not(word: str):
    family = made(word)
    z = torch.randn(20, 1, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    with torch.no_grad():
        before, wide = family().log_prob(z), family.wide(2.0).log_prob(z)
        family.recentre()
        torch.testing.assert_close(family().log_prob(z), before, rtol=0, atol=1e-9)
        torch.testing.assert_close(family.wide(2.0).log_prob(z), wide, rtol=0, atol=1e-9)
        family.recentre()
        torch.testing.assert_close(family().log_prob(z), before, rtol=0, atol=1e-9)


@each_family
def test_the_wider_q_is_the_map_of_wider_noise(word: str):
    family = made(word)
    with torch.no_grad():
        q, wide = family(), family.wide(2.0)
        noise = torch.randn(50, 1, q.noise_dims, generator=torch.Generator().manual_seed(1), dtype=F64)
        scaled = 2 * noise
        if word == "mixture":
            scaled[..., -1] = noise[..., -1]  # which only picks the component
        torch.testing.assert_close(wide.place(noise), q.place(scaled), rtol=0, atol=1e-12)


def test_a_mixtures_density_is_torchs_and_its_draws_have_its_law():
    """20,000 draws, seed 0: the distribution function along each axis makes them uniform, Kolmogorov's p above 1e-4."""
    with torch.no_grad():
        q = made("mixture")()
    assert isinstance(q, NormalMixture)
    weights, loc, sd = q.log_weights.exp(), q.parts.loc, q.parts.scale
    parts = torch.distributions.Independent(torch.distributions.Normal(loc, sd), 1)
    theirs = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(weights), parts)
    z = q.place(Noise(0, "law").normal(range(20_000), (3,)).double()[:, None])[:, 0]
    torch.testing.assert_close(q.log_prob(z[:, None])[:, 0], theirs.log_prob(z), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.mean[0], theirs.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(q.variance[0], theirs.variance, rtol=0, atol=1e-12)
    for axis in range(2):
        u = (torch.special.ndtr((z[:, axis, None] - loc[:, axis]) / sd[:, axis]) * weights).sum(1)
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


def test_a_seed_names_everything():
    quick = {"dims": 2, "draws": 8, "steps": 30, "fresh_draws": 200}
    one, again, other = (fit_variational(CORRELATED[0], "low-rank", seed=s, **quick) for s in (3, 3, 4))
    assert torch.equal(one.log_weights, again.log_weights)
    assert torch.equal(one.sample(5, seed=1), again.sample(5, seed=1))
    assert not torch.equal(one.log_weights, other.log_weights)
    assert torch.equal(one.sample(5, seed=1)[2:], one.sample(3, seed=1, start=2))
    chunked = fit_variational(CORRELATED[0], "low-rank", seed=3, at_once=7, **quick)
    torch.testing.assert_close(one.log_weights, chunked.log_weights, rtol=0, atol=1e-10)
    state = torch.get_rng_state()
    fit_variational(CORRELATED[0], Flow(2, width=4), draws=8, steps=3, fresh_draws=100)
    assert torch.equal(state, torch.get_rng_state())


def test_a_start_is_where_it_begins():
    log_joint, _ = normal([1e4, -1e4], [[1.0, 0.0], [0.0, 1.0]])
    found = fit_variational(
        log_joint, "mean-field", start=torch.tensor([1e4, -1e4]), draws=8, steps=100, fresh_draws=100
    )
    assert float((found.q.mean[0] - torch.tensor([1e4, -1e4])).abs().max()) < 1


BAD: dict[str, tuple[LogJoint, str]] = {
    "a sum over draws": (
        lambda z: -z.square().sum(),
        r"must return shape \(64,\) for z of shape \(64, 2\), .* got \(\)",
    ),
    "one number a dimension": (lambda z: -z.square(), r"got \(64, 2\); sum over the last dimension"),
    "nan": (lambda z: z[:, 0].log(), "a finite value wherever q may go, which is all of R.2, got nan at z = "),
    "-inf": (lambda z: torch.where(z[:, 0] > 0, -z.sum(1), -math.inf), "got -inf at z = .* write z without bounds"),
    "cut from the graph": (
        lambda z: -z.detach().square().sum(1),
        "has no gradient in z; compute it by torch operations",
    ),
    "constant": (lambda z: torch.zeros(len(z), requires_grad=True) * 1, "does not depend on z"),
    "numpy": (lambda z: -z.detach().numpy().sum(1), "must return a tensor .*, got ndarray"),
    "integers": (lambda z: z[:, 0].long(), "floating point numbers, got torch.int64"),
    "infinite slope": (lambda z: -(z[:, 0] * 0).sqrt() - z.square().sum(1), "a finite gradient"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_log_joint_that_cannot_be_climbed_is_refused(what: str):
    log_joint, message = BAD[what]
    with pytest.raises(InputError, match=message):
        fit_variational(log_joint, dims=2)


def test_settings_that_cannot_be_are_refused():
    fine = CORRELATED[0]
    cases: list[tuple[dict[str, object], str]] = [
        ({"family": "ful-rank", "dims": 2}, "unknown family 'ful-rank'; did you mean 'full-rank'"),
        ({}, "number of dimensions of z must be given"),
        ({"dims": 0}, "dims must be at least 1, got 0"),
        ({"family": MeanField(2), "dims": 3}, "the family's own 2, got 3"),
        (
            {"dims": 2, "start": torch.zeros(3)},
            r"start must be 2 finite numbers, of shape \(2,\), got \[0.0, 0.0, 0.0\]",
        ),
        ({"dims": 2, "start": torch.tensor([0.0, math.nan])}, "finite numbers"),
        ({"dims": 2.5}, "dims must be a whole number, got 2.5"),
        ({"dims": 2, "scale": 0.0}, "scale must be positive and finite, got 0.0"),
        ({"dims": 2, "draws": 1}, "draws must be at least 2, got 1"),
        ({"dims": 2, "steps": 0}, "steps must be at least 1, got 0"),
        ({"dims": 2, "tolerance": -1.0}, "tolerance must be at least 0 and finite, got -1.0"),
        ({"dims": 2, "fresh_draws": 99}, "fresh_draws must be at least 100, got 99"),
        ({"dims": 2, "at_once": 0}, "at_once must be at least 1, got 0"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            fit_variational(fine, **options)
    for make, message in (
        (lambda: LowRank(3, 4), "rank must be from 1 to the 3 dimensions of z, got 4"),
        (lambda: FullRank(3000), "at most 2000 dimensions, got 3000"),
        (lambda: Flow(300), "at most 256 dimensions, got 300"),
        (lambda: Flow(2, layers=0), "layers must be from 1 to 16 .* got 0"),
        (lambda: Mixture(2, 0), "components must be from 1 to 1000, got 0"),
        (lambda: Mixture(2, 2, 0.0), "spread must be positive and finite, got 0.0"),
        (lambda: full_rank_regression().sample(0), "at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            make()


def test_a_log_joint_that_breaks_on_the_way_is_told():
    """Finite where q begins, and NaN beyond 30: the top lies there."""

    def log_joint(z: Tensor) -> Tensor:
        return torch.where(z[:, 0] > 30, math.nan, z[:, 0])

    with pytest.raises(FitError, match="not been finite for 20 steps, since step"):
        fit_variational(log_joint, dims=1, draws=8)


def test_it_is_a_public_name():
    assert jensen.fit_variational is fit_variational
