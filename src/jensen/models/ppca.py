"""`ppca`: probabilistic principal components, an exact likelihood.

    z ~ N(0, I_q),   x | z ~ N(W z + μ, σ² I),   so   x ~ N(μ, W Wᵀ + σ² I)
    z | x ~ N(M⁻¹ Wᵀ (x - μ), σ² M⁻¹),   M = Wᵀ W + σ² I

(Tipping and Bishop 1999, equations 2 to 6 and 12). The posterior is exact, so the evidence lower bound equals log p(x). The
maximum of the likelihood is a formula (`estimation.principal`); a score costs d q a row, by Woodbury's identity
(`mixture.lowrank`, of which this is the case of one component with equal noise everywhere). A variational autoencoder with linear
networks has its optimum here. Exact on real values, which are standardised; on levels it is dequantised, a lower bound.
"""

import math
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Split
from jensen.data.space import Real, Space
from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import DiagonalNormal, FullNormal
from jensen.errors import InputError, plural
from jensen.estimation.principal import MOST_CELLS, Spectrum, free_parameters, spectrum
from jensen.likelihood import LogLikelihood
from jensen.mixture.choices import Criterion
from jensen.mixture.covariance import Factors
from jensen.mixture.density import BLOCK, Density
from jensen.mixture.lowrank import LowRank
from jensen.mixture.parameters import Parameters
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    Encoder,
    LatentModel,
    OnCalls,
    Watch,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.rules import FINITE, POSITIVE, Rule, Ruled
from jensen.training.fitter import Rows


class PPCA(ClosedForm, LatentModel, Encoder, Ruled):
    """N(μ, W Wᵀ + σ² I).

    Args:
        event_shape: the shape of a row; images are flattened.
        space: must be Real; `jensen.fit` wraps it for levels.
        n_components: q, the columns of W, from 0 to d - 1; "auto" chooses it by `criterion` among all there are, since one
            decomposition gives every one of them.
        criterion: for "auto", held-out (mean log-likelihood of the validation rows) or bic.

    Example:
        >>> x = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.ones(1, 3).double()
        >>> x = x + 0.1 * torch.randn(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        >>> from jensen.data.examples import Examples
        >>> model = PPCA((3,), Real(), n_components=1)
        >>> model.fit(Examples(x, torch.arange(500)))
        >>> round(float(model.noise.sqrt()), 1), tuple(model.encode(x).shape)
        (0.1, (500, 1))
    """

    summary = (
        "probabilistic PCA, a normal of low rank plus noise: exact likelihood; on levels a dequantised lower bound"
    )
    paper = "Tipping and Bishop 1999"
    spaces = (Real,)
    seeded = False
    mean: Tensor
    loadings: Tensor
    noise: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        n_components: int | Literal["auto"] = "auto",
        criterion: Criterion = "held-out",
    ) -> None:
        super().__init__(event_shape, space)
        self.dims = math.prod(event_shape)
        self.n_components, self.criterion = n_components, criterion
        _check(self.dims, n_components, criterion)
        self.fit_report: dict[str, Any] = {}
        self._density: tuple[Any, Density] | None = None
        self.register_buffer("mean", torch.zeros(self.dims, dtype=torch.float64))
        self.register_buffer("noise", torch.ones((), dtype=torch.float64))
        self._allocate(0 if n_components == "auto" else n_components)

    def _allocate(self, components: int) -> None:
        self.register_buffer(
            "loadings", torch.zeros(self.dims, components, dtype=torch.float64, device=self.mean.device)
        )

    def rules(self) -> dict[str, Rule]:
        """Any loadings, positive noise."""
        return {"mean": FINITE, "loadings": FINITE, "noise": POSITIVE}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised, so that one noise variance suits every column: components of the correlations. Images and levels have
        one unit already, and keep it.
        """
        return fit_codec(split)

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Maximum likelihood; `report` says what was chosen.

        Raises:
            InputError: more components than the rows have directions, rows that are all the same, no validation rows for "auto".
        """
        if self.n_components == "auto" and self.criterion == "held-out" and not (valid is not None and len(valid)):
            raise InputError(
                "n_components='auto' by held-out likelihood needs validation rows; give some, or criterion='bic'"
            )
        found = spectrum(train, self.dims - 1 if self.n_components == "auto" else self.n_components)
        report: dict[str, Any] = {}
        if self.n_components == "auto":
            curve = _curve(found, self.criterion, valid)
            self.n_components = int(curve.argmax())
            chosen = float(curve[self.n_components])
            report = {"criterion": self.criterion, "candidates": len(curve), "criterion_nats_per_row": chosen}
        self._take(found, self.n_components)
        explained = found.values[: self.n_components].sum() / found.values.sum()
        self.fit_report = {
            "n_components": self.n_components,
            **report,
            "variance_explained": float(explained),
            "noise_variance": float(self.noise),
            "log_likelihood_nats_per_row": float(found.log_likelihoods()[self.n_components]),
        }

    def _take(self, found: Spectrum, components: int) -> None:
        if components > found.most:
            raise InputError(
                f"n_components must be below the {found.most + 1} {plural('direction', found.most + 1)} in which the training "
                f"rows differ, so that some are left for the noise, got {components}; take fewer"
            )
        self._allocate(components)
        self.mean.copy_(found.mean)
        self.noise.copy_(found.noises()[components])
        self.loadings.copy_(found.loadings(components, self.noise))

    def resolved(self) -> dict[str, Any]:
        """The number of components that was chosen."""
        return {"n_components": self.n_components}

    def report(self) -> dict[str, Any]:
        """What was chosen, and how much of the variance it explains."""
        return self.fit_report

    @property
    def free_parameters(self) -> int:
        """How many numbers can be chosen freely."""
        return free_parameters(self.dims, self.latent_dim)

    @property
    def density(self) -> Density:
        """The normal ready to be evaluated; made again when a parameter has changed."""
        tensors = (self.mean, self.loadings, self.noise)
        key = tuple((t.data_ptr(), t._version) for t in tensors)
        if self._density is None or self._density[0] != key:
            spread = {"loadings": self.loadings[None], "noise": self.noise.expand(1, self.dims)}
            one = Parameters(self.mean.new_ones(1), self.mean[None], spread)
            self._density = (key, Density(one, Factors(self.latent_dim, self.dims)))
        return self._density[1]

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
        """log N(x; μ, W Wᵀ + σ² I), exact."""
        value = self.density.log_prob(x.flatten(1))
        on_calls(len(x))
        return LogLikelihood(
            value=value,
            kind="exact",
            measure="Lebesgue",
            of=f"{self.latent_dim} principal {plural('component', self.latent_dim)} plus noise",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """μ + W z + σ ε."""
        ids = sample_ids(n, start)
        eps = sample_noise(seed).normal(ids, (self.density.eps_dims,)).double().to(self.device)
        return self.density.normal(torch.zeros_like(ids).to(self.device), eps).reshape(n, *self.event_shape)

    @property
    def latent_dim(self) -> int:
        """q."""
        return self.loadings.shape[1]

    @torch.no_grad()
    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """E[z | x] = M⁻¹ Wᵀ (x - μ)."""
        return in_blocks(self._posterior_mean, BLOCK, x.flatten(1).double())

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x | z] = W z + μ."""
        return in_blocks(self._emission_mean, BLOCK, z.double()).reshape(len(z), *self.event_shape)

    def code_effects(self) -> Tensor:
        """The lengths of the columns of W."""
        return self.loadings.norm(dim=0).double().cpu()

    @property
    def _normals(self) -> LowRank:
        normals = self.density.normals
        assert isinstance(normals, LowRank)
        return normals

    def _posterior_mean(self, x: Tensor) -> Tensor:
        return (x - self.mean) @ self._normals.scaled[0] @ self._normals.inner[0]

    def _emission_mean(self, z: Tensor) -> Tensor:
        return z @ self.loadings.T + self.mean

    @property
    def prior(self) -> Conditional:
        """N(0, I)."""
        return Prior(self.latent_dim)

    @property
    def emission(self) -> Conditional:
        """N(W z + μ, σ² I)."""
        return Emission(self)

    @property
    def posterior(self) -> Conditional:
        """N(M⁻¹ Wᵀ (x - μ), σ² M⁻¹), exact."""
        return Posterior(self)


class Prior(Conditional):
    """N(0, I) in float64.

    Args:
        dims: q.
    """

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, given: Tensor) -> DiagonalNormal:
        """A standard normal a row."""
        zeros = given.new_zeros(len(given), self.dims, dtype=torch.float64)
        return DiagonalNormal(zeros, zeros)


class Emission(Conditional):
    """N(W z + μ, σ² I), shaped like a row.

    Args:
        model: whose W, μ and σ².
    """

    def __init__(self, model: PPCA) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Float[Tensor, "*draws B q"]) -> Distribution:
        """A normal for every z; batch_shape `(*draws, B)`."""
        mean = self.model._emission_mean(given).reshape(*given.shape[:-1], *self.model.event_shape)
        return Independent(Normal(mean, self.model.noise.sqrt()), len(self.model.event_shape))


class Posterior(Conditional):
    """N(M⁻¹ Wᵀ (x - μ), σ² M⁻¹).

    Args:
        model: whose W, μ and σ².
    """

    def __init__(self, model: PPCA) -> None:
        super().__init__()
        self.model = model

    def forward(self, given: Float[Tensor, "B *event"]) -> FullNormal:
        """A normal for every row, all of one covariance."""
        root = torch.linalg.cholesky(self.model._normals.inner[0])
        return FullNormal(self.model._posterior_mean(given.flatten(1).double()), root.expand(len(given), -1, -1))


def _curve(found: Spectrum, criterion: str, valid: Rows | None) -> Tensor:
    """The criterion in nats a row, higher is better, of every q from 0."""
    if criterion == "held-out":
        assert valid is not None
        return found.log_likelihoods(*found.squares_of(valid))
    free = torch.tensor([free_parameters(found.dims, q) for q in range(found.most + 1)], dtype=torch.float64)
    return found.log_likelihoods() - 0.5 * free * math.log(found.weight) / found.weight


def _check(dims: int, components: int | str, criterion: str) -> None:
    """Refuse what cannot be, and what would not fit in memory."""
    if isinstance(components, int) and not 0 <= components < dims:
        raise InputError(
            f"n_components must be from 0 to {dims - 1} for rows of {dims} {plural('dimension', dims)}, so that one is left for "
            f"the noise, got {components}"
        )
    if isinstance(components, int) and components * dims > MOST_CELLS:
        raise InputError(
            f"{components} components of {dims} dimensions do not fit in memory (at most {MOST_CELLS // dims}); take fewer"
        )
    if criterion not in get_args(Criterion):
        raise InputError(f"criterion must be one of {', '.join(get_args(Criterion))}, got {criterion!r}")
