"""`vae`: a variational autoencoder (notes 2 and 4; Kingma and Welling 2014; Rezende, Mohamed and Wierstra 2014).

    z ~ p(z),   x | z ~ p(x | z),   log p(x) ≥ E_q[log p(x | z)] - KL(q(z | x) ‖ p(z))

An infinite mixture: of a Gaussian mixture it keeps the sum over components, which is an integral now, and gives up the exact posterior
for q, a network's guess. The bound is below log p(x) by KL(q(z | x) ‖ p(z | x)); many draws (`iwae`) or a chain of them (`ais`) close the gap.
The parts stand in `jensen.vae`; the bounds in `jensen.bounds`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.histogram import cell_counts, cell_means
from jensen.data.space import Levels, Space
from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import FromNoise
from jensen.distributions.picking import picked
from jensen.errors import InputError
from jensen.models.model import (
    ClassGiven,
    Encoder,
    GradientModel,
    Model,
    OnCalls,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.models.scored_by_draws import ROWS, ScoredByDraws
from jensen.nn.perceptron import Activation
from jensen.noise import Noise
from jensen.rules import Rule, Ruled, probabilities
from jensen.training.device import Precision, device
from jensen.training.fitter import Fitter, Rows, TrainingSettings
from jensen.vae.build import Latents, parts_of
from jensen.vae.checks import check_settings, default_draws, default_estimator, refuse_idle
from jensen.vae.diffusion_prior import DiffusionPrior
from jensen.vae.emission import Cells
from jensen.vae.networks import DEFAULT_SIZE, SIZES, Shape, default_latents, default_network, resolved
from jensen.vae.objective import Aim, BoundFitter, BoundObjective, Weight
from jensen.vae.posterior import Posterior, TwoLayers, mean_of
from jensen.vae.prior import StandardNormal, VampPrior
from jensen.vae.words import Said, default_emission

MOST_COUNTED = 1 << 24
CALIBRATION_ROWS, QUANTILE_DRAWS = 1024, 2048


class VAE(GradientModel, ScoredByDraws, Encoder):
    """p(z) ∫ p(x | z) dz, with q(z | x).

    Args:
        event_shape: (C, H, W) for images, anything else is a vector.
        space: of the data, in the model's units.
        latent_dim: numbers in z; None for half as many as a row has, from 2 to 64. With two layers, of the upper one.
        latent_layers: 1, or 2: p(z₂) p(z₁ | z₂) p(x | z₁), with twice as many numbers in z₁; 2 with the diagonal posterior and the normal prior alone.
        posterior: diagonal, full or flow.
        prior: normal, mixture, vamp or diffusion; vamp with the diagonal posterior and no n_classes; of diffusion only the elbo can be told, since
            its log-density is a bound.
        prior_components: of a prior that is a mixture.
        emission: of levels bernoulli, categorical, logistic, logistic-mixture, discretised-normal or poisson; of real values normal,
            normal-mixture or low-rank; or one word a cell with commas between them; auto by the space.
        scale: where the scale of a normal emission comes from: example (the network), scalar, dimension, fixed or optimal.
        sigma: the scale if fixed, and where learning begins, in the model's units; None for a tenth of the spread of the data.
        n_components: of an emission that is a mixture.
        rank: of emission=low-rank.
        network: mlp or conv (images); auto is conv for images of more than 8 × 8.
        size: tiny, small or base.
        width: units, or channels at full resolution; None for the size's.
        depth: hidden layers, or blocks at each lower resolution; None for the size's.
        activation: of perceptrons.
        objective: elbo or iwae.
        draws: of z a row and step; None for 1, 2 for estimator=score, 5 for iwae.
        draws_growth: iwae: the share of the run in which the draws grow from 1 to that many.
        estimator: of the gradient, as in `jensen.bounds.gradients`; auto is dreg for iwae, else reparameterised.
        beta: the weight of the divergence; 1 is the bound.
        beta_warmup: the share of the run in which it rises from 0.
        free_bits: nats of each dimension's divergence that cost nothing.
        n_classes: None for p(x); the number of classes, or auto for as many as the data have, for p(x | y), which both networks are told.
    """

    summary = "a variational autoencoder: a lower bound on log p, and estimates that close its gap"
    paper = "Kingma and Welling 2014; Rezende et al. 2014"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        latent_dim: int | None = None,
        latent_layers: Literal[1, 2] = 1,
        posterior: Literal["diagonal", "full", "flow"] = "diagonal",
        prior: Literal["normal", "mixture", "vamp", "diffusion"] = "normal",
        prior_components: int = 50,
        emission: str = "auto",
        scale: Literal["example", "scalar", "dimension", "fixed", "optimal"] = "scalar",
        sigma: float | None = None,
        n_components: int = 5,
        rank: int = 4,
        network: Literal["auto", "mlp", "conv"] = "auto",
        size: Literal["auto", "tiny", "small", "base"] = "auto",
        width: int | None = None,
        depth: int | None = None,
        activation: Activation = "silu",
        objective: Literal["elbo", "iwae"] = "elbo",
        draws: int | None = None,
        estimator: Literal["auto", "reparameterised", "stl", "dreg", "score"] = "auto",
        beta: float = 1.0,
        beta_warmup: float = 0.0,
        free_bits: float = 0.0,
        draws_growth: float = 0.0,
        n_classes: int | Literal["auto"] | None = None,
    ) -> None:
        super().__init__(event_shape, space)
        check_settings(locals())
        classes = n_classes if isinstance(n_classes, int) else 0
        top = default_latents(self.cells) if latent_dim is None else latent_dim
        word = default_network(self.event_shape) if network == "auto" else network
        own = SIZES[word][DEFAULT_SIZE[word] if size == "auto" else size]
        shape = Shape(
            self.event_shape,
            word,
            own[0] if width is None else width,
            own[1] if depth is None else depth,
            activation,
            classes,
        )
        said = Said(
            default_emission(space) if emission == "auto" else emission, scale, sigma or 0.1, n_components, rank
        )
        self.parts = parts_of(shape, space, said, Latents(top, latent_layers, posterior, prior, prior_components))
        self.numbers_a_row = shape.numbers_a_row(self.parts.emission.observed.outputs)
        self.aim = Aim(
            objective,
            default_draws(objective, estimator) if draws is None else draws,
            default_estimator(objective) if estimator == "auto" else estimator,
            beta,
            beta_warmup,
            free_bits,
            draws_growth,
        )
        self.weight = Weight(beta)

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Sizes by shape and number of rows, the emission by the space."""
        given = {name: value for name, value in settings.items() if value not in ("auto", None)}
        objective = given.get("objective", "elbo")
        refuse_idle({"network": default_network(split.event_shape), "emission": default_emission(space), **given})
        chosen = {
            **resolved(split.event_shape, len(split.train), given),
            "posterior": "diagonal",
            "prior": "normal",
            "emission": default_emission(space),
            "objective": objective,
            "draws": default_draws(objective, given.get("estimator", "auto")),
            "estimator": default_estimator(objective),
        }
        located = given.get("emission", chosen["emission"]) in ("normal", "discretised-normal")
        if located:
            chosen |= {"scale": "scalar", "sigma": 0.1}
        classes = {"n_classes": _classes_of(split, settings["n_classes"])} if settings.get("n_classes") else {}
        return {**chosen, **{name: value for name, value in given.items() if name != "size"}, **classes}

    @classmethod
    def kind_for(cls, options: Mapping[str, Any]) -> type[Model]:
        """With classes, a model of given classes."""
        return ClassVAE if options.get("n_classes") else cls

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """Batch sizes that suit the networks."""
        rows = len(split.train)
        return TrainingSettings(
            batch_size=min(128 if options["network"] == "conv" else 256, max(1, rows // 4)), lr=2e-3
        )

    @torch.no_grad()
    def initialise(self, train: Rows) -> None:
        """The encoder's origin at the mean row; the decoder at the law of every cell by itself; a vamp prior at training rows."""
        mean = cell_means(train)
        self._encoder.mean.copy_(mean)
        counts = None
        if isinstance(self.space, Levels) and self.space.k * self.cells <= MOST_COUNTED:
            counts = 0.5 + cell_counts(train, self.space, self.cells)
        start = self.parts.emission.observed.start(mean.flatten(), counts)
        self.parts.emission.network.start(start)
        prior = self.parts.prior
        if isinstance(prior, VampPrior):
            order = Noise(0, "pseudo rows").permutation(len(train))
            rows = order.repeat(-(-len(prior.pseudo_rows) // len(order)))[: len(prior.pseudo_rows)]
            prior.pseudo_rows.copy_(train.batch(rows).x)

    @property
    def _encoder(self) -> Posterior:
        posterior = self.parts.posterior
        return posterior.first if isinstance(posterior, TwoLayers) else posterior

    def objective(self) -> BoundObjective:
        """Minus the bound, a dimension."""
        return BoundObjective(self.parts, self.aim, self.weight)

    def fitter(
        self, settings: TrainingSettings, precision: Precision, *, steps: int, held_out: Rows, seed: int
    ) -> Fitter:
        """AdamW on a bound that is reached step by step, if so asked."""
        objective = self.objective().to(device())
        objective.at(0.0)
        return BoundFitter(objective, settings, precision, steps=steps, held_out=held_out, seed=seed)

    @torch.no_grad()
    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """The optimal σ of validation rows, where it is closed-form; the last step of a diffusion prior."""
        prior = self.parts.prior
        if isinstance(prior, DiffusionPrior) and len(valid):
            batch = valid.batch(slice(0, CALIBRATION_ROWS))
            q = self._posterior_of(batch.x, batch.context)
            noise = Noise(seed, "calibrate")
            prior.calibrate(self._code(q, batch, noise), noise.at("prior"))
        observed = self.parts.emission.observed
        if len(valid) and isinstance(observed, Cells) and observed.optimal:
            observed.set_optimal(self._squared_error(valid, seed))

    def _squared_error(self, rows: Rows, seed: int) -> Float64[Tensor, " cells"]:
        """E_q (x - E[x | z])² of each cell."""
        self.eval()
        total, weight = torch.zeros(self.cells, dtype=torch.float64), 0.0
        for start in range(0, len(rows), 256):
            batch = rows.batch(slice(start, start + 256))
            z = self._code(self._posterior_of(batch.x, batch.context), batch, Noise(seed, "optimal"))
            error = (batch.x - self.emitted(z, batch.context).mean).double().square().flatten(1)
            total += (batch.weights().to(error) @ error).cpu()
            weight += float(batch.weights().sum())
        return total / weight

    def _code(self, q: FromNoise, batch: Batch, noise: Noise) -> Tensor:
        """A draw of each row's code `(B, D)`, in the precision of x; q may have another."""
        return q.place(noise.normal(batch.id, (self.latent_dim,)).to(batch.x.device, torch.float64)).to(batch.x)

    def _posterior_of(self, x: Tensor, context: Tensor | None = None) -> FromNoise:
        q = self.parts.given(context).posterior(x)
        assert isinstance(q, FromNoise)
        return q

    def trained(self) -> str:
        """With which weight of the divergence, if not by the bound."""
        now = float(self.weight.now)
        weighted = "" if now == 1 else f"the divergence weighted {now:.3g}"
        free = f"{self.aim.free_bits:g} nats a dimension free" if self.aim.free_bits else ""
        how = " and ".join(part for part in (weighted, free) if part)
        return f"trained with {how}, not by the bound" if how else ""

    def warning(self) -> str | None:
        """What is not the bound about the training, or not the number that is shown first."""
        for name, value, plain in (("beta", self.aim.beta, 1.0), ("free_bits", self.aim.free_bits, 0.0)):
            if value != plain:
                return f"{name}={value:g} trains for another objective than the bound; the likelihood stays a bound and says so"
        if self.aim.objective == "iwae":
            draws = self.aim.draws
            return f"objective=iwae trains for the bound of {draws} draws; the likelihood shown first is the elbo, and that bound is --method iwae --set draws={draws}"
        return None

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """z ~ p(z), x ~ p(x | z)."""
        self.eval()
        noise = sample_noise(seed)
        size = min(256, self._together(1))
        ids = sample_ids(n, start)
        y = self.classes_to_draw(context, ids, noise)
        return in_blocks(lambda block, own: self._drawn(block, own, noise), size, ids, y)

    def classes_to_draw(self, context: Tensor | None, ids: Tensor, noise: Noise) -> Tensor:
        """The classes to draw from; of a model without them nothing is looked at."""
        return torch.zeros_like(ids)

    def _drawn(self, ids: Tensor, context: Tensor, noise: Noise) -> Tensor:
        z = self.parts.prior.draw(ids, noise.at("z")).to(self.device)
        u = noise.at("x").uniform(ids, (self.cells, 2)).to(self.device)
        return self.emitted(z, context.to(self.device)).draw(u)

    @property
    def latent_dim(self) -> int:
        """Of all layers together, the lowest first."""
        return self.parts.prior.dims

    @torch.no_grad()
    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """E[z | x]; of a family without one in closed form, the mean of 64 draws."""
        self.eval()
        return torch.cat([mean_of(self._posterior_of(rows.double(), y)) for rows, y in _parts(x, context)])

    @torch.no_grad()
    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x | z]."""
        self.eval()
        return torch.cat([self.emitted(part.double(), y).mean.double() for part, y in _parts(z, context)])

    @torch.no_grad()
    def code_quantiles(self, p: Tensor) -> Tensor:
        """Those of p(z), a number at a time: of draws, where it is not N(0, I)."""
        self.eval()
        prior = self.parts.prior
        if isinstance(prior, StandardNormal):
            return super().code_quantiles(p)
        z = prior.draw(torch.arange(QUANTILE_DRAWS), Noise(0, "quantiles")).double().cpu()
        return z.quantile(p.double(), dim=0)

    @property
    def prior(self) -> Conditional:
        """p(z)."""
        return self.parts.prior

    @property
    def emission(self) -> Conditional:
        """p(x | z)."""
        return self.parts.emission

    @property
    def posterior(self) -> Conditional:
        """q(z | x)."""
        return self.parts.posterior


class ClassVAE(VAE, ClassGiven, Ruled):
    """p(x | y) = ∫ p(z) p(x | z, y) dz: a VAE whose networks are told the class (Sohn, Lee and Yan 2015).

    Args:
        event_shape: as for VAE.
        space: likewise.
        **options: likewise; n_classes is the number of classes.
    """

    frequencies: Tensor

    def __init__(self, event_shape: tuple[int, ...], space: Space, **options: Any) -> None:
        super().__init__(event_shape, space, **options)
        classes = self.parts.classes
        self.register_buffer("frequencies", torch.full((classes,), 1 / classes, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Frequencies of the classes."""
        return {"frequencies": probabilities()}

    @property
    def n_classes(self) -> int:
        """K."""
        return self.parts.classes

    def initialise(self, train: Rows) -> None:
        """As VAE, and the classes' frequencies."""
        super().initialise(train)
        codes = torch.cat([class_codes_of(train.batch(slice(i, i + 4096))) for i in range(0, len(train), 4096)])
        counts = torch.bincount(codes, minlength=self.n_classes).double()
        self.frequencies.copy_(counts / counts.sum())

    def classes_to_draw(self, context: Tensor | None, ids: Tensor, noise: Noise) -> Tensor:
        """Those given, or as frequent as in the training rows."""
        if context is not None:
            return context.cpu()
        return picked(self.frequencies.cpu(), noise.at("y").uniform(ids))


def class_codes_of(batch: Batch) -> Tensor:
    """The classes of rows that must have them."""
    if batch.context is None:
        raise InputError("a model of given classes learns from rows with classes, and these have none")
    return batch.context.cpu()


def _classes_of(split: Split, asked: int | str) -> int:
    """How many classes the data have."""
    codes = split.train.context
    if codes is None:
        raise InputError(
            "n_classes is for data with classes, and these have none; name a table's column of classes with --label, put images "
            "into a folder a class, or leave n_classes out"
        )
    classes = max(len(split.class_names), int(codes.max()) + 1)
    if asked not in ("auto", classes):
        raise InputError(f"n_classes is that of the data, {classes}, got {asked}; say auto")
    return classes


def _parts(rows: Tensor, context: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows and their classes, some at a time."""
    for at in torch.arange(len(rows)).split(ROWS):
        yield rows[at], None if context is None else context[at]
