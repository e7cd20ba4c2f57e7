"""The contracts: what a model can do is said by its type.

`Model` samples; `DensityModel` also gives log-likelihoods; `LatentModel` also shows prior, emission and posterior; an `Encoder` has
a code for every row.
`ClosedForm` models fit in one go, `Trained` ones give a fitter to the training loop, `GradientModel`s by an objective. Models work in a codec's
units; `Pipeline` brings them to data units. Constructors take the event shape and the space, then plain keywords that
JSON can hold, so that a run's config rebuilds the model; `initialise`, `fit` and `calibrate` learn from data.
"""

import inspect
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.data.codec import Affine, identity
from jensen.data.examples import Batch, Split
from jensen.data.space import Levels, Real, Space
from jensen.distributions.conditional import Conditional, Responsible, Weighted
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise
from jensen.training.device import Precision, device
from jensen.training.fitter import Fitter, GradientFitter, Objective, Rows, TrainingSettings

OnCalls = Callable[[int], None]
ENOUGH_CELLS = 1 << 18


def nothing(calls: int) -> None:
    """The watcher that does not watch."""


class Model(nn.Module, ABC):
    """A generative model of rows of shape `event_shape` in `space`, both in the model's units.

    Class attributes:
        summary: what it is, in a line.
        paper: where it is from.
        spaces: the kinds of space it scores by itself.
        accepts_missing: whether NaN cells are marginalised; if not they are refused.
        seeded: whether another seed of the fit gives another model.
        without_likelihood: why it has none, if it has none.
        draws: what its samples are, in words.
    """

    summary: ClassVar[str]
    paper: ClassVar[str]
    spaces: ClassVar[tuple[type, ...]] = (Levels, Real)
    accepts_missing: bool = False
    seeded: ClassVar[bool] = True
    without_likelihood: ClassVar[str] = ""
    draws: ClassVar[str] = "exact draws"

    def __init__(self, event_shape: tuple[int, ...], space: Space) -> None:
        super().__init__()
        self.event_shape, self.space = tuple(event_shape), space

    @property
    def device(self) -> torch.device:
        """Where its tensors are; rows come there in their batches."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.zeros(0)).device

    def warning(self) -> str | None:
        """What a user should know about the model before it is fitted, in a line, or None."""
        return None

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """The codec this family wants for these data."""
        return identity()

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The constructor's keywords for these data, every "auto" replaced by what was chosen."""
        return dict(settings)

    @classmethod
    def kind_for(cls, options: Mapping[str, Any]) -> "type[Model]":
        """The class whose constructor these options are for: another one where they say that the model can do more."""
        return cls

    @abstractmethod
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """Draw n rows `(n, *event_shape)`: numbers start … start + n - 1 of the endless sequence that seed names."""


class DensityModel(Model):
    """A model with log p(x), exact or bounded."""

    methods: ClassVar[tuple[str, ...]] = ("exact",)

    def plan(
        self, pilot: Batch, rows: int, *, method: str | None = None, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """The keywords of `log_likelihood` that bring the Monte-Carlo error of the mean over `rows` rows to
        `tolerance` nats, from a pilot of a few of them in the model's units; options the user fixed stay.
        """
        return options

    def cost(self, plan: Mapping[str, Any], method: str | None = None) -> int:
        """How often `log_likelihood` with this plan tells `on_calls` of a row."""
        return 1

    @abstractmethod
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
        """log p(x) of rows `x (B, *event_shape)` in the model's units, one value a row.

        Args:
            x: the rows.
            context: what they are conditioned on.
            method: one of `methods`; the first if None.
            ids: the rows' ids, which key their noise; 0 … B-1 if None.
            seed: of the noise.
            on_calls: told how many rows each network call held.
            **plan: what `plan` returned.
        """

    def method_or_default(self, method: str | None) -> str:
        """The method, checked."""
        if method is not None and method not in self.methods:
            raise InputError(f"method must be one of {', '.join(self.methods)} for this model, got {method!r}")
        return method or self.methods[0]


class LatentModel(DensityModel):
    """p(x, z) = p(z) p(x | z), with q(z | x)."""

    @property
    @abstractmethod
    def prior(self) -> Conditional:
        """p(z)."""

    @property
    @abstractmethod
    def emission(self) -> Conditional:
        """p(x | z)."""

    @property
    @abstractmethod
    def posterior(self) -> Conditional:
        """q(z | x)."""


class Encoder(ABC):
    """A model with a code z for every row, and a row for every z: a vector of `latent_dim` numbers.

    Attributes:
        code_law: in words, what z is drawn from where rows are made.
        generation: in words, how `sample` makes a row.
    """

    code_law: str = "p(z)"
    generation: str = "z ~ p(z), x ~ p(x | z)"

    @property
    @abstractmethod
    def latent_dim(self) -> int:
        """How many numbers z has."""

    @abstractmethod
    def encode(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The code of each row: the mean of q(z | x) where z is drawn, else z itself.

        Args:
            x: rows `(B, *event_shape)` in the model's units.
            context: what they are conditioned on.

        Returns:
            `(B, latent_dim)`.
        """

    @abstractmethod
    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The mean row E[x | z] of each code `(B, latent_dim)`, `(B, *event_shape)` in the model's units."""

    def code_quantiles(self, p: Float[Tensor, " n"]) -> Float[Tensor, "n D"]:
        """The quantiles of each number of z under `code_law`, float64; those of N(0, I) unless a model says otherwise.

        Args:
            p: probabilities, inside (0, 1).
        """
        return torch.special.ndtri(p.double())[:, None].expand(-1, self.latent_dim)

    def code_effects(self) -> Float[Tensor, " D"]:
        """How far the mean row goes for one unit of each number of z, float64, where that is the same everywhere; else ones."""
        return torch.ones(self.latent_dim, dtype=torch.float64)


class ComponentModel(LatentModel):
    """A latent-variable model whose latent is one of K components: it clusters.

    Attributes:
        weights: p(z = k), `(K,)` float64.
    """

    weights: Tensor

    @abstractmethod
    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z = k) of the observed cells of rows `(B, *event_shape)`, `(B, K)` float64."""

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(z = k | x), `(B, K)`; NaN in a row of which p(x) = 0, where 0/0 says nothing of any component."""
        return self.log_joint(x).softmax(1)

    @property
    def prior(self) -> Conditional:
        """p(z)."""
        return Weighted(self.weights)

    @property
    def posterior(self) -> Conditional:
        """p(z | x), exact."""
        return Responsible(self.log_joint)


class ClassConditional(ABC):
    """A model that takes classes as its context: codes 0, …, n_classes - 1, one a row. Given them, `log_likelihood` is
    log p(x | y) and `sample` draws from p(x | y). One that is a `ComponentModel` too has p(y): its components are the
    classes, and its responsibilities p(y | x).
    """

    @property
    @abstractmethod
    def n_classes(self) -> int:
        """How many classes there are."""


class ClassGiven(ClassConditional):
    """A model that has a law of rows for every class and says nothing of rows whose class is not known: `log_likelihood` is log p(x | y)
    alone. Drawn without a class, rows have classes as frequent as in the training rows.
    """


class Imputer(ABC):
    """A model that fills in missing cells."""

    @abstractmethod
    def impute(self, x: Tensor, draws: int | None = None, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """Missing (NaN) cells filled in; observed cells are as they were.

        Args:
            x: rows `(B, *event_shape)`.
            draws: None for the conditional mean E[x_m | x_o]; a number for that many draws from p(x_m | x_o).
            ids: the rows' ids, which key their draws; 0 … B-1 if None.
            seed: of the draws.

        Returns:
            `(B, *event_shape)`, or `(draws, B, *event_shape)`, float64.
        """


class Conditioner(Imputer):
    """A model whose conditionals are models that can be written down: it fills in cells, and says how likely they are."""

    @abstractmethod
    def conditional(self, values: Mapping[int, float]) -> Model:
        """p(the other columns | these columns) as a model of the columns that are left, in their order.

        Args:
            values: column number of the flattened row → value, in the model's units.

        Raises:
            InputError: no such column, all columns or none, a value that is not finite.
        """


@dataclass(frozen=True)
class Watch:
    """Who waits for a fit: `say` is told what happens, a line at a time, `step` where an iteration stands."""

    say: Callable[[str], None]
    step: Callable[[str], None]


UNWATCHED = Watch(lambda line: None, lambda note: None)


class ClosedForm(ABC):
    """A model that fits itself to convergence: its maximum-likelihood (or shrunk) fit is a formula, or EM.

    Class attributes:
        fits_in_float32: whether it takes rows of float32 data in float32 when it fits, for half the memory and time; it scores in
            float64 all the same.
    """

    fits_in_float32: ClassVar[bool] = False

    @abstractmethod
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Learn from training rows in the model's units, a batch at a time.

        Args:
            train: the rows to learn from.
            valid: rows for choices such as the number of components.
            seed: of starts.
            watch: told how it goes, where it takes time.
        """

    @property
    def iterative(self) -> bool:
        """Whether the fit takes iterations that are worth watching."""
        return False

    def resolved(self) -> dict[str, Any]:
        """Constructor keywords that fitting has settled: the config says them instead of "auto"."""
        return {}

    def report(self) -> dict[str, Any]:
        """What the fit has to say about itself, JSON-able; empty for a formula."""
        return {}


class Trained(ABC):
    """A model that the training loop trains, step by step, by a fitter of its own."""

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """The default training settings for these data and model options."""
        return TrainingSettings()

    @classmethod  # noqa: B027 (most models have a use for all of them)
    def check_training(cls, settings: TrainingSettings) -> None:
        """Refuse settings of training that this family has no use for."""

    def initialise(self, train: Rows) -> None:  # noqa: B027 (most models have nothing to do here)
        """Set what has a good start in closed form, from training rows in the model's units."""

    @abstractmethod
    def fitter(
        self, settings: TrainingSettings, precision: Precision, *, steps: int, held_out: Rows, seed: int
    ) -> Fitter:
        """What the loop calls to improve this model, whose parameters it shares.

        Args:
            settings: rates and sizes.
            precision: the arithmetic of the networks.
            steps: the planned number of steps.
            held_out: rows to watch, in the model's units.
            seed: of all noise.
        """

    def calibration_calls(self, rows: int) -> int:
        """How many network rows `calibrate` will look at, given that many validation rows."""
        return 0

    @abstractmethod
    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """Measure on validation rows what is not trained."""


class Calibratable(Trained):
    """A trained model that can be calibrated anew, in other ways and on more rows than its fit did.

    Class attributes:
        calibrations: words of the ways.
    """

    calibrations: ClassVar[tuple[str, ...]]

    @abstractmethod
    def calibrated_by(self, word: str) -> None:
        """Take up what a way keeps, uncalibrated as yet."""

    @abstractmethod
    def calibration(self) -> dict[str, Tensor]:
        """The tensors that `calibrate` sets, by their names in `state_dict`."""


class GradientModel(Trained):
    """A model trained by the gradient of one objective, which held-out rows watch."""

    @abstractmethod
    def objective(self) -> Objective:
        """What to minimise; shares its parameters with this model."""

    def fitter(
        self, settings: TrainingSettings, precision: Precision, *, steps: int, held_out: Rows, seed: int
    ) -> Fitter:
        """AdamW on the objective."""
        objective = self.objective().to(device())
        return GradientFitter(objective, settings, precision, steps=steps, held_out=held_out, seed=seed)


def enough_rows(event_shape: tuple[int, ...], most: int) -> int:
    """How many rows to look at for a picture or a mean: at most `most`, fewer where rows are large, since each then costs
    more and says more; at least 16.
    """
    return max(16, min(most, ENOUGH_CELLS // math.prod(event_shape)))


def settings_of(kind: type, *, with_training: bool = False) -> dict[str, inspect.Parameter]:
    """The keywords `--set` may give for a class: its constructor's keyword-only parameters, and the training settings
    of models that are trained.
    """
    parameters = inspect.signature(kind).parameters.values()
    own = {p.name: p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    return own | (dict(inspect.signature(TrainingSettings).parameters) if with_training else {})


def keywords(method: Callable[..., Any], without: tuple[str, ...]) -> list[str]:
    """The names of the options a method takes by keyword alone, without some."""
    parameters = inspect.signature(method).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in without]


def shown_default(parameter: inspect.Parameter) -> str:
    """A parameter's default as a person would type it."""
    return "auto" if parameter.default is None else str(parameter.default)


def row_ids(x: Tensor, ids: Tensor | None) -> Tensor:
    """The ids, or 0 … B-1."""
    return torch.arange(len(x)) if ids is None else ids


def sample_ids(n: int, start: int) -> Tensor:
    """The numbers of n samples."""
    if n < 1:
        raise InputError(f"the number of samples must be at least 1, got {n}")
    return torch.arange(start, start + n)


def sample_noise(seed: int) -> Noise:
    """The stream that samples draw from."""
    return Noise(seed, "sample")
