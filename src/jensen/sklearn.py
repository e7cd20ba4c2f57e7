"""scikit-learn estimators: the exact models behind scikit-learn's conventions, for pipelines and grid searches.

Thin: each estimator makes a `Split` whose training rows are X, calls `jensen.fit`, and keeps the `Pipeline` it gets in
`pipeline_`. Everything is in the units of X; `score_samples` is log p(x) in nats, `score` its mean.

    from jensen.sklearn import GaussianMixture
    mixture = GaussianMixture(n_components=3, random_state=0).fit(X)
    mixture.score_samples(X), mixture.predict_proba(X), mixture.sample(10)

`MixtureDensityRegressor` is a regressor instead, `jensen.estimation.regression` behind the same conventions.

An `InputError` is a `ValueError`, as scikit-learn expects.
"""

import warnings
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, DensityMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from jensen.data.examples import Examples, Split
from jensen.data.space import Real
from jensen.distributions.mixture_density import Covariance
from jensen.errors import InputError
from jensen.estimation.regression import fit_regression
from jensen.fitting import fit
from jensen.kernel_density.kernels import Word
from jensen.models import gmm, kde, model_class
from jensen.models.pipeline import Pipeline

__all__ = ["Gaussian", "GaussianMixture", "Independent", "KernelDensity", "MixtureDensityRegressor"]

Array = NDArray[Any]
ROWS = 4096  # at a time


class _Density(DensityMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What the estimators share; a subclass names the model's word, and has its keywords as its own."""

    word: ClassVar[str]
    random_state: Any

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to rows X `(n, d)`; y is ignored.

        Raises:
            ValueError: X or the weights cannot be fitted; the message says why and what to do.
        """
        x = self._checked(X, reset=True)
        weight = None
        if sample_weight is not None:
            found = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
            x, weight = x[found > 0], torch.from_numpy(found[found > 0])
        train = Examples(torch.from_numpy(x), torch.arange(len(x)), weight=weight)
        split = Split(train, train, train, Real(), facts={"source": "array"})
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        self.table_: Any = type(X) if hasattr(X, "columns") and hasattr(X, "iloc") else None
        self.pipeline_ = fit(split, self.word, seed=int(seed), progress=False, **self._settings())
        how = self.pipeline_.config.get("fit", {})
        if how and not how["converged"]:
            told = f"EM stopped after {how['iterations']} iterations without having converged; raise max_iterations"
            warnings.warn(told, ConvergenceWarning, stacklevel=2)
        return self

    def score_samples(self, X: ArrayLike) -> Array:
        """log p(x) of each row, nats, `(n,)`."""
        x = torch.from_numpy(self._checked(X))
        return self._fitted().log_likelihood(x).value.numpy()

    def score(self, X: ArrayLike, y: object = None) -> float:
        """The mean of log p(x), nats; higher is better."""
        return float(self.score_samples(X).mean())

    def _settings(self) -> dict[str, Any]:
        """The model's keywords: the estimator's without the random state."""
        given = {name: value for name, value in self.get_params(deep=False).items() if name != "random_state"}
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}

    def _checked(self, X: ArrayLike, *, reset: bool = False) -> Array:
        if not reset:
            check_is_fitted(self)
        finite: Any = "allow-nan" if model_class(self.word).accepts_missing else True
        x = validate_data(
            self,
            X,
            dtype=(np.float64, np.float32),
            reset=reset,
            ensure_min_samples=2 if reset else 1,
            ensure_all_finite=finite,
        )
        return np.require(x, requirements=("C", "W"))

    def _fitted(self) -> Pipeline:
        check_is_fitted(self)
        assert isinstance(self.pipeline_, Pipeline)
        return self.pipeline_

    def _drawn(self, n_samples: int, seed: object) -> Tensor:
        number = int(check_random_state(self.random_state if seed is None else seed).randint(2**31 - 1))
        return self._fitted().sample(n_samples, seed=number)

    def _given_back(self, rows: Array) -> Any:
        """Rows as a table with the columns of the X that was fitted, if that was a table."""
        return rows if self.table_ is None else self.table_(rows, columns=self.feature_names_in_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = model_class(self.word).accepts_missing
        return tags


class _Sampled(_Density):
    """Estimators whose draws have no label."""

    def sample(self, n_samples: int = 1, random_state: object = None) -> Any:
        """Draw rows `(n_samples, d)`; a table if the estimator was fitted to one.

        Args:
            n_samples: how many.
            random_state: seed or generator; the estimator's own if None.
        """
        return self._given_back(self._drawn(n_samples, random_state).numpy())


class Independent(_Sampled):
    """Every dimension a normal of its own (`jensen.models.independent`); missing cells are left out.

    Args:
        random_state: seed of `sample`.
    """

    word = "independent"

    def __init__(self, *, random_state: Any = None) -> None:
        self.random_state = random_state


class Gaussian(_Sampled):
    """One normal with a shrunk covariance (`jensen.models.gaussian`).

    Args:
        random_state: seed of `sample`.
    """

    word = "gaussian"

    def __init__(self, *, random_state: Any = None) -> None:
        self.random_state = random_state


class KernelDensity(_Sampled):
    """A bump around every row (`jensen.models.kde`), after every column is brought to variance 1; rows with missing cells
    (NaN) are scored, but not kept.

    Args:
        kernel: gaussian, or epanechnikov (a product of parabolas).
        bandwidth: loo (leave-one-out likelihood, one for each column), scott, silverman, or a number of standard
            deviations.
        rows: how many rows to keep, at most; None for all that fit into memory.
        random_state: seed of `sample`.
    """

    word = "kde"

    def __init__(
        self,
        *,
        kernel: Word = "gaussian",
        bandwidth: float | kde.Rule = "loo",
        rows: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.kernel = kernel
        self.bandwidth = bandwidth
        self.rows = rows
        self.random_state = random_state

    @property
    def bandwidths_(self) -> Array:
        """h_d in the units of X, `(d,)`."""
        model = self._fitted().model
        assert isinstance(model, kde.KernelDensity)
        return (model.bandwidths * self._fitted().codec.scale).numpy()


class GaussianMixture(_Density):
    """A mixture of normals fitted by EM (`jensen.models.gmm`); missing cells (NaN) are marginalised exactly.

    Args:
        n_components: how many, or "auto" to choose by BIC.
        covariance: full, tied, diag, spherical or factors.
        rank: columns of the low-rank part, for factors.
        prior_rows: how many rows the prior on each covariance counts for; 0 for maximum likelihood; if None, half the
            number of columns for full and tied, else 1.
        prior_counts: how many rows the prior adds to each component's count.
        tolerance: the expected remaining gain, nats a row, at which EM has converged.
        max_iterations: where EM stops without having converged.
        restarts: how many starts; the best end is kept.
        max_components: the most that "auto" tries.
        random_state: seed of the starts and of `sample`.
    """

    word = "gmm"

    def __init__(
        self,
        n_components: int | Literal["auto"] = 1,
        *,
        covariance: gmm.Structure = "full",
        rank: int = 4,
        prior_rows: float | None = None,
        prior_counts: float = 1.0,
        tolerance: float = 1e-7,
        max_iterations: int = 1000,
        restarts: int = 3,
        max_components: int = 64,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance = covariance
        self.rank = rank
        self.prior_rows = prior_rows
        self.prior_counts = prior_counts
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.restarts = restarts
        self.max_components = max_components
        self.random_state = random_state

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "criterion": "bic"}

    @property
    def model_(self) -> gmm.GaussianMixture:
        """The mixture in standardised units."""
        model = self._fitted().model
        assert isinstance(model, gmm.GaussianMixture)
        return model

    @property
    def weights_(self) -> Array:
        """w_k, `(K,)`."""
        return self.model_.weights.numpy()

    @property
    def means_(self) -> Array:
        """m_k in the units of X, `(K, d)`."""
        return self._fitted().codec.decode(self.model_.means).numpy()

    @property
    def covariances_(self) -> Array:
        """Σ_k in the units of X, `(K, d, d)` whatever the structure."""
        scale = self._fitted().codec.scale
        return (self.model_.covariances() * scale[:, None] * scale).numpy()

    def fit_predict(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Array:
        """Fit, and the most probable component of each row."""
        return self.fit(X, sample_weight=sample_weight).predict(X)

    def predict_proba(self, X: ArrayLike) -> Array:
        """p(component | observed cells) of each row, `(n, K)`."""
        x = torch.from_numpy(self._checked(X))
        encoded = self._fitted().encoded(x)
        parts = [self.model_.responsibilities(encoded.batch(slice(i, i + ROWS)).x) for i in range(0, len(x), ROWS)]
        return torch.cat(parts).numpy()

    def predict(self, X: ArrayLike) -> Array:
        """The most probable component of each row, `(n,)`."""
        return cast(Array, self.predict_proba(X).argmax(1))

    def sample(self, n_samples: int = 1, random_state: object = None) -> tuple[Any, Array]:
        """Draw rows `(n_samples, d)`, and the component each was drawn from, as scikit-learn's mixture does.

        Args:
            n_samples: how many.
            random_state: seed or generator; the estimator's own if None.
        """
        if n_samples < 1:
            raise InputError(f"the number of samples must be at least 1, got {n_samples}")
        seed = int(check_random_state(self.random_state if random_state is None else random_state).randint(2**31 - 1))
        y, z = self.model_.sample_joint(n_samples, seed=seed)
        return self._given_back(self._fitted().decode(y).numpy()), z.numpy()


class MixtureDensityRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """p(y | x), a mixture of normals whose weights, means and covariances a network reads off x; with one component,
    regression with error bars that depend on x (`jensen.estimation.regression`).

    `predict` is E[y | x] and `score` its R², as for every regressor; `log_prob` scores the whole distribution. (Not
    `score_samples`, which scikit-learn calls with X alone: p(y | x) does not score X.)

    Args:
        n_components: how many.
        covariance: of each component over several targets, full or diag.
        width: units of the network.
        depth: its residual blocks.
        dropout: in them.
        steps: of training, at most; 0 for a linear regression.
        lr: peak learning rate.
        weight_decay: the pull towards the linear regression; None to choose by the number of rows.
        valid: the share of the rows that is held out to stop by.
        random_state: seed of the fit and of `sample`.
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance: Covariance = "full",
        width: int = 64,
        depth: int = 1,
        dropout: float = 0.1,
        steps: int = 1000,
        lr: float = 1e-3,
        weight_decay: float | None = None,
        valid: float = 0.2,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.covariance = covariance
        self.width = width
        self.depth = depth
        self.dropout = dropout
        self.steps = steps
        self.lr = lr
        self.weight_decay = weight_decay
        self.valid = valid
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit to rows X `(n, d)` and targets y `(n,)` or `(n, targets)`.

        Raises:
            ValueError: they cannot be fitted; the message says why and what to do.
        """
        x, target = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True, ensure_min_samples=3)
        self.targets_shape_ = target.shape[1:]
        settings = self.get_params(deep=False)
        seed = int(check_random_state(settings.pop("random_state")).randint(2**31 - 1))
        self.regression_ = fit_regression(x, target, seed=seed, **settings)
        return self

    def predict(self, X: ArrayLike, return_std: bool = False) -> Any:
        """E[y | x] of each row, and the standard deviation of y given x if asked for; shaped as y was."""
        x = self._checked(X)
        mean = self._as_y(self.regression_.mean(x))
        return (mean, self._as_y(self.regression_.std(x))) if return_std else mean

    def log_prob(self, X: ArrayLike, y: ArrayLike) -> Array:
        """log p(y | x) of each row, nats in the units of y, `(n,)`."""
        return self.regression_.log_likelihood(self._checked(X), np.asarray(y)).value.numpy()

    def sample(self, X: ArrayLike, n_samples: int = 1, random_state: object = None) -> Array:
        """Draws of y for each row, `(n_samples, n)` or `(n_samples, n, targets)`.

        Args:
            X: rows.
            n_samples: how many for each.
            random_state: seed or generator; the estimator's own if None.
        """
        seed = int(check_random_state(self.random_state if random_state is None else random_state).randint(2**31 - 1))
        return self._as_y(self.regression_.sample(self._checked(X), n_samples, seed=seed))

    def _checked(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        return cast(Array, validate_data(self, X, dtype=np.float64, reset=False))

    def _as_y(self, values: Tensor) -> Array:
        return values.numpy().reshape(*values.shape[:-1], *self.targets_shape_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
