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
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

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
from jensen.nn.players import ImageCritic, ImageGenerator
from jensen.noise import Noise
from jensen.training.device import Precision, device
from jensen.training.fitter import Fitter, Loss, Rows, TrainingSettings
from jensen.training.game import GameFitter, Player

SMALL_IMAGE = 256


class GAN(Trained, Model):
    """G(z), z ~ N(0, I).

    Args:
        event_shape: of a row.
        space: where rows live.
        latent_dim: numbers in z; None for as many as a row has, from 8 to 64.
        width: of both networks; None for 128 units, or 32 channels.
        depth: their hidden layers, or residual blocks at each size of image; None for 3, or 1.
        penalty: γ a dimension of a row: what is best was seen to grow about as their number does, from 2 to 64.
        network: conv (residual, for images), mlp, or auto: conv for images of at most 16 × 16, beyond which a step takes a
            processor more than a second.
    """

    summary = "a generative adversarial network: samples without a likelihood"
    paper = "Goodfellow et al. 2014; Mescheder et al. 2018; Huang et al. 2024"
    without_likelihood = "its samples are x = G(z), and p(x) is nowhere written down"
    draws = "G(z) of normal z"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        latent_dim: int | None = None,
        width: int | None = None,
        depth: int | None = None,
        penalty: float = 0.5,
        network: Literal["auto", "mlp", "conv"] = "auto",
    ) -> None:
        super().__init__(event_shape, space)
        self.dims = math.prod(event_shape)
        self.latent_dim = _latents(self.dims) if latent_dim is None else latent_dim
        self.penalty = penalty
        _check(self.latent_dim, width, depth, penalty)
        self.networks = networks_of(self.event_shape, network, width, depth)
        self.generator = Generator(self.latent_dim, self.event_shape, self.networks.generator(self.latent_dim))

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The size of z, and the defaults, so that other ones are not another model for a run."""
        event, given = split.event_shape, {k: v for k, v in settings.items() if v is not None}
        networks = networks_of(event, given.get("network", "auto"), given.get("width"), given.get("depth"))
        told = {"latent_dim": _latents(math.prod(event)), "penalty": 0.5, **given}
        return {**told, "network": networks.word, "width": networks.width, "depth": networks.depth}

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

    @classmethod
    def check_training(cls, settings: TrainingSettings) -> None:
        """No stop rule, and the game's own steps."""
        GameFitter.check(settings)

    def fitter(
        self, settings: TrainingSettings, precision: Precision, *, steps: int, held_out: Rows, seed: int
    ) -> Fitter:
        """Both players; the critic is made here and forgotten with the fitter."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(Noise(seed, "critic").uniform([0])[0] * 2**62))
            critic = Critic(self.networks.critic()).to(device())
        self.to(device())
        game = Game(self.generator, critic, self.space, self.penalty * self.dims)
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


class Networks(ABC):
    """What the two players are made of.

    Args:
        event: the shape of a row.
        width, depth: None for the kind's own.
    """

    word: ClassVar[str]
    own: ClassVar[tuple[int, int]]

    def __init__(self, event: tuple[int, ...], width: int | None, depth: int | None) -> None:
        self.event = event
        self.width, self.depth = width or self.own[0], depth or self.own[1]

    @abstractmethod
    def generator(self, latent_dim: int) -> nn.Module:
        """z → rows, flat or not."""

    @abstractmethod
    def critic(self) -> nn.Module:
        """Rows → (B, 1)."""


class Plain(Networks):
    """Perceptrons."""

    word = "mlp"
    own = (128, 3)

    def generator(self, latent_dim: int) -> nn.Module:
        """A perceptron."""
        return Perceptron(latent_dim, math.prod(self.event), width=self.width, depth=self.depth)

    def critic(self) -> nn.Module:
        """A perceptron of the flattened row."""
        return nn.Sequential(nn.Flatten(), Perceptron(math.prod(self.event), 1, width=self.width, depth=self.depth))


class Convolutional(Networks):
    """Residual networks of images."""

    word = "conv"
    own = (32, 1)

    def generator(self, latent_dim: int) -> nn.Module:
        """Up the sizes."""
        return ImageGenerator(latent_dim, self._image, self.width, self.depth)

    def critic(self) -> nn.Module:
        """Down the sizes."""
        return ImageCritic(self._image, self.width, self.depth)

    @property
    def _image(self) -> tuple[int, int, int]:
        channels, height, width = self.event
        return channels, height, width


def networks_of(event: tuple[int, ...], word: str, width: int | None, depth: int | None) -> Networks:
    """The networks a word stands for, for rows of this shape.

    Raises:
        InputError: convolutions for what is no image.
    """
    if word == "conv" and len(event) != 3:
        raise InputError(f"network=conv needs images (C, H, W), got rows of shape {event}; use mlp")
    small = len(event) == 3 and event[1] * event[2] <= SMALL_IMAGE
    kind = Convolutional if word == "conv" or (word == "auto" and small) else Plain
    return kind(event, width, depth)


class Generator(nn.Module):
    """z `(B, latent_dim)` → rows.

    Args:
        latent_dim: of z.
        event_shape: of a row.
        network: z → as many numbers.
    """

    def __init__(self, latent_dim: int, event_shape: tuple[int, ...], network: nn.Module) -> None:
        super().__init__()
        self.latent_dim, self.event_shape, self.network = latent_dim, event_shape, network

    def forward(self, z: Tensor) -> Tensor:
        """G(z)."""
        out = self.network(z)
        assert isinstance(out, Tensor)
        return out.reshape(len(z), *self.event_shape)


class Critic(nn.Module):
    """Rows → `(B,)`.

    Args:
        network: rows → (B, 1).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """D(x)."""
        out = self.network(x)
        assert isinstance(out, Tensor)
        return out[:, 0]


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


def _check(latent_dim: int, width: int | None, depth: int | None, penalty: float) -> None:
    """Refuse what cannot be."""
    rules = {
        "latent_dim": (1 <= latent_dim <= 4096, "from 1 to 4096", latent_dim),
        "width": (width is None or 1 <= width <= 4096, "from 1 to 4096", width),
        "depth": (depth is None or 1 <= depth <= 16, "from 1 to 16", depth),
        "penalty": (0 <= penalty < math.inf, "at least 0 and finite", penalty),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InputError(f"{name} must be {rule}, got {value}")
