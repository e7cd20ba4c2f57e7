"""The distributions of torch as those of scipy, which has distribution functions, both tails and both inverses.

torch has no survival function, no cdf for Beta, StudentT or Binomial, and 1 - F(x) is 0 long before the tail is. scipy
computes both tails to full relative accuracy.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributions
from torch.distributions import Distribution, Independent

Parameters = Callable[[Any], tuple[str, dict[str, Tensor]]]


def _located(name: str) -> Parameters:
    return lambda d: (name, {"loc": d.loc, "scale": d.scale})


# Exact types: a subclass may have another law.
FAMILIES: dict[type[Distribution], Parameters] = {
    distributions.Normal: _located("norm"),
    distributions.Laplace: _located("laplace"),
    distributions.Cauchy: _located("cauchy"),
    distributions.Gumbel: _located("gumbel_r"),
    distributions.HalfNormal: lambda d: ("halfnorm", {"scale": d.scale}),
    distributions.HalfCauchy: lambda d: ("halfcauchy", {"scale": d.scale}),
    distributions.StudentT: lambda d: ("t", {"df": d.df, "loc": d.loc, "scale": d.scale}),
    distributions.LogNormal: lambda d: ("lognorm", {"s": d.scale, "scale": d.loc.exp()}),
    distributions.Uniform: lambda d: ("uniform", {"loc": d.low, "scale": d.high - d.low}),
    distributions.Exponential: lambda d: ("expon", {"scale": 1 / d.rate}),
    distributions.Gamma: lambda d: ("gamma", {"a": d.concentration, "scale": 1 / d.rate}),
    distributions.Chi2: lambda d: ("chi2", {"df": d.df}),
    distributions.InverseGamma: lambda d: ("invgamma", {"a": d.concentration, "scale": d.rate}),
    distributions.Beta: lambda d: ("beta", {"a": d.concentration1, "b": d.concentration0}),
    distributions.FisherSnedecor: lambda d: ("f", {"dfn": d.df1, "dfd": d.df2}),
    distributions.Pareto: lambda d: ("pareto", {"b": d.alpha, "scale": d.scale}),
    distributions.Weibull: lambda d: ("weibull_min", {"c": d.concentration, "scale": d.scale}),
    distributions.Poisson: lambda d: ("poisson", {"mu": d.rate}),
    distributions.Geometric: lambda d: ("geom", {"p": d.probs, "loc": torch.full_like(d.probs, -1)}),  # failures
    distributions.NegativeBinomial: lambda d: ("nbinom", {"n": d.total_count, "p": 1 - d.probs}),
}


def frozen(distribution: Distribution) -> Any | None:
    """The same law as a frozen distribution of scipy, its parameters of shape `batch_shape`; None if it has none here.

    An `Independent` of one column is the law of that column.

    Example:
        >>> float(frozen(distributions.Normal(0.0, 1.0)).sf(30.0)) > 0
        True
    """
    column = isinstance(distribution, Independent)
    inner = distribution.base_dist if isinstance(distribution, Independent) else distribution
    parameters = FAMILIES.get(type(inner))
    if parameters is None:
        return None
    from scipy import stats

    name, values = parameters(inner)
    shape = inner.batch_shape
    arrays = {key: value.double().expand(shape).numpy() for key, value in values.items()}
    return getattr(stats, name)(**{key: value[..., 0] if column else value for key, value in arrays.items()})


def tail_masses(distribution: Distribution, x: float) -> float:
    """The largest P(X > x) in the batch, of a law in the table."""
    law = frozen(distribution)
    assert law is not None
    return float(law.sf(x).max())
