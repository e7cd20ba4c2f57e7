"""A Gaussian mixture: p(x) = Σ_k w_k N(x; m_k, Σ_k), an exact likelihood.

The latent is the component, z ∈ 1 … K: prior p(z) categorical, emission p(x | z) normal, posterior p(z | x) exact, so
the evidence lower bound equals log p(x). Fitted by EM (`mixture.em`) from k-means++ starts, as the maximum of the
likelihood times a weak prior (`mixture.prior`); missing cells are marginalised exactly (`mixture.missing`). Exact on
real values; on levels it is dequantised, a lower bound. (McLachlan and Peel 2000, "Finite Mixture Models".)
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Examples, Split
from jensen.data.missing import check_draws, row_knowing
from jensen.data.space import Real, Space
from jensen.distributions.conditional import Conditional
from jensen.errors import InputError, plural
from jensen.likelihood import LogLikelihood
from jensen.mixture import choices, given
from jensen.mixture.ascent import Settings
from jensen.mixture.choices import Criterion
from jensen.mixture.choices import Structure as Structure
from jensen.mixture.covariance import WHOLE_DIMS, covariance_of
from jensen.mixture.criteria import criteria
from jensen.mixture.density import Density
from jensen.mixture.emission import Emission
from jensen.mixture.filling import conditional, filled
from jensen.mixture.parameters import Parameters, unit, untouched
from jensen.mixture.rows import Chunks, scale_of
from jensen.mixture.selection import Task, fitted, free_parameters, selected
from jensen.mixture.stepwise import Stepwise, begun
from jensen.mixture.unconstrained import Unconstrained
from jensen.models.mixture_objective import MixtureObjective
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    ComponentModel,
    Conditioner,
    OnCalls,
    Watch,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.rules import FINITE, Rule, Ruled, probabilities
from jensen.training.fitter import Rows

MOST_CELLS = 1 << 28  # of all covariances together: 2 GiB


class GaussianMixture(ClosedForm, ComponentModel, Conditioner, Ruled):
    """Σ_k w_k N(m_k, Σ_k).

    Args:
        event_shape: the shape of a row; images are flattened.
        space: must be Real; `jensen.fit` wraps it for levels.
        n_components: K, or "auto" to choose it by `criterion`.
        covariance: full, tied (one for all), diag, spherical, or factors (low rank plus diagonal). If None, full where
            there are at least 10 training rows for every dimension and at most 96 dimensions, else factors.
        rank: columns of the low-rank part, for factors.
        prior_rows: c, how many rows the prior on each covariance counts for; 0 for maximum likelihood (of factors with noise
            variances above a floor). If None, d/2 for full and tied, where the prior has correlations, else 1.
        prior_counts: a, how many rows the prior adds to each component's count.
        tolerance: the expected remaining gain, in nats a row, at which EM has converged. If None 1e-7, or 1e-6 for every
            dimension where there are more than 10⁷ cells.
        max_iterations: where EM stops without having converged.
        restarts: how many starts; the best end is kept. If None 3, or 1 where there are more than 10⁷ cells.
        criterion: for "auto", held-out (mean log-likelihood of the validation rows) or bic.
        max_components: the most that "auto" tries.

    Example:
        >>> import torch
        >>> coin = GaussianMixture.from_parameters(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
        >>> float(coin.responsibilities(torch.zeros(1, 1))[0, 0])
        0.5
    """

    summary = "a mixture of normals fitted by EM, exact likelihood; on levels a dequantised lower bound"
    paper = "Dempster, Laird and Rubin 1977; McLachlan and Peel 2000"
    spaces = (Real,)
    accepts_missing = True
    fits_in_float32 = True
    weights: Tensor
    means: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        n_components: int | Literal["auto"] = "auto",
        covariance: Structure | None = None,
        rank: int = 4,
        prior_rows: float | None = None,
        prior_counts: float = 1.0,
        tolerance: float | None = None,
        max_iterations: int = 1000,
        restarts: int | None = None,
        criterion: Criterion = "held-out",
        max_components: int = 64,
    ) -> None:
        super().__init__(event_shape, space)
        self.dims = math.prod(event_shape)
        choices.check(self.dims, locals())
        self.n_components, self.rank = n_components, min(rank, max(1, self.dims - 1))
        self.covariance_word: Structure = covariance or ("full" if self.dims <= WHOLE_DIMS else "factors")
        self.covariance = covariance_of(self.covariance_word, self.dims, self.rank)
        weak = 0.5 * self.dims if self.covariance.correlations else 1.0
        self.prior_rows = weak if prior_rows is None else prior_rows
        self.prior_counts, self.restarts = prior_counts, restarts or choices.RESTARTS
        self.settings = Settings(choices.FINE if tolerance is None else tolerance, max_iterations)
        self.criterion, self.max_components = criterion, max_components
        self.fit_report: dict[str, Any] = {}
        self._stepwise: Stepwise | None = None
        self._density: tuple[Any, Density] | None = None
        self._allocate(1 if n_components == "auto" else n_components)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The covariance for so many rows and dimensions; the number of starts and the tolerance for so many cells."""
        found = choices.chosen(len(split.train), math.prod(split.event_shape))
        return {**settings, **{name: value for name, value in found.items() if settings.get(name) is None}}

    def _allocate(self, components: int) -> None:
        """Standard normal components, in buffers whose shapes the number of components fixes."""
        shapes = self.covariance.shapes(components, self.dims)
        cells = sum(math.prod(shape) for shape in shapes.values())
        if cells > MOST_CELLS:
            raise InputError(
                f"the covariances of {components} components in {self.dims} dimensions do not fit in memory; "
                "use covariance factors or diag, fewer components, or resize the data"
            )
        self.register_buffer("weights", torch.full((components,), 1 / components, dtype=torch.float64))
        self.register_buffer("means", torch.zeros(components, self.dims, dtype=torch.float64))
        for name, shape in shapes.items():
            self.register_buffer(f"spread_{name}", unit(name, shape))

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised, so that starts and prior suit every dimension."""
        return fit_codec(split)

    @classmethod
    def from_parameters(
        cls,
        weights: Float[Tensor, " K"],
        means: Float[Tensor, "K d"],
        covariances: Tensor | Mapping[str, Tensor],
        covariance: Structure = "full",
    ) -> "GaussianMixture":
        """A mixture with given parameters; it samples and scores with no fit, in their units.

        Args:
            weights: positive; divided by their sum.
            means: the components' means.
            covariances: `(K, d, d)` for full, `(d, d)` for tied, variances `(K, d)` for diag and `(K,)` for spherical;
                for factors a mapping with `loadings (K, d, rank)` and `noise (K, d)`, variances.
            covariance: which of them it is.

        Raises:
            InputError: shapes that do not belong together, weights that are no weights, covariances that are none.
        """
        parameters = given.read(weights, means, covariances, covariance)
        components, dims = parameters.means.shape
        rank = parameters.spread["loadings"].shape[2] if "loadings" in parameters.spread else 1
        model = cls((dims,), Real(), n_components=components, covariance=covariance, rank=rank)
        given.check(parameters, model.covariance)
        model.set_parameters(parameters)
        return model

    def rules(self) -> dict[str, Rule]:
        """Weights with sum 1, covariances that are some."""
        spread = {f"spread_{name}": rule for name, rule in self.covariance.rules().items()}
        return {"weights": probabilities(), "means": FINITE, **spread}

    @property
    def parameters_now(self) -> Parameters:
        """Weights, means and spread."""
        names = self.covariance.shapes(len(self.weights), self.dims)
        return Parameters(self.weights, self.means, {name: getattr(self, f"spread_{name}") for name in names})

    def set_parameters(self, parameters: Parameters) -> None:
        """Take over these parameters, and their number of components."""
        device, self._stepwise = self.device, None
        if parameters.components != len(self.weights):
            self._allocate(parameters.components)
            self.to(device)
        self.n_components = parameters.components
        self.weights.copy_(parameters.weights)
        self.means.copy_(parameters.means)
        for name, tensor in parameters.spread.items():
            getattr(self, f"spread_{name}").copy_(tensor)

    def covariances(self) -> Float[Tensor, "K d d"]:
        """Σ_k."""
        return self.covariance.matrices(self.parameters_now.spread, len(self.weights))

    @property
    def density(self) -> Density:
        """The mixture ready to be evaluated; made again when a parameter has changed."""
        now = self.parameters_now
        key = tuple((t.data_ptr(), t._version) for t in (now.weights, now.means, *now.spread.values()))
        if self._density is None or self._density[0] != key:
            self._density = (key, Density(now, self.covariance))
        return self._density[1]

    @property
    def iterative(self) -> bool:
        """Yes: EM."""
        return True

    @torch.no_grad()
    def fit(
        self,
        train: Rows,
        valid: Rows | None = None,
        *,
        seed: int = 0,
        watch: Watch = UNWATCHED,
        start: Parameters | None = None,
        warm: bool = False,
    ) -> None:
        """EM to convergence; `fit_report` says how it went.

        Args:
            train: rows in the model's units, NaN where a cell is missing, with weights if they have any.
            valid: rows that choose the number of components.
            seed: of the starts.
            watch: told of every iteration and of what happens.
            start: parameters to start from, instead of k-means++.
            warm: start from the present parameters.

        Raises:
            InputError: a constant or empty column, an infinite value, more components than rows.
            FitError: the penalised log-likelihood fell, or a covariance degenerated.
        """
        task = self._task(Chunks(train), seed, watch)
        start = self.parameters_now if warm else start
        if start is not None:
            found = fitted(task, start.components, start)
        elif self.n_components == "auto":
            held_out = Chunks(valid) if valid is not None and len(valid) else None
            found = selected(task, self.criterion, held_out, self.max_components)
        else:
            found = fitted(task, int(self.n_components))
        self.set_parameters(found.ascent.parameters)
        self.fit_report = found.report
        seen, prior = found.ascent.statistics, found.prior
        self._stepwise = Stepwise(
            found.ascent.parameters, self.covariance, task.scale, prior, seen.scaled(1 / seen.weight), seen.weight
        )

    def _task(self, chunks: Chunks, seed: int, watch: Watch) -> Task:
        """What there is to do, but for the number of components."""

        def told(iteration: int, value: float, left: float) -> None:
            watch.step(f"{value:.4f} nats a row" + (f", {left:.1g} to come" if math.isfinite(left) else ""))

        return Task(
            chunks,
            scale_of(chunks),
            self.covariance,
            self.settings,
            self.prior_counts,
            self.prior_rows,
            self.restarts,
            seed,
            watch.say,
            told,
        )

    def resolved(self) -> dict[str, Any]:
        """The number of components that was chosen, and what its parameters are."""
        rank = {"rank": self.rank} if self.covariance_word == "factors" else {}
        return {"n_components": len(self.weights), "covariance": self.covariance_word, **rank}

    def report(self) -> dict[str, Any]:
        """How the fit went: iterations, convergence, starts, and the curve if the number of components was chosen."""
        return self.fit_report

    @torch.no_grad()
    def partial_fit(self, batch: Tensor | Batch, *, seed: int = 0, exponent: float = 0.7) -> float:
        """Learn from one batch by stepwise EM (`mixture.stepwise`). After `fit`, or more batches, what was learned so far
        counts by its number of rows. Parameters that were given or loaded are a start and no more, since it is not known
        how many rows are behind them; without any, the start is k-means++ on the batch.

        Args:
            batch: rows `(B, *event_shape)`, or a Batch with weights; the first one says where the data are.
            seed: of the start.
            exponent: α of the step size t^-α.

        Returns:
            The batch's mean log-likelihood before the step, nats a row.
        """
        if self.n_components == "auto":
            raise InputError("partial_fit needs a number of components; n_components='auto' needs all rows at once")
        if not 0.5 < exponent <= 1:
            raise InputError(f"exponent must be above 0.5 and at most 1, got {exponent}")
        rows = batch if isinstance(batch, Batch) else Batch(batch, torch.arange(len(batch)))
        chunks = Chunks(Examples(rows.x, rows.id, None, rows.weight))
        if self._stepwise is None:
            start = None if untouched(self.parameters_now) else self.parameters_now
            self._stepwise = begun(self._task(chunks, seed, UNWATCHED), len(self.weights), start)
        running = self._stepwise.running
        if running is not None and not running.view.same(self.covariance.lasting_view(*self.means.shape)):
            raise InputError(f"a fit with factors in more than {WHOLE_DIMS} dimensions cannot go on by partial_fit")
        value, stepwise = self._stepwise.step(chunks, exponent), self._stepwise
        self.set_parameters(stepwise.parameters)
        self._stepwise = stepwise
        return value

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
        **plan: Any,
    ) -> LogLikelihood:
        """log p of the observed cells of each row, exact."""
        value = self.density.log_prob(x.flatten(1))
        on_calls(len(x))
        return LogLikelihood(
            value=value,
            kind="exact",
            measure="Lebesgue",
            of=f"a mixture of {len(self.weights)} {plural('normal', len(self.weights))}, {self.covariance_word}",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A component by its weight, then m_k + L_k ε."""
        return self.sample_joint(n, seed, start=start)[0]

    @torch.no_grad()
    def sample_joint(self, n: int, seed: int = 0, *, start: int = 0) -> tuple[Tensor, Int[Tensor, " n"]]:
        """Draws of p(x, z): the rows that `sample` gives, and the component each came from."""
        ids, noise = sample_ids(n, start), sample_noise(seed)
        z = self.density.pick(noise.at("component").uniform(ids).to(self.device))
        eps = noise.normal(ids, (self.density.eps_dims,)).double().to(self.device)
        return self.density.normal(z, eps).reshape(n, *self.event_shape), z

    def log_joint(self, x: Tensor) -> Float[Tensor, "B K"]:
        """log w_k N(x_o; m_k, Σ_k), o the observed cells."""
        return self.density.log_joint(x.flatten(1))

    def labels(self, x: Tensor) -> Int[Tensor, " B"]:
        """The most probable component of each row."""
        return self.responsibilities(x).argmax(1)

    def complete_log_prob(self, x: Tensor, z: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
        """log p(x, z) = log w_z N(x; m_z, Σ_z), of the observed cells."""
        return self.density.log_joint(x.flatten(1)).gather(1, z[:, None])[:, 0]

    @property
    def emission(self) -> Conditional:
        """p(x | z) = N(m_z, Σ_z)."""
        return Emission(self.density.normals, self.event_shape)

    @torch.no_grad()
    def impute(self, x: Tensor, draws: int | None = None, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """A mixture over components of conditional normals: exact mean, exact draws."""
        check_draws(draws)
        found = filled(self.density, x.flatten(1), draws, row_ids(x, ids), Noise(seed, "impute"))
        return found.reshape(*found.shape[:-1], *self.event_shape)

    @torch.no_grad()
    def conditional(self, values: Mapping[int, float]) -> "GaussianMixture":
        """p(the other columns | these columns), a mixture again, exact.

        Args:
            values: column number → value, in the model's units; columns of the flattened row.

        Returns:
            A mixture over the columns that are left, in their order; full, or diag or factors as this one is.
        """
        row = row_knowing(values, self.dims).to(self.device)
        left, kind = conditional(self.density, row, self.rank)
        return GaussianMixture.from_parameters(left.weights, left.means, left.spread, kind)

    @property
    def free_parameters(self) -> int:
        """How many numbers can be chosen freely."""
        return free_parameters(self.parameters_now, self.covariance)

    def aic(self, rows: Rows) -> float:
        """-2 log L + 2 f (Akaike 1974), for the rows it was fitted to; lower is better."""
        return criteria(self.density, self.free_parameters, rows).aic

    def bic(self, rows: Rows) -> float:
        """-2 log L + f log n (Schwarz 1978), n the total weight of the rows; lower is better."""
        return criteria(self.density, self.free_parameters, rows).bic

    def icl(self, rows: Rows) -> float:
        """BIC + 2 Σ_i H(p(z | x_i)): it also charges for clusters that overlap (Biernacki et al. 2000)."""
        return criteria(self.density, self.free_parameters, rows).icl

    def objective(self) -> "MixtureObjective":
        """The same mixture for the training loop: -log p(x), with free parameters that start at the present ones."""
        return MixtureObjective(Unconstrained(self.parameters_now, self.covariance))
