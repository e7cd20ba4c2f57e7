"""Regression with error bars: p(y | x) by maximum likelihood, as a linear regression that a network bends.

    θ̂ = argmax_θ Σ_i log p(y_i | x_i; θ)

for the mixtures of normals of `distributions.mixture_density`: one component is regression with μ(x) and Σ(x), several are
a mixture density network. Training begins at the linear regression of the training rows (`estimation.linear`), watches rows
that are held out and keeps the weights under which they are most likely, those of step 0 among them: where the rows tell no
more, the linear regression is what comes out. Weight decay pulls towards it too, the more the fewer rows there are.
"""

import torch
from torch import Tensor

from jensen.data.examples import Batch, Examples
from jensen.distributions.mixture_density import Covariance, MixtureDensity, outputs_of
from jensen.errors import InputError
from jensen.estimation.conditional import Regression
from jensen.estimation.linear import fit_linear
from jensen.estimation.pairs import Array, examples, held_out, pair, table
from jensen.nn.mlp import MLP
from jensen.noise import Noise
from jensen.training.device import precision
from jensen.training.fitter import GradientFitter, Objective, TrainingSettings
from jensen.training.loop import Loop, evaluation_interval

FEW_ROWS = 1000
MOST_CELLS = 1 << 16  # of the factors L of one row


class RegressionObjective(Objective):
    """-log p(y | x) / D of each row; a batch's x is y, and its context is x."""

    def __init__(self, model: MixtureDensity) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        return -self._log_prob(batch) / self.model.dims

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """log p(y | x) of each row."""
        return {"log p": self._log_prob(batch)}

    def _log_prob(self, batch: Batch) -> Tensor:
        assert batch.context is not None
        return self.model(batch.context).log_prob(batch.x)


def fit_regression(
    x: Array,
    y: Array,
    *,
    n_components: int = 1,
    covariance: Covariance = "full",
    width: int = 64,
    depth: int = 1,
    dropout: float = 0.1,
    steps: int = 1000,
    lr: float = 1e-3,
    weight_decay: float | None = None,
    valid: float | tuple[Array, Array] = 0.2,
    seed: int = 0,
) -> Regression:
    """Fit p(y | x).

    Args:
        x: rows `(n, F)` or `(n,)`, finite.
        y: targets `(n, D)` or `(n,)`, finite.
        n_components: 1 for a normal with mean and covariance that depend on x, more for a mixture of such.
        covariance: of each component over several targets, full or diag.
        width: units of the network.
        depth: its residual blocks.
        dropout: in them.
        steps: at most so many; 0 for the linear regression with one covariance, of all rows.
        lr: peak learning rate.
        weight_decay: the pull towards the linear regression; None for 1 below 1000 training rows and 0.01 from there on.
        valid: the rows that are watched: a share of those given, or an x and a y of their own.
        seed: of the share, the weights, the order of rows and dropout.

    Returns:
        The fit.

    Raises:
        InputError: values that are missing or do not go together, too few rows, a constant target, settings that cannot be.
        FitError: training broke down.

    Example:
        >>> x = torch.linspace(0, 1, 50)
        >>> fit = fit_regression(x, 3 * x + 1, steps=0)
        >>> round(float(fit.mean([[2.0]])), 3)
        7.0
    """
    rows = examples(*pair(table("x", x), table("y", y)))
    _check(rows.x.shape[1], n_components, covariance, width, depth, dropout, steps)
    train, watched = _parts(rows, valid, steps, seed)
    model = _begun(train, n_components, covariance, width, depth, dropout, seed)
    if not steps:
        return Regression(model.requires_grad_(False).eval())
    decay = weight_decay if weight_decay is not None else 1.0 if len(train) < FEW_ROWS else 0.01
    batch_size = min(128, max(1, len(train) // 2))
    settings = TrainingSettings(batch_size=batch_size, lr=lr, weight_decay=decay, precision="float32")
    settings.check(len(train))
    arithmetic = precision(settings.precision)
    objective = RegressionObjective(model)
    fitter = GradientFitter(objective, settings, arithmetic, steps=steps, held_out=watched, seed=seed)
    Loop(fitter, train, seed=seed, every=evaluation_interval(steps)).go()
    fitter.keep_best()
    return Regression(model.requires_grad_(False).eval(), fitter.last(), fitter.stages.best)


def _parts(rows: Examples, valid: float | tuple[Array, Array], steps: int, seed: int) -> tuple[Examples, Examples]:
    """Rows to train on and rows to watch; a fit without steps watches none."""
    assert rows.context is not None
    if isinstance(valid, tuple):
        x, y = table("x of valid", valid[0], rows.context.shape[1]), table("y of valid", valid[1], rows.x.shape[1])
        return rows, examples(*pair(x, y))
    return held_out(rows, valid, seed) if steps else (rows, rows)


def _begun(
    train: Examples, n_components: int, covariance: Covariance, width: int, depth: int, dropout: float, seed: int
) -> MixtureDensity:
    """The model before its first step: the linear regression."""
    assert train.context is not None
    features, dims = train.context.shape[1], train.x.shape[1]
    linear = fit_linear(train.context, train.x, correlated=covariance == "full")
    outputs = outputs_of(dims, n_components, covariance)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(Noise(seed, "weights").uniform([0])[0] * 2**62))
        # Fourier features are for sharp structure, and few rows cannot show it
        network = MLP(features, outputs, width=width, depth=depth, dropout=dropout, frequencies=0, noise_level=False)
    model = MixtureDensity(network, features, dims, n_components=n_components, covariance=covariance)
    model.begin(linear.shift, linear.scale, linear.intercept, linear.slope, linear.factor)
    return model


def _check(dims: int, n_components: int, covariance: str, width: int, depth: int, dropout: float, steps: int) -> None:
    """Refuse what cannot be, and what would not fit in memory."""
    rules = {
        "n_components": (1 <= n_components <= 1024, "from 1 to 1024", n_components),
        "covariance": (covariance in ("full", "diag"), "full or diag", covariance),
        "width": (1 <= width <= 4096, "from 1 to 4096", width),
        "depth": (0 <= depth <= 16, "from 0 to 16", depth),
        "dropout": (0 <= dropout < 1, "in [0, 1)", dropout),
        "steps": (0 <= steps <= 10**9, "from 0 to 10^9", steps),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InputError(f"{name} must be {rule}, got {value!r}")
    cells = n_components * dims**2
    if cells > MOST_CELLS:
        raise InputError(
            f"{n_components} covariances of {dims} targets have {cells:,} cells for every row, at most {MOST_CELLS:,} are "
            "allowed; take fewer components or targets"
        )
