"""Laws on levels.

Bernoulli    two levels, from the log-odds of the upper one
Categories   softmax over k levels
Logistics    a mixture of discretised logistics (Salimans et al. 2017, "PixelCNN++")
Rounded      a normal rounded to the levels, its end bins open (Ho et al. 2020, equation 13)
Counts       a Poisson law of the level's number, given that it is below k
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from jensen.data.space import Levels
from jensen.distributions.discretised import DiscretisedNormal
from jensen.distributions.logistic import DiscretisedLogistic
from jensen.laws.law import Law, inside, picked, place
from jensen.laws.total import single, summed, summed_logs


class Bernoulli(Law):
    """P(upper level) = 1 / (1 + e^-l).

    Args:
        space: two levels.
    """

    outputs = 1

    def __init__(self, space: Levels) -> None:
        self.space = space

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """x l - log(1 + e^l) = -log(1 + e^-sl), x ∈ {0, 1}, s = 2x - 1."""
        sign = 2 * (x - self.space.first) / self.space.step - 1
        return logsigmoid(parameters.squeeze(-1) * sign.to(parameters))

    def sums(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Σ_d x l - log(1 + e^l). A term of log(1 + e^-|l|) below half an ulp of 1 counts as 0: log1p takes five times as long as log."""
        return self._sums(parameters.squeeze(-1), self._upper(x, parameters))

    def sums_and_slope(self, parameters: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """∂/∂l = x - 1 / (1 + e^-l)."""
        odds = single(parameters).squeeze(-1)
        upper = self._upper(x, odds)
        return self._sums(odds, upper), (upper - odds.sigmoid())[..., None].to(parameters)

    def _upper(self, x: Tensor, like: Tensor) -> Tensor:
        """1 at the upper level and 0 at the lower one."""
        return (x.to(like) - self.space.first) / self.space.step

    @staticmethod
    def _sums(odds: Tensor, upper: Tensor) -> Tensor:
        """In place where it can be: what is waited for is memory."""
        size = odds.abs()
        straight = ((upper - 0.5) * odds).sub_(size, alpha=0.5)  # x l - max(l, 0)
        return summed(straight) - summed_logs(size.neg_().exp_().add_(1))

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """The upper level where the first number is below its probability."""
        upper = u[:, 0].double() < parameters[:, 0].double().sigmoid()
        return self.space.first + self.space.step * upper.double()

    def mean(self, parameters: Tensor) -> Tensor:
        """Between the levels."""
        return self.space.first + self.space.step * parameters[..., 0].sigmoid()

    def start(self, counts: Tensor | None) -> Tensor | None:
        """The log-odds in the histogram."""
        return None if counts is None else (counts[..., 1:] / counts[..., :1]).log()


class Categories(Law):
    """softmax over the levels.

    Args:
        space: the levels.
    """

    def __init__(self, space: Levels) -> None:
        self.space, self.outputs = space, space.k

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log softmax at the level's number."""
        index = self.space.index(x.double()).expand(parameters.shape[:-1])[..., None]
        return parameters.gather(-1, index)[..., 0] - parameters.logsumexp(-1)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """The level at which the distribution function passes the first number."""
        return self.space.first + self.space.step * place(parameters, u[:, 0]).double()

    def mean(self, parameters: Tensor) -> Tensor:
        """Σ_k p_k v_k."""
        return (parameters.softmax(-1) * self.space.values().to(parameters)).sum(-1)

    def start(self, counts: Tensor | None) -> Tensor | None:
        """The log-histogram."""
        return None if counts is None else (counts / counts.sum(-1, keepdim=True)).log()


class Logistics(Law):
    """Σ_m w_m DiscretisedLogistic(loc_m, scale_m).

    Args:
        space: the levels.
        components: M.
    """

    def __init__(self, space: Levels, components: int) -> None:
        self.space, self.components, self.outputs = space, components, 3 * components
        # from a logistic that is e^-50 off its level to one that is as wide as all levels
        self.floor, self.width = math.log(space.step) - math.log(100), math.log(space.step * space.k)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log-sum-exp over components."""
        logits, loc, scale = self._read(parameters)
        return (logits.log_softmax(-1) + self._law(loc, scale).log_prob(x[..., None].to(loc))).logsumexp(-1)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """A component's level."""
        logits, loc, scale = self._read(parameters)
        loc, scale = picked(logits, u[:, 0], loc, scale)
        return self._law(loc.double(), scale.double()).icdf(u[:, 1].double())

    def mean(self, parameters: Tensor) -> Tensor:
        """Σ_m w_m loc_m, which the ends and the rounding move a little: a picture's value, not to be scored."""
        logits, loc, _ = self._read(parameters)
        inside = loc.clamp(self.space.first, self.space.first + self.space.step * (self.space.k - 1))
        return (logits.softmax(-1) * inside).sum(-1)

    def start(self, counts: Tensor | None) -> Tensor | None:
        """Components spread over the levels."""
        middles = (torch.arange(self.components) + 0.5) / self.components
        loc = self.space.first + self.space.step * (self.space.k * middles - 0.5)
        wide = torch.full((self.components,), -math.log(self.components))
        return torch.cat([torch.zeros(self.components), loc, wide])

    def _read(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, locations, scales."""
        logits, loc, log_scale = parameters.split(self.components, -1)
        return logits, loc, (self.width + log_scale).clamp(self.floor, self.width + 2).exp()

    def _law(self, loc: Tensor, scale: Tensor) -> DiscretisedLogistic:
        return DiscretisedLogistic(loc, scale, first=self.space.first, step=self.space.step, k=self.space.k)


class Rounded(Law):
    """A normal rounded to the nearest level.

    Args:
        space: the levels.
    """

    outputs = 2
    located = True

    def __init__(self, space: Levels) -> None:
        self.space = space
        self.unit = math.log(space.step * space.k / 4)
        self.floor = math.log(space.step / 100)

    def _normal(self, parameters: Tensor) -> DiscretisedNormal:
        loc, log_scale = parameters.unbind(-1)
        scale = (self.unit + log_scale).clamp(self.floor, self.unit + 3).exp()
        return DiscretisedNormal(loc, scale, first=self.space.first, step=self.space.step, k=self.space.k)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """log(Φ(high) - Φ(low)), float64."""
        return self._normal(parameters).log_prob(x)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """The level nearest to a quantile."""
        law = self._normal(parameters.double())
        return law.quantise(law.loc + law.scale * torch.special.ndtri(inside(u[:, 1])))

    def mean(self, parameters: Tensor) -> Tensor:
        """Of the normal, brought between the ends: a picture's value."""
        return parameters[..., 0].clamp(self.space.first, self.space.first + self.space.step * (self.space.k - 1))


class Counts(Law):
    """P(j) ∝ e^(j η) / j!, j = 0 … k - 1: a Poisson law of rate e^η, given that the count is below k.

    Args:
        space: the levels; the number of each is a count.
    """

    outputs = 1

    def __init__(self, space: Levels) -> None:
        self.space, self.all = space, Categories(space)

    def _logits(self, parameters: Tensor) -> Tensor:
        count = torch.arange(self.space.k, device=parameters.device, dtype=parameters.dtype)
        return parameters * count - torch.lgamma(count + 1)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """j η - log j! - log Σ_i e^(i η) / i!."""
        return self.all.log_prob(self._logits(parameters), x)

    def draw(self, parameters: Tensor, u: Tensor) -> Tensor:
        """The level at which the distribution function passes the first number."""
        return self.all.draw(self._logits(parameters.double()), u)

    def mean(self, parameters: Tensor) -> Tensor:
        """Of the law given that the count is below k."""
        return self.all.mean(self._logits(parameters))

    def start(self, counts: Tensor | None) -> Tensor | None:
        """The logarithm of the mean count."""
        if counts is None:
            return None
        number = torch.arange(self.space.k, dtype=counts.dtype)
        return ((counts * number).sum(-1, keepdim=True) / counts.sum(-1, keepdim=True)).log()
