"""Naive Bayes: classes, and columns that are independent once the class is known.

    p(x, y) = p(y) ∏_d p(x_d | y),   p(x) = Σ_y p(x, y),   p(y | x) = p(x, y) / p(x)

All of it is exact. The independence is *given y*: over all rows columns may well hang together, through the classes (note
4 says "independent", which would make the class useless). Every column has a family of distributions (`jensen.naive_bayes`),
one member a class, each fitted for itself: the likelihood of labelled rows falls apart into columns and classes. The
classes have p(y) = (n_y + a) / (n + K a).

A missing cell is a factor of 1, which is its exact marginal. p(y | x) multiplies what dependent columns say as if each said
something new, so it tends to be too sure (Zhang 2004, "The optimality of naive Bayes", on why its first choice is often right
all the same); `evaluation.calibration` measures it. Where p(x) = 0, p(y | x) is 0/0: such a row says nothing, and gets NaN. (Duda and Hart 1973; Ng and Jordan 2001, "On discriminative vs.
generative classifiers", compare it with logistic regression.)
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.data.codec import Affine, fit_codec, identity, refuse_constant
from jensen.data.examples import Split
from jensen.data.space import Real, Space
from jensen.distributions.conditional import Conditional
from jensen.distributions.picking import picked
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClassConditional,
    ClosedForm,
    ComponentModel,
    OnCalls,
    Watch,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.naive_bayes.asked import Given, asked, check
from jensen.naive_bayes.family import Ascents
from jensen.naive_bayes.labelled import WAY_OUT, Labelled, checked, moments
from jensen.naive_bayes.product import Emission, Product
from jensen.naive_bayes.words import families
from jensen.noise import Noise
from jensen.rules import Rule, Ruled, probabilities
from jensen.training.fitter import Rows


class NaiveBayes(ClosedForm, ComponentModel, ClassConditional, Ruled):
    """p(y) ∏_d p(x_d | y).

    Args:
        event_shape: the shape of a row; images are flattened.
        space: of a row.
        n_classes: K; found in the data.
        family: of all columns, or one a column with commas between them. On levels categorical, bernoulli (two levels) or
            poisson; on real values gaussian, mixture or kde; auto is categorical or gaussian.
        smoothing: a, what is added to every count of a categorical column (Laplace: 1), and how many cells a Poisson
            column's prior counts for.
        prior_rows: c, how many rows the prior on variances counts for, of gaussian and mixture columns.
        prior_counts: how many rows are added to every class's count.
        n_components: of a mixture, for each class and column.
        rows: how many training rows of each class a kde keeps, at most.

    Example:
        >>> model = NaiveBayes((1,), Real(), n_classes=2)
        >>> model.responsibilities(torch.zeros(1, 1)).tolist()
        [[0.5, 0.5]]
    """

    summary = "classes, and columns independent given the class: exact p(x), p(x | y), p(y | x); needs labels"
    paper = "Duda and Hart 1973; Ng and Jordan 2001"
    accepts_missing = True
    weights: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        n_classes: int | None = None,
        family: str = "auto",
        smoothing: float = 1.0,
        prior_rows: float = 1.0,
        prior_counts: float = 1.0,
        n_components: int = 2,
        rows: int = 2000,
    ) -> None:
        super().__init__(event_shape, space)
        self.dims, classes = math.prod(event_shape), 1 if n_classes is None else n_classes
        check(locals())
        self.classes, self.prior_counts = classes, prior_counts
        self.product = Product(
            classes,
            families(family, self.dims, space),
            space,
            smoothing=smoothing,
            prior_rows=prior_rows,
            n_components=n_components,
            rows=rows,
        )
        self.register_buffer("weights", torch.full((classes,), 1 / classes, dtype=torch.float64))
        self.ascents: Ascents | None = None

    def rules(self) -> dict[str, Rule]:
        """p(y)."""
        return {"weights": probabilities()}

    @property
    def n_classes(self) -> int:
        """K."""
        return self.classes

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised real values, levels as they are."""
        return fit_codec(split) if isinstance(split.space, Real) else identity()

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The classes of these data, their columns' families, and as many rows as a kde can keep.

        Raises:
            InputError: rows without classes.
        """
        codes = split.train.context
        if codes is None:
            raise InputError(f"naive-bayes learns from rows with classes, and these data have none; {WAY_OUT}")
        classes = max(len(split.class_names), int(codes.max()) + 1)
        if settings.get("n_classes") not in (None, classes):
            raise InputError(f"n_classes is that of the data, {classes}, got {settings['n_classes']}; leave it out")
        words = families(settings.get("family", "auto"), math.prod(split.event_shape), space)
        family = words[0] if len(set(words)) == 1 else ",".join(words)
        kept = {"rows": min(settings.get("rows", 2000), int(codes.bincount().max()))} if "kde" in words else {}
        return {**settings, "n_classes": classes, "family": family, **kept}

    @property
    def iterative(self) -> bool:
        """Mixtures are fitted by EM; the rest in one go."""
        return "mixture" in self.product.columns

    def report(self) -> dict[str, Any]:
        """How the EM fits of mixtures went; empty without any."""
        if self.ascents is None or not self.iterative:
            return {}
        found = self.ascents
        return {"converged": found.unfinished == 0, "iterations": found.iterations, "fits": found.fits}

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Every column in every class, for itself.

        Args:
            train: rows in the model's units with their classes as context, NaN where a cell is missing.
            valid: not used.
            seed: of the starts of mixtures and of the rows a kde keeps.
            watch: told what happens.

        Raises:
            InputError: rows without classes or with others; on real values, a constant or empty column.
        """
        rows = Labelled(train, self.classes)
        mass = torch.zeros(self.classes, dtype=torch.float64)
        for part in rows.passing():
            mass.index_add_(0, part.y, part.weight)
        if float(mass.sum()) == 0:
            raise InputError("there are no rows to fit, or their weights sum to 0; give at least one")
        if isinstance(self.space, Real):
            where = moments(rows, self.dims)
            refuse_constant(where.everywhere.view(self.event_shape), where.spread.sqrt().view(self.event_shape))
        self.weights.copy_((mass + self.prior_counts) / (mass.sum() + self.classes * self.prior_counts))
        self.ascents = self.product.learn(rows, Noise(seed, "naive Bayes"))
        if self.ascents.unfinished:
            watch.say(
                f"{self.ascents.unfinished} of {self.ascents.fits} mixtures did not converge in {self.ascents.iterations} iterations"
            )

    @torch.no_grad()
    def conditional_log_prob(self, x: Tensor) -> Float[Tensor, "B K"]:
        """log p(x_o | y = k) for every class, o the observed cells."""
        return self.product.log_prob(x.flatten(1))

    def log_joint(self, x: Tensor) -> Float[Tensor, "B K"]:
        """log p(x_o, y = k)."""
        return self.conditional_log_prob(x) + self._log_prior

    @property
    def _log_prior(self) -> Tensor:
        return self.weights.log()

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        given: Given | None = None,
        **plan: Any,
    ) -> LogLikelihood:
        """log p(x), or with classes as context log p(x | y) or log p(x, y), of the observed cells; exact.

        Args:
            x: the rows.
            context: their classes `(B,)`, or None.
            method: exact.
            ids: not used.
            seed: not used.
            on_calls: told of the rows.
            given: p(x), p(x|y) or p(x,y); without it, p(x|y) where there are classes and p(x) where there are none.
            **plan: nothing else.
        """
        what = asked(given, context)
        on_calls(len(x))
        value, terms = self._value(x, context, what)
        return LogLikelihood(
            value=value,
            kind="exact",
            measure=self.space.measure,
            of=f"naive Bayes, {' and '.join(self.product.columns)} columns in {self.classes} classes",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            given=what,
            terms=terms,
        )

    def _value(self, x: Tensor, context: Tensor | None, what: Given) -> tuple[Tensor, dict[str, Tensor]]:
        """log p, and its terms where it has any."""
        log_prob, log_prior = self.conditional_log_prob(x), self._log_prior
        if context is None:  # the sum is divided by Σ p(y) as it is stored: a row with no observed cell has 0
            joint = torch.cat([log_prob + log_prior, log_prior[None]]).logsumexp(1)
            return joint[:-1] - joint[-1], {}
        y = checked(context, self.classes)
        row, label = log_prob.gather(1, y[:, None])[:, 0], log_prior[y]
        return (row, {}) if what == "p(x|y)" else (row + label, {"row": row, "class": label})

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A class by p(y), or the classes given as context `(n,)`; then every column from its distribution."""
        y = self._classes(n, seed, start) if context is None else checked(context, self.classes)
        if len(y) != n:
            raise InputError(f"context must be one class for each of {n} samples, got {len(y)}")
        ids, noise = sample_ids(n, start), sample_noise(seed)
        u = noise.at("choice").uniform(ids, (self.dims,))
        eps = noise.at("cell").normal(ids, (self.dims,)).double()
        return self.product.draw(y, u, eps).reshape(n, *self.event_shape)

    def sample_joint(self, n: int, seed: int = 0, *, start: int = 0) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Draws of p(x, y): the rows that `sample` gives, and the class of each."""
        return self.sample(n, None, seed, start=start), self._classes(n, seed, start)

    def _classes(self, n: int, seed: int, start: int) -> Tensor:
        return picked(self.weights, sample_noise(seed).at("class").uniform(sample_ids(n, start)))

    @property
    def emission(self) -> Conditional:
        """p(x | y)."""
        return Emission(self.product, self.event_shape)
