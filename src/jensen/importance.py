"""Importance sampling: expectations under p from draws of q, and how far they can be trusted.

    E_p f = E_q[w f],   w = p/q,   for q > 0 wherever p f ≠ 0

(note 2, which leaves the condition out). Weights come as log w, shape `(draws, B)`: one column an example. Two estimates of
E_p f from n draws:

    normalised         (1/n) Σ w_i f_i                       unbiased; p must be normalised
    self-normalised    Σ w_i f_i / Σ w_i                     p up to a constant; bias of order 1/n; error by the delta method

and of the constant itself, p(x) = E_q[p(x, z)/q(z | x)], the mean weight. The mean weight is unbiased for p(x); its logarithm is
*not* for log p(x): by Jensen's inequality E log (1/n) Σ w_i ≤ log p(x) (Burda et al. 2016, theorem 1). So a `LogEvidence` is
unbiased in exp, and in mean a lower bound.

No standard error sees what was never drawn: the delta method's error of log p(x) is √((n/ESS - 1)/(n - 1)), at most 1 nat, however
far the estimate is off. Where every weight is 0 nothing was seen of p at all: the unbiased estimates of E_p f and p(x) are 0, that
of log p(x) -∞, the self-normalised one is 0/0 and NaN, and no error is known, NaN; such an example has ESS 0, and the others are
as they are without it. The diagnostics are the effective sample size, ESS = (Σ w)²/Σ w² (Kong 1992), and the shape k̂ of the
weights' tail: reliable while k̂ < min(1 - 1/log₁₀ n, 0.7) (Vehtari et al. 2024, section 3.2.4).
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jensen.distributions.conditional import Conditional, require_unbiased
from jensen.distributions.tail import pareto_k
from jensen.errors import InputError

ENOUGH_FOR_ANY_SHAPE = 0.7


@dataclass(frozen=True)
class Diagnostics:
    """What weights say about themselves, one number an example.

    Attributes:
        draws: n.
        ess: effective sample size, between 1 and n; 0 where every weight is 0.
        pareto_k: k̂ of the weights' tail, or None ("not available") below 100 draws.
    """

    draws: int
    ess: Float64[Tensor, " B"]
    pareto_k: Float64[Tensor, " B"] | None

    @property
    def reliable(self) -> Tensor | None:
        """Whether k̂ < min(1 - 1/log₁₀ n, 0.7), `(B,)`; None where k̂ is not available."""
        if self.pareto_k is None:
            return None
        return (self.pareto_k < min(1 - 1 / math.log10(self.draws), ENOUGH_FOR_ANY_SHAPE)) & (self.ess > 0)


@dataclass(frozen=True)
class Expectation:
    """E_p f of B examples.

    Attributes:
        value: `(B,)`; where every weight is 0 NaN if self-normalised (0/0), else 0.
        stderr: `(B,)`, meaningful where `diagnostics.reliable`; NaN where every weight is 0.
        kind: "unbiased" (normalised) or "biased of order 1/n" (self-normalised).
        diagnostics: of the weights.
    """

    value: Float64[Tensor, " B"]
    stderr: Float64[Tensor, " B"]
    kind: Literal["unbiased", "biased of order 1/n"]
    diagnostics: Diagnostics


@dataclass(frozen=True)
class LogEvidence:
    """log (1/n) Σ w of B examples, an estimate of log p(x) in nats.

    Attributes:
        value: `(B,)`; -inf where every weight is 0.
        stderr: `(B,)`, by the delta method: at most 1 nat, and so no warning of a collapse. NaN where value is -inf.
        diagnostics: of the weights, which are the warning.
        kind: "unbiased in exp", so that it may stand inside a further log-mean-exp.
        in_mean: "lower bound": E value ≤ log p(x).
    """

    value: Float64[Tensor, " B"]
    stderr: Float64[Tensor, " B"]
    diagnostics: Diagnostics
    kind: ClassVar[Literal["unbiased in exp"]] = "unbiased in exp"
    in_mean: ClassVar[Literal["lower bound"]] = "lower bound"


def log_mean_exp(log_w: Float[Tensor, "draws *B"]) -> Float64[Tensor, "*B"]:
    """log (1/n) Σ exp(log_w) over the first dimension, float64.

    Example:
        >>> log_mean_exp(torch.tensor([-1000.0, -1000.0]))
        tensor(-1000., dtype=torch.float64)
    """
    return log_w.to(torch.float64).logsumexp(0) - math.log(len(log_w))


def effective_sample_size(log_w: Float[Tensor, "draws *B"]) -> Float64[Tensor, "*B"]:
    """(Σ w)² / Σ w²: n for equal weights, 1 if one has them all, 0 if all are 0."""
    log_w = log_w.to(torch.float64)
    ess = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
    return torch.where(torch.isneginf(log_w).all(0), 0.0, ess)


def diagnostics(log_w: Float[Tensor, "draws B"]) -> Diagnostics:
    """ESS and k̂ of each column of log-weights.

    Raises:
        InputError: if a weight is infinite or NaN.
    """
    wrong = int((torch.isnan(log_w) | torch.isposinf(log_w)).sum())
    if wrong:
        raise InputError(
            f"log-weights must be numbers below +inf, and {wrong} of {log_w.numel()} are not; a proposal has q > 0 at its own draws"
        )
    if len(log_w) < 2:
        raise InputError(f"an error bar needs at least 2 draws, not {len(log_w)}; draw more")
    return Diagnostics(len(log_w), effective_sample_size(log_w), pareto_k(log_w))


def expectation(
    f: Float[Tensor, "draws B"], log_w: Float[Tensor, "draws B"], *, self_normalised: bool = True
) -> Expectation:
    """E_p f from values f(z_i) at draws z_i ~ q and log-weights log p(z_i) - log q(z_i).

    Args:
        f: values, finite wherever the weight is above 0.
        log_w: log-weights; p up to a constant if self-normalised. Where p f ≠ 0, q must not be 0: no draw can tell.
        self_normalised: whether to divide by the sum of the weights rather than by n.

    Returns:
        The estimate with its standard error: sd(w f)/√n, or √Σ w̃²(f - value)², w̃ = w/Σ w (Owen 2013, eq. 9.9).

    Example:
        >>> z = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]   # q uniform, p normal up to a constant
        >>> round(float(expectation(z.square(), -0.5 * z.square()).value), 6)
        1.0
    """
    told = diagnostics(log_w)
    f, log_w = f.to(torch.float64), log_w.to(torch.float64)
    f = torch.where(torch.isneginf(log_w), 0.0, f)
    if self_normalised:
        share = log_w.softmax(0)
        value = (share * f).sum(0)
        error = (share.square() * (f - value).square()).sum(0).sqrt()
        return Expectation(value, error, "biased of order 1/n", told)
    terms = log_w.exp() * f
    error = torch.where(told.ess > 0, terms.std(0) / math.sqrt(told.draws), math.nan)
    return Expectation(terms.mean(0), error, "unbiased", told)


def log_evidence(log_w: Float[Tensor, "draws B"]) -> LogEvidence:
    """log p(x) from log-weights log p(x, z_i) - log q(z_i | x), z_i ~ q.

    The standard error is sd(w)/(√n mean w), which is √((n/ESS - 1)/(n - 1)).

    Example:
        >>> found = log_evidence(torch.zeros(200, 1))
        >>> abs(float(found.value)) < 1e-12, float(found.stderr) < 1e-6
        (True, True)
    """
    told = diagnostics(log_w)
    square = (told.draws / told.ess - 1).clamp(min=0) / (told.draws - 1)
    return LogEvidence(log_mean_exp(log_w), torch.where(told.ess > 0, square.sqrt(), math.nan), told)


def prior_evidence(prior: Conditional, emission: Conditional, x: Float[Tensor, "B *event"], draws: int) -> LogEvidence:
    """log (1/n) Σ p(x | z_i), z_i ~ p(z): importance sampling with the prior for proposal (note 4).

    It is right for every n in exp and in mean, and useless as soon as the posterior is much narrower than the prior: the draws needed grow
    like exp KL(p(z | x) ‖ p(z)) (Chatterjee and Diaconis 2018, theorem 1.1), exponentially in the dimension. The diagnostics show
    it; the standard error does not.

    Args:
        prior: p(z).
        emission: p(x | z).
        x: data in the model's units.
        draws: how many z an example, drawn by torch's generator, independent between examples.

    Raises:
        InputError: a part whose log-density is a bound.
    """
    require_unbiased(prior, emission)
    empty = x.new_zeros(len(x), 0)

    def one() -> Tensor:
        value = emission(prior(empty).sample()).log_prob(x)
        assert isinstance(value, Tensor)
        return value

    return log_evidence(torch.stack([one() for _ in range(draws)]))
