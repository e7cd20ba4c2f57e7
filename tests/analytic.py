"""Worlds where the truth is known: the oracle of the tests.

Nothing here uses jensen's formulas. Noise levels come in as log-SNR λ; α² = sigmoid(λ) and σ² = sigmoid(-λ) are written
out afresh, bridges come from conditioning a joint Gaussian by linear algebra, expectations over ε from quadrature.

    W1  Mixture              Gaussian mixture, full covariances
    W2  LinearGaussian       probabilistic PCA; AffineChain is the law of the T-step DDPM fitted to it
    W4  LevelsWorld          a normal discretised to k levels; GridChain is the law of its reverse chain
    W5  an independent product of W4: LevelsWorld works elementwise, so it is W4 on more columns
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from jensen.diffusion.denoiser import Denoiser
from jensen.distributions.conditional import Conditional

F64 = torch.float64


def levels_of(log_snr: float | Tensor) -> tuple[Tensor, Tensor]:
    """α² and σ² at log-SNR λ."""
    log_snr = torch.as_tensor(log_snr, dtype=F64)
    return torch.sigmoid(log_snr), torch.sigmoid(-log_snr)


class World:
    """A distribution of x_0 whose posterior mean given x_t is known."""

    def denoised(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """E[x_0 | x_t] for rows `x_t (B, *event)` at log-SNR `(B,)`."""
        raise NotImplementedError


class Exact(Denoiser):
    """The exact denoiser of a world, spoiled on request: shrink·x̂_0 + shift."""

    def __init__(self, world: World, shrink: float = 1.0, shift: float = 0.0) -> None:
        super().__init__()
        self.world, self.shrink, self.shift = world, shrink, shift

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t], then spoiled."""
        return self.shrink * self.world.denoised(x_t, log_snr) + self.shift


class Mixture(World):
    """W1: Σ w_k N(m_k, S_k); at log-SNR λ it is Σ w_k N(α m_k, α² S_k + σ² I)."""

    def __init__(self, weights: list[float], means: list[list[float]], covariances: list[list[list[float]]]) -> None:
        self.weights = torch.tensor(weights, dtype=F64)
        self.means = torch.tensor(means, dtype=F64)
        self.covariances = torch.tensor(covariances, dtype=F64)
        self.eigenvalues, self.vectors = torch.linalg.eigh(self.covariances)
        self.dims = self.means.shape[1]

    def _parts(self, x: Tensor, log_snr: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x - α m_k in S_k's axes, its variances there, and log w_k N(x), for every row and k."""
        alpha2, sigma2 = (v.expand(len(x)) for v in levels_of(log_snr))
        offset = x[:, None] - alpha2.sqrt()[:, None, None] * self.means
        rotated = torch.einsum("kde,bkd->bke", self.vectors, offset)
        variance = alpha2[:, None, None] * self.eigenvalues + sigma2[:, None, None]
        log_density = -0.5 * (rotated.square() / variance + variance.log() + math.log(2 * math.pi)).sum(2)
        return rotated, variance, log_density + self.weights.log()

    def log_prob(self, x: Tensor, log_snr: float | Tensor = math.inf) -> Tensor:
        """log p_t(x)."""
        return self._parts(x, log_snr)[2].logsumexp(1)

    def responsibilities(self, x: Tensor, log_snr: float | Tensor = math.inf) -> Tensor:
        """p(k | x_t)."""
        return self._parts(x, log_snr)[2].softmax(1)

    def score(self, x: Tensor, log_snr: float | Tensor) -> Tensor:
        """∇ log p_t."""
        rotated, variance, log_joint = self._parts(x, log_snr)
        each = -torch.einsum("kde,bke->bkd", self.vectors, rotated / variance)
        return (log_joint.softmax(1)[:, :, None] * each).sum(1)

    def _component_moments(self, x: Tensor, log_snr: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """p(k | x_t), E[x_0 | x_t, k] and the eigenvalues of Cov[x_0 | x_t, k]."""
        rotated, variance, log_joint = self._parts(x, log_snr)
        alpha2, sigma2 = (v.expand(len(x))[:, None, None] for v in levels_of(log_snr))
        shift = torch.einsum("kde,bke->bkd", self.vectors, alpha2.sqrt() * self.eigenvalues / variance * rotated)
        return log_joint.softmax(1), self.means + shift, sigma2 * self.eigenvalues / variance

    def denoised(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """E[x_0 | x_t]."""
        weight, mean, _ = self._component_moments(x_t, log_snr)
        return (weight[:, :, None] * mean).sum(1)

    def covariance(self, x_t: Tensor, log_snr: float | Tensor) -> Tensor:
        """Cov[x_0 | x_t]."""
        weight, mean, eigenvalues = self._component_moments(x_t, log_snr)
        inside = torch.einsum("kde,bke,kfe->bkdf", self.vectors, eigenvalues, self.vectors)
        centred = mean - (weight[:, :, None] * mean).sum(1, keepdim=True)
        return torch.einsum("bk,bkdf->bdf", weight, inside + centred[..., :, None] * centred[..., None, :])

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of x_0."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        z = torch.randn(n, self.dims, generator=generator, dtype=F64) * self.eigenvalues[k].sqrt()
        return self.means[k] + torch.einsum("bde,be->bd", self.vectors[k], z)


class Columns(World):
    """An independent product of one-dimensional worlds: every cell is a draw of `world`."""

    def __init__(self, world: Mixture) -> None:
        self.world = world

    def denoised(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """E[x_0 | x_t], cell by cell."""
        cells = x_t[0].numel()
        return self.world.denoised(x_t.reshape(-1, 1), log_snr.repeat_interleave(cells)).reshape(x_t.shape)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of x_0."""
        return self.world.sample(math.prod(shape), generator).reshape(shape)


def mixture_1d() -> Mixture:
    """Two unequal humps on the line."""
    return Mixture([0.3, 0.7], [[-1.2], [0.8]], [[[0.05]], [[0.3]]])


def mixture_2d() -> Mixture:
    """Three correlated components in the plane."""
    covariances = [[[0.5, 0.3], [0.3, 0.4]], [[0.2, -0.1], [-0.1, 0.3]], [[0.05, 0.0], [0.0, 0.6]]]
    return Mixture([0.2, 0.5, 0.3], [[-1.0, 0.5], [0.7, 0.9], [0.3, -1.4]], covariances)


def mixture_3d() -> Mixture:
    """Two components in space, one of them nearly flat."""
    covariances = [
        [[1.0, 0.6, 0.2], [0.6, 0.9, 0.1], [0.2, 0.1, 0.4]],
        [[0.3, 0.1, 0.0], [0.1, 0.2, 0.05], [0.0, 0.05, 0.02]],
    ]
    return Mixture([0.6, 0.4], [[0.0, 1.0, -1.0], [1.5, -0.5, 0.2]], covariances)


class LinearGaussian(World):
    """W2: z ~ N(0, I), x | z ~ N(W z + m, s² I), so x ~ N(m, W Wᵀ + s² I)."""

    def __init__(self, loadings: Tensor, mean: Tensor, noise: float) -> None:
        self.loadings, self.mean, self.noise = loadings, mean, noise
        self.dims, self.latent = loadings.shape
        self.covariance = loadings @ loadings.T + noise**2 * torch.eye(self.dims, dtype=F64)

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x)."""
        return MultivariateNormal(self.mean, self.covariance).log_prob(x)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and covariance of z | x: M⁻¹ Wᵀ (x - m), s² M⁻¹ with M = Wᵀ W + s² I."""
        m = self.loadings.T @ self.loadings + self.noise**2 * torch.eye(self.latent, dtype=F64)
        return (x - self.mean) @ self.loadings @ torch.linalg.inv(m), self.noise**2 * torch.linalg.inv(m)

    def gain(self, log_snr: float) -> tuple[Tensor, Tensor]:
        """A and b with E[x_0 | x_t] = A x_t + b."""
        alpha2, sigma2 = levels_of(log_snr)
        a = torch.linalg.solve(
            alpha2 * self.covariance + sigma2 * torch.eye(self.dims, dtype=F64), alpha2.sqrt() * self.covariance
        ).T
        return a, self.mean - a @ self.mean * alpha2.sqrt()

    def denoised(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """E[x_0 | x_t]; rows may stand at different noise levels."""
        out = torch.empty_like(x_t)
        for level in log_snr.unique().tolist():
            rows, (a, b) = log_snr == level, self.gain(level)
            out[rows] = x_t[rows] @ a.T + b
        return out

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of x."""
        z = torch.randn(n, self.latent, generator=generator, dtype=F64)
        e = torch.randn(n, self.dims, generator=generator, dtype=F64)
        return z @ self.loadings.T + self.mean + self.noise * e


def ppca() -> LinearGaussian:
    """Three dimensions, two latents, variances far from 1."""
    loadings = torch.tensor([[1.5, 0.2], [-0.4, 0.9], [0.3, -0.6]], dtype=F64)
    return LinearGaussian(loadings, torch.tensor([0.5, -1.0, 0.2], dtype=F64), 0.3)


class PPCAPrior(Conditional):
    """p(z)."""

    def __init__(self, world: LinearGaussian) -> None:
        super().__init__()
        self.world = world

    def forward(self, given: Tensor) -> Distribution:
        """N(0, I)."""
        return Independent(Normal(torch.zeros(len(given), self.world.latent, dtype=F64), 1.0), 1)


class PPCAEmission(Conditional):
    """p(x | z)."""

    def __init__(self, world: LinearGaussian) -> None:
        super().__init__()
        self.world = world

    def forward(self, given: Tensor) -> Distribution:
        """N(W z + m, s² I)."""
        return Independent(Normal(given @ self.world.loadings.T + self.world.mean, self.world.noise), 1)


class PPCAPosterior(Conditional):
    """q(z | x): the exact posterior, shifted and with its covariance scaled on request."""

    def __init__(self, world: LinearGaussian, shift: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.world, self.shift, self.scale = world, shift, scale

    def forward(self, given: Tensor) -> MultivariateNormal:
        """N(M⁻¹ Wᵀ (x - m) + shift, scale · s² M⁻¹)."""
        mean, covariance = self.world.posterior(given)
        return MultivariateNormal(mean + self.shift, self.scale * covariance)


def condition(mean: Tensor, covariance: Tensor, seen: list[int], values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the unseen coordinates of a Gaussian given the seen ones."""
    rest = [i for i in range(len(mean)) if i not in seen]
    gain = torch.linalg.solve(covariance[seen][:, seen], covariance[seen][:, rest]).T
    return mean[rest] + gain @ (values - mean[seen]), covariance[rest][:, rest] - gain @ covariance[seen][:, rest]


def bridge_by_conditioning(log_snr_s: float, log_snr_t: float, x_0: float, x_t: float) -> tuple[float, float]:
    """Mean and variance of x_s | x_t, x_0 in one dimension, from the joint Gaussian of (x_s, x_t) given x_0."""
    (as2, ss2), (at2, st2) = levels_of(log_snr_s), levels_of(log_snr_t)
    ratio = (at2 / as2).sqrt()
    covariance = torch.stack([torch.stack([ss2, ratio * ss2]), torch.stack([ratio * ss2, st2])])
    mean, variance = condition(
        torch.stack([as2.sqrt(), at2.sqrt()]) * x_0, covariance, [1], torch.tensor([x_t], dtype=F64)
    )
    return float(mean), float(variance)


def bridge_coefficients(log_snr_s: float, log_snr_t: float) -> tuple[float, float, float]:
    """c_0, c_t and β̂ read off `bridge_by_conditioning`."""
    from_data, variance = bridge_by_conditioning(log_snr_s, log_snr_t, 1.0, 0.0)
    return from_data, bridge_by_conditioning(log_snr_s, log_snr_t, 0.0, 1.0)[0], variance


class AffineChain:
    """The T-step DDPM whose denoiser is W2's: everything about it is Gaussian.

        x_T ~ N(0, I),   x_{i-1} | x_i ~ N(c_0 x̂_0(x_i) + c_t x_i, v_i I),   x_0 | x_1 ~ N(x̂_0(x_1), s² I)

    Args:
        world: W2.
        log_snr: `(T,)` of x_1 … x_T.
        variances: `(T,)` v_i at position i - 1; position 0 is not read.
        scale: s.
    """

    def __init__(self, world: LinearGaussian, log_snr: Tensor, variances: Tensor, scale: float) -> None:
        self.world, self.log_snr, self.variances, self.scale = world, log_snr.tolist(), variances.tolist(), scale
        self.steps, self.eye = len(log_snr), torch.eye(world.dims, dtype=F64)

    def step(self, i: int) -> tuple[Tensor, Tensor, float]:
        """A, b, v of x_{i-1} | x_i ~ N(A x_i + b, v I), i ≥ 1."""
        a, b = self.world.gain(self.log_snr[i - 1])
        if i == 1:
            return a, b, self.scale**2
        from_data, from_noisy, _ = bridge_coefficients(self.log_snr[i - 2], self.log_snr[i - 1])
        return from_data * a + from_noisy * self.eye, from_data * b, self.variances[i - 1]

    def law(self) -> MultivariateNormal:
        """p_θ(x_0)."""
        mean, covariance = torch.zeros(self.world.dims, dtype=F64), self.eye
        for i in range(self.steps, 0, -1):
            a, b, v = self.step(i)
            mean, covariance = a @ mean + b, a @ covariance @ a.T + v * self.eye
        return MultivariateNormal(mean, 0.5 * (covariance + covariance.T))

    def negative_bound(self, x_0: Tensor) -> float:
        """E_q[-log p(x_{0:T}) / q(x_{1:T} | x_0)] for one x_0, from the joint Gaussian q(x_1, …, x_T | x_0)."""
        alpha2, sigma2 = levels_of(torch.tensor(self.log_snr, dtype=F64))
        d, ones = self.world.dims, torch.tensor(1.0, dtype=F64)
        scalar = torch.empty(self.steps, self.steps, dtype=F64)  # Cov[x_i, x_j | x_0] = (α_j/α_i) σ_i² for i ≤ j
        for i in range(self.steps):
            for j in range(self.steps):
                a, b = min(i, j), max(i, j)
                scalar[i, j] = (alpha2[b] / alpha2[a]).sqrt() * sigma2[a]
        entropy = 0.5 * d * (self.steps * (1 + math.log(2 * math.pi)) + torch.logdet(scalar))
        mean = alpha2.sqrt()[:, None] * x_0
        cost = -entropy + _cross(mean[-1], scalar[-1, -1] * self.eye, ones)
        for i in range(1, self.steps + 1):
            a, b, v = self.step(i)
            here = scalar[i - 1, i - 1]
            if i == 1:
                gap, spread = x_0 - a @ mean[0] - b, here * a @ a.T
            else:
                both, before = scalar[i - 2, i - 1], scalar[i - 2, i - 2]
                gap = mean[i - 2] - a @ mean[i - 1] - b
                spread = before * self.eye - both * (a + a.T) + here * a @ a.T
            cost = cost + _cross(gap, spread, torch.tensor(v, dtype=F64))
        return float(cost)


def _cross(mean: Tensor, covariance: Tensor, variance: Tensor) -> Tensor:
    """E[-log N(u; 0, variance · I)] for u of this mean and covariance."""
    d = len(mean)
    return 0.5 * (d * torch.log(2 * math.pi * variance) + (mean.square().sum() + covariance.trace()) / variance)


class LevelsWorld(World):
    """W4 (W5 on several columns): N(mean, sd²) discretised to k levels on [-1, 1], open end bins."""

    def __init__(self, k: int = 8, mean: float = 0.15, sd: float = 0.45) -> None:
        self.k, self.step = k, 2 / (k - 1)
        self.values = torch.linspace(-1, 1, k, dtype=F64)
        edges = (self.values[:-1].numpy() + self.step / 2 - mean) / sd
        cdf = np.concatenate([[0.0], stats.norm.cdf(edges), [1.0]])
        self.mass = torch.from_numpy(np.diff(cdf))

    def denoised(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        """E[x_0 | x_t] by enumerating the levels, elementwise."""
        alpha2, sigma2 = (v.reshape(-1, *[1] * x_t.ndim) for v in levels_of(log_snr))
        distance = x_t.double()[..., None] - alpha2.sqrt() * self.values
        weight = (self.mass.log() - 0.5 * distance.square() / sigma2).softmax(-1)
        return (weight * self.values).sum(-1).to(x_t.dtype)

    def log_prob(self, x_0: Tensor) -> Tensor:
        """log P(x_0) of rows, summed over columns."""
        index = ((x_0 + 1) / self.step).round().long()
        return self.mass.log()[index].flatten(1).sum(1)

    def sample(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draws of x_0."""
        index = torch.multinomial(self.mass, math.prod(shape), replacement=True, generator=generator)
        return self.values[index].reshape(shape)

    def emission_log_mass(self, centre: Tensor, scale: float) -> Tensor:
        """log P(level | x̂_0 = centre) of the discretised normal with open ends, `(n, k)`, by scipy."""
        edges = (self.values[:-1] + self.step / 2)[None] - centre[:, None]
        lower = np.concatenate([np.full((len(centre), 1), -np.inf), edges.numpy() / scale], 1)
        upper = np.concatenate([edges.numpy() / scale, np.full((len(centre), 1), np.inf)], 1)
        flip = lower + upper > 0
        low, high = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
        difference = stats.norm.cdf(high) - stats.norm.cdf(low)
        return torch.from_numpy(np.log(np.maximum(difference, 1e-300)))


class GridChain:
    """The law of a one-dimensional reverse chain, by pushing its density through the steps on a fine grid.

    The trapezoid rule is spectrally accurate here as long as each step's deviation spans two grid cells or more.
    """

    def __init__(
        self, world: LevelsWorld, log_snr: Tensor, variances: Tensor, scale: float, points: int = 1601
    ) -> None:
        self.world, self.scale = world, scale
        grid = torch.linspace(-7, 7, points, dtype=F64)
        spacing = float(grid[1] - grid[0])
        density = torch.exp(-0.5 * grid.square()) / math.sqrt(2 * math.pi)
        for i in range(len(log_snr), 1, -1):
            from_data, from_noisy, _ = bridge_coefficients(float(log_snr[i - 2]), float(log_snr[i - 1]))
            centre = from_data * self._denoised(grid, log_snr[i - 1]) + from_noisy * grid
            v = float(variances[i - 1])
            assert math.sqrt(v) > 2 * spacing
            kernel = torch.exp(-0.5 * (grid[:, None] - centre).square() / v) / math.sqrt(2 * math.pi * v)
            density = kernel @ density * spacing
        emission = world.emission_log_mass(self._denoised(grid, log_snr[0]), scale)
        self.mass = (density[:, None] * emission.exp()).sum(0) * spacing

    def _denoised(self, grid: Tensor, log_snr: Tensor) -> Tensor:
        return self.world.denoised(grid[:, None], log_snr.expand(len(grid)))[:, 0]


def normal_nodes(points: int = 801, reach: float = 9.0) -> tuple[Tensor, Tensor]:
    """Nodes and weights for E[f(ε)], ε ~ N(0, 1): the trapezoid rule, exact to rounding for smooth f."""
    nodes = torch.linspace(-reach, reach, points, dtype=F64)
    weights = torch.exp(-0.5 * nodes.square())
    return nodes, weights / weights.sum()


def hermite_nodes(dims: int, points: int) -> tuple[Tensor, Tensor]:
    """Gauss–Hermite nodes `(n, dims)` and weights for E[f(ε)], ε ~ N(0, I): exact to degree 2·points - 1 an axis."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    axes = np.meshgrid(*[x] * dims, indexing="ij")
    weights = np.prod(np.meshgrid(*[w / w.sum()] * dims, indexing="ij"), axis=0)
    return torch.from_numpy(np.stack([a.ravel() for a in axes], 1)), torch.from_numpy(weights.ravel())


def mean_over_noise(f: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, nodes: Tensor, weights: Tensor) -> Tensor:
    """E f(x_0, ε) of each row `(B,)`; f takes rows and their noise and gives `(rows,)`."""
    rows, n = len(x_0), len(nodes)
    values = f(x_0.repeat_interleave(n, 0), nodes.repeat(rows, 1))
    return values.reshape(rows, n) @ weights


def z_score(values: Tensor, truth: float) -> float:
    """How many standard errors the mean of independent values stands off the truth."""
    return (float(values.mean()) - truth) / (float(values.std()) / math.sqrt(len(values)))
