"""`autoencoder`: two networks and no probabilities (note 2).

    min E ‖x - g(f(x))‖² / d

It learns a code and no p(x): nothing says which z belong together with which weight, so it has no likelihood. With linear networks it finds
the space of the principal components (Baldi and Hornik 1989). `sample` decodes draws of a normal fitted to the codes of validation
rows, which is a makeshift: where the codes are not normal, neither are the rows it makes like the data. A VAE has the prior in its
objective.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.histogram import cell_means
from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.models.model import Encoder, GradientModel, Model, OnCalls, nothing, sample_ids, sample_noise
from jensen.nn.perceptron import Activation
from jensen.noise import Noise
from jensen.rules import FINITE, LOWER_TRIANGULAR, Rule, Ruled
from jensen.training.fitter import Objective, Rows, TrainingSettings
from jensen.vae.networks import DEFAULT_SIZE, SIZES, Shape, default_latents, default_network, resolved

MOST_LATENTS = 4096
ROWS, BLOCK = 256, 32  # scored, and drawn, together


class Autoencoder(GradientModel, Model, Encoder, Ruled):
    """g(f(x)).

    Args:
        event_shape: (C, H, W) for images, anything else is a vector.
        space: of the data, in the model's units.
        latent_dim: numbers in the code; None for half as many as a row has, from 2 to 64.
        network: mlp or conv (images); auto is conv for images of more than 8 × 8.
        size: tiny, small or base.
        width: units, or channels at full resolution; None for the size's.
        depth: hidden layers, or blocks at each lower resolution; None for the size's; 0 with mlp is linear.
        activation: of perceptrons.
    """

    summary = "a plain autoencoder: codes and reconstructions, no likelihood"
    paper = "Baldi and Hornik 1989; Hinton and Salakhutdinov 2006"
    without_likelihood = "it learns a code for every row and no distribution of rows"
    code_law = "a normal fitted to the codes"
    generation = "z ~ a normal fitted to the codes of validation rows, x = g(z): a makeshift, since it has no p(z)"
    draws = "decoded draws of a normal fitted to the codes"
    mean: Tensor
    code_mean: Tensor
    code_factor: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        latent_dim: int | None = None,
        network: Literal["auto", "mlp", "conv"] = "auto",
        size: Literal["auto", "tiny", "small", "base"] = "auto",
        width: int | None = None,
        depth: int | None = None,
        activation: Activation = "silu",
    ) -> None:
        super().__init__(event_shape, space)
        word = default_network(self.event_shape) if network == "auto" else network
        own = SIZES[word][DEFAULT_SIZE[word] if size == "auto" else size]
        shape = Shape(
            self.event_shape, word, own[0] if width is None else width, own[1] if depth is None else depth, activation
        )
        dims = default_latents(shape.cells) if latent_dim is None else latent_dim
        if not 1 <= dims <= MOST_LATENTS:
            raise InputError(f"latent_dim must be from 1 to {MOST_LATENTS}, got {dims}")
        shape.check(dims, dims, 1)
        self.dims = dims
        self.encoder, self.decoder = shape.encoder(dims), shape.decoder(dims, 1)
        self.register_buffer("mean", torch.zeros(self.event_shape))
        self.register_buffer("code_mean", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("code_factor", torch.eye(dims, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Any mean, a Cholesky factor."""
        return {"mean": FINITE, "code_mean": FINITE, "code_factor": LOWER_TRIANGULAR}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes by shape and number of rows."""
        given = {name: value for name, value in settings.items() if value not in ("auto", None)}
        if len(split.valid) < 2:
            raise InputError(
                f"an autoencoder needs at least 2 validation rows, whose codes its draws are modelled on, got {len(split.valid)}; "
                "give it more rows"
            )
        if "activation" in given and given.get("network", default_network(split.event_shape)) != "mlp":
            raise InputError(
                f"activation is for network=mlp, and would change nothing here, got {given['activation']}; leave it out"
            )
        return resolved(split.event_shape, len(split.train), given)

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """Batch sizes that suit the networks."""
        size = 128 if options["network"] == "conv" else 256
        return TrainingSettings(batch_size=min(size, max(1, len(split.train) // 4)), lr=2e-3)

    @torch.no_grad()
    def initialise(self, train: Rows) -> None:
        """Both networks at the mean row."""
        mean = cell_means(train)
        self.mean.copy_(mean)
        self.decoder.start(mean.flatten()[:, None].float())

    def objective(self) -> Objective:
        """The squared error."""
        return SquaredError(self)

    @torch.no_grad()
    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """A normal for the codes of validation rows, its covariance shrunk (Ledoit and Wolf 2004)."""
        from sklearn.covariance import ledoit_wolf

        starts = range(0, len(valid), ROWS)
        codes = torch.cat([self.encode(valid.batch(slice(i, i + ROWS)).x) for i in starts]).cpu()
        covariance = torch.from_numpy(ledoit_wolf(codes.numpy())[0]) + 1e-9 * torch.eye(self.dims, dtype=torch.float64)
        self.code_mean.copy_(codes.mean(0))
        self.code_factor.copy_(torch.linalg.cholesky(covariance))

    @property
    def latent_dim(self) -> int:
        """Numbers in the code."""
        return self.dims

    def code(self, x: Tensor) -> Tensor:
        """f(x), in the network's precision."""
        out = self.encoder(x.to(self.mean) - self.mean)
        assert isinstance(out, Tensor)
        return out

    def rebuilt(self, z: Tensor) -> Tensor:
        """g(z), `(B, *event)`."""
        out = self.decoder(z.to(self.mean))
        assert isinstance(out, Tensor)
        return out[..., 0].unflatten(1, self.event_shape)

    @torch.no_grad()
    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """f(x)."""
        self.eval()
        return self.code(x).double()

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """g(z)."""
        self.eval()
        return self.rebuilt(z).double()

    def code_quantiles(self, p: Tensor) -> Tensor:
        """Those of the normal of codes, a number at a time."""
        spread = self.code_factor.square().sum(1).sqrt().cpu()
        return self.code_mean.cpu() + torch.special.ndtri(p.double())[:, None] * spread

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """g of draws of the normal of codes; on levels the nearest one."""
        noise = sample_noise(seed)
        return in_blocks(lambda ids: self._drawn(ids, noise), BLOCK, sample_ids(n, start))

    def _drawn(self, ids: Tensor, noise: Noise) -> Tensor:
        eps = noise.normal(ids, (self.dims,)).double().to(self.device)
        x = self.decode(self.code_mean + eps @ self.code_factor.T)
        if isinstance(self.space, Levels):
            return self.space.first + self.space.step * self.space.index(x).double()
        return x


class SquaredError(Objective):
    """‖x - g(f(x))‖² / d of each row.

    Args:
        model: both networks.
    """

    watched = "minus squared error"

    def __init__(self, model: Autoencoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        x = batch.x.float()
        return (self.model.rebuilt(self.model.code(x)).float() - x).square().flatten(1).mean(1)

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Minus the error: what the stop rule watches, and no likelihood."""
        return {"minus squared error": -self(batch, noise)}
