"""`gan`: an implicit model. Its samples are x = G(z), z ~ N(0, I), and p(x) is nowhere written down, so it has no likelihood.

What is learned comes from a critic D that is shown a real row x and a generated one G(z) and says which is which:

    L_D = E softplus(-(D(x) - D(G(z)))) + ½ γ E ‖∇D(x)‖² + ½ γ E ‖∇D(G(z))‖²
    L_G = E softplus(-(D(G(z)) - D(x)))

(Goodfellow et al. 2014; in pairs of a real and a generated row, Jolicoeur-Martineau 2019: L_G keeps its slope where G loses, and a mode
that G leaves out has a price). The two penalties, R1 on real rows and R2 on generated ones, make D flat where the two laws meet: with them
gradient descent near the solution goes there, without them it circles (Mescheder, Geiger and Nowozin 2018, "Which training methods for
GANs do actually converge?"; Huang et al. 2024, "The GAN is dead; long live the GAN! A modern GAN baseline", propositions 1 and 2).

Nothing held-out can stop the training, since no loss says how good G is: all steps are taken, and the average of G's weights is kept. The
energy distance between samples and held-out rows is written beside the losses, to look at. On levels real rows are spread over their
cells, fresh at every step, so that D does not win by seeing that they are whole numbers; samples go to the nearest level.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.space import Levels, Space
from jensen.distributions.divergence import between_samples
from jensen.errors import InputError
from jensen.models.model import Model, OnCalls, Trained, nothing, sample_ids, sample_noise
from jensen.nn.perceptron import Perceptron
from jensen.noise import Noise
from jensen.training.device import Precision, device
from jensen.training.fitter import Fitter, Loss, Rows, TrainingSettings
from jensen.training.game import GameFitter, Player


class GAN(Trained, Model):
    """G(z), z ~ N(0, I).

    Args:
        event_shape: of a row.
        space: where rows live.
        latent_dim: numbers in z; None for as many as a row has, from 8 to 64.
        width: of both networks.
        depth: their hidden layers.
        penalty: γ, for a row of one dimension whose variance is 1; it is divided by the number of dimensions, to which ‖∇D‖² is
            proportional at equal effect.
    """

    summary = "a generative adversarial network: samples without a likelihood"
    paper = "Goodfellow et al. 2014; Mescheder et al. 2018; Huang et al. 2024"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        latent_dim: int | None = None,
        width: int = 128,
        depth: int = 3,
        penalty: float = 1.0,
    ) -> None:
        super().__init__(event_shape, space)
        self.dims = math.prod(event_shape)
        self.latent_dim = _latents(self.dims) if latent_dim is None else latent_dim
        self.width, self.depth, self.penalty = width, depth, penalty
        _check(self.latent_dim, width, depth, penalty)
        self.generator = Generator(self.latent_dim, self.event_shape, width, depth)

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The size of z, and the defaults, so that other ones are not another model for a run."""
        told = {"latent_dim": _latents(math.prod(split.event_shape)), "width": 128, "depth": 3, "penalty": 1.0}
        return {**told, **{name: value for name, value in settings.items() if value is not None}}

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """No stop rule, no decay of weights; float32, in which gradients of gradients have digits."""
        return TrainingSettings(
            batch_size=min(128, max(1, len(split.train) // 2)),
            lr=1e-3,
            weight_decay=0.0,
            patience=0,
            precision="float32",
        )

    def fitter(
        self, settings: TrainingSettings, precision: Precision, *, steps: int, held_out: Rows, seed: int
    ) -> Fitter:
        """Both players; the critic is made here and forgotten with the fitter."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(Noise(seed, "critic").uniform([0])[0] * 2**62))
            critic = Critic(self.event_shape, self.width, self.depth).to(device())
        self.to(device())
        game = Game(self.generator, critic, self.space, self.penalty / self.dims)
        return GameFitter(
            Player(GeneratorLoss(game), self.generator),
            Player(CriticLoss(game), critic),
            settings,
            precision,
            steps=steps,
            held_out=held_out,
            measure=distance,
            seed=seed,
        )

    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """Nothing."""

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """G(z); on levels the nearest one."""
        self.eval()
        z = sample_noise(seed).normal(sample_ids(n, start), (self.latent_dim,)).to(self.device)
        x = self.generator(z)
        if isinstance(self.space, Levels):
            return self.space.first + self.space.step * self.space.index(x.double()).double()
        assert isinstance(x, Tensor)
        return x


class Generator(nn.Module):
    """z `(B, latent_dim)` → rows."""

    def __init__(self, latent_dim: int, event_shape: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        self.latent_dim, self.event_shape = latent_dim, event_shape
        self.network = Perceptron(latent_dim, math.prod(event_shape), width=width, depth=depth)

    def forward(self, z: Tensor) -> Tensor:
        """G(z)."""
        return self.network(z).reshape(len(z), *self.event_shape)


class Critic(nn.Module):
    """Rows → `(B,)`."""

    def __init__(self, event_shape: tuple[int, ...], width: int, depth: int) -> None:
        super().__init__()
        self.network = Perceptron(math.prod(event_shape), 1, width=width, depth=depth)

    def forward(self, x: Tensor) -> Tensor:
        """D(x)."""
        return self.network(x.flatten(1))[:, 0]


class Game(nn.Module):
    """What both losses are made of.

    Args:
        generator: G.
        critic: D.
        space: of the rows.
        penalty: γ.
    """

    def __init__(self, generator: nn.Module, critic: nn.Module, space: Space, penalty: float) -> None:
        super().__init__()
        self.generator, self.critic, self.space, self.penalty = generator, critic, space, penalty

    def real(self, batch: Batch, noise: Noise) -> Tensor:
        """The rows, levels spread over their cells."""
        if not isinstance(self.space, Levels):
            return batch.x.float()
        spread = noise.at("cell").uniform(batch.id, tuple(batch.x.shape[1:])).to(batch.x.device) - 0.5
        return (batch.x + self.space.step * spread).float()

    def made(self, batch: Batch, noise: Noise) -> Tensor:
        """A generated row for each."""
        z = noise.at("z").normal(batch.id, (self.generator.latent_dim,))  # type: ignore[arg-type]
        out = self.generator(z.to(batch.x.device))
        assert isinstance(out, Tensor)
        return out


class GeneratorLoss(Loss):
    """softplus(D(x) - D(G(z)))."""

    def __init__(self, game: Game) -> None:
        super().__init__()
        self.game = game

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each pair; no gradient goes through the real row."""
        with torch.no_grad():
            real = self.game.critic(self.game.real(batch, noise))
        return softplus(real - self.game.critic(self.game.made(batch, noise)))


class CriticLoss(Loss):
    """softplus(D(G(z)) - D(x)) + ½ γ (‖∇D(x)‖² + ‖∇D(G(z))‖²)."""

    def __init__(self, game: Game) -> None:
        super().__init__()
        self.game = game

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each pair."""
        with torch.no_grad():
            made = self.game.made(batch, noise)
        real, on_real = with_square_slope(self.game.critic, self.game.real(batch, noise))
        false, on_made = with_square_slope(self.game.critic, made)
        return softplus(false - real) + 0.5 * self.game.penalty * (on_real + on_made)


def with_square_slope(critic: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """D(x) and ‖∇D(x)‖² of each row, `(B,)`, both differentiable in D.

    Example:
        >>> linear = nn.Linear(2, 1, bias=False)
        >>> _ = nn.init.constant_(linear.weight, 3.0)
        >>> with_square_slope(lambda x: linear(x)[:, 0], torch.zeros(1, 2))[1].tolist()
        [18.0]
    """
    x = x.detach().requires_grad_()
    value = critic(x)
    (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
    return value, slope.flatten(1).square().sum(1)


def distance(generator: nn.Module, rows: Rows, noise: Noise) -> dict[str, float]:
    """The energy distance between the rows and as many samples, without bias: it may be below 0."""
    batch = rows.batch(slice(0, len(rows)))
    made = generator(noise.at("z").normal(batch.id, (generator.latent_dim,)).to(batch.x.device))  # type: ignore[arg-type]
    if len(rows) < 2:
        return {"energy distance": math.nan}
    return {"energy distance": between_samples(batch.x.cpu(), made.to(batch.x).cpu(), "energy", version="U").value}


def _latents(dims: int) -> int:
    return max(8, min(64, dims))


def _check(latent_dim: int, width: int, depth: int, penalty: float) -> None:
    """Refuse what cannot be."""
    rules = {
        "latent_dim": (1 <= latent_dim <= 4096, "from 1 to 4096", latent_dim),
        "width": (1 <= width <= 4096, "from 1 to 4096", width),
        "depth": (1 <= depth <= 16, "from 1 to 16", depth),
        "penalty": (0 <= penalty < math.inf, "at least 0 and finite", penalty),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InputError(f"{name} must be {rule}, got {value}")
