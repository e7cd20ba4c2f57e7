"""A hidden Markov model: p(x) = Σ_z π(z_1) p(x_1 | z_1) ∏_t A(z_t, z_{t+1}) p(x_{t+1} | z_{t+1}), an exact likelihood.

A row is a sequence (`hmm.layout` says which axis is time; sequences that end early end in NaN). The latent is a path of
states: prior a Markov chain, emission step by step, posterior a Markov chain again, exact, so the evidence lower bound
equals log p(x). Fitted by Baum–Welch (`hmm.em`) from k-means++ starts under a weak prior. Real steps are normal or mixtures
of normals given the state, levels are categorical; missing cells and steps are marginalised exactly.
(Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition".)
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.data.codec import Affine, identity
from jensen.data.examples import Split
from jensen.data.space import Levels, Real, Space
from jensen.distributions.conditional import Conditional
from jensen.errors import InputError, plural
from jensen.hmm.em import Parameters, Problem
from jensen.hmm.inference import Inference
from jensen.hmm.laws import PathPosterior, PathPrior, StepEmission
from jensen.hmm.layout import Layout
from jensen.hmm.selection import Task, fitted, selected
from jensen.hmm.sequences import Sequences
from jensen.hmm.settings import Kind, Structure, check, kind_for, simplex, standardised
from jensen.hmm.start import LevelStarts, NormalStarts
from jensen.hmm.tables import Tables
from jensen.likelihood import LogLikelihood
from jensen.mixture.ascent import Settings
from jensen.mixture.covariance import covariance_of
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    Imputer,
    LatentModel,
    OnCalls,
    Watch,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.rules import Rule, Ruled
from jensen.training.fitter import Rows

RESTARTS, MANY_CELLS = 3, 10**7


class HiddenMarkov(ClosedForm, LatentModel, Imputer, Ruled):
    """A chain of K states, each with its emission.

    Args:
        event_shape: of a row: `(T,)`, `(T, d)` or `(C, T, W)`.
        space: Real or Levels.
        n_states: K, or "auto" to choose it by the likelihood of the validation rows.
        emission: gaussian or mixture on real values, categorical on levels; auto is gaussian or categorical.
        covariance: of the normals: diag, full, tied (one for all) or spherical.
        n_components: M, normals a state, where the emission is mixture.
        prior_rows: c, how many rows the prior on each covariance counts for. If None, d/2 for full and tied, else 1.
        prior_counts: a, what the prior adds to the count of every first state, transition and component.
        prior_levels: what it adds to the count of every level.
        tolerance: the expected remaining gain, in nats a step, at which EM has converged.
        max_iterations: where EM stops without having converged.
        restarts: how many starts; the best end is kept. If None 3, or 1 where there are more than 10⁷ cells.
        max_states: the most that "auto" tries.

    Example:
        >>> import torch
        >>> sticky = torch.tensor([[0.9, 0.1], [0.1, 0.9]])
        >>> model = HiddenMarkov.from_parameters((3,), torch.tensor([0.5, 0.5]), sticky, means=torch.tensor([[-2.0], [2.0]]))
        >>> model.states(torch.tensor([[-2.0, 0.1, -2.0]])).tolist()
        [[0, 0, 0]]
    """

    summary = "a hidden Markov model over the steps of a row, fitted by Baum–Welch, exact likelihood"
    paper = "Baum et al. 1970; Rabiner 1989"
    accepts_missing = True
    initial: Tensor
    transitions: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        n_states: int | Literal["auto"] = "auto",
        emission: Kind = "auto",
        covariance: Structure = "diag",
        n_components: int = 2,
        prior_rows: float | None = None,
        prior_counts: float = 1.0,
        prior_levels: float = 0.5,
        tolerance: float = 1e-7,
        max_iterations: int = 1000,
        restarts: int | None = None,
        max_states: int = 16,
    ) -> None:
        super().__init__(event_shape, space)
        check(locals())
        self.kind = kind_for(emission, space)
        self.layout = Layout(self.event_shape)
        self.n_states, self.max_states, self.restarts = n_states, max_states, restarts or RESTARTS
        self.n_components = n_components if self.kind == "mixture" else 1
        self.covariance_word: Structure = covariance
        self.covariance = covariance_of(covariance, self.layout.dims, 1)
        weak = 0.5 * self.layout.dims if self.covariance.correlations else 1.0
        self.prior_rows = weak if prior_rows is None else prior_rows
        self.prior_counts, self.prior_levels = prior_counts, prior_levels
        self.settings = Settings(tolerance, max_iterations)
        self.tables = Tables(self.layout, space, self.covariance, self.n_components, prior_levels)
        self.fit_report: dict[str, Any] = {}
        self._allocate(1 if n_states == "auto" else n_states)

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Real values standardised, a feature at a time; levels stay as they are."""
        return identity() if isinstance(split.space, Levels) else standardised(Layout(split.event_shape), split.train.x)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The emission for the space, the number of starts for so many cells."""
        many = len(split.train) * math.prod(split.event_shape) > MANY_CELLS
        kind = kind_for(settings.get("emission", "auto"), space)
        restarts = settings.get("restarts") or (1 if many else RESTARTS)
        return {**settings, "emission": kind, "restarts": restarts}

    def _allocate(self, states: int) -> None:
        """Buffers, whose shapes the number of states fixes."""
        for name, tensor in self.tables.blank(states).items():
            self.register_buffer(name, tensor)

    @classmethod
    def from_parameters(
        cls,
        event_shape: tuple[int, ...],
        initial: Float[Tensor, " K"],
        transitions: Float[Tensor, "K K"],
        *,
        means: Tensor | None = None,
        covariances: Tensor | None = None,
        weights: Tensor | None = None,
        covariance: Structure = "diag",
        probabilities: Float[Tensor, "K d L"] | None = None,
    ) -> "HiddenMarkov":
        """A model with given parameters; it samples and scores with no fit, in their units.

        Args:
            event_shape: of a row.
            initial: probabilities of the first state.
            transitions: probabilities of the next state, rows by the present one. Rows are divided by their sums.
            means: `(K, d)`, or `(K, M, d)` for mixtures.
            covariances: variances `(K, d)` for diag, `(K,)` for spherical, matrices `(K, d, d)` for full, `(d, d)` for
                tied, with an axis of M behind K for mixtures; variance 1 if None.
            weights: `(K, M)` of mixtures; even if None.
            covariance: which of them it is.
            probabilities: of levels 0 … L - 1, instead of normals.

        Raises:
            InputError: shapes that do not belong together, probabilities that are none, covariances that are none.
        """
        chain = {"initial": simplex(initial, "initial"), "transitions": simplex(transitions, "transitions")}
        states = len(initial)
        if chain["transitions"].shape != (states, states):
            raise InputError(f"transitions must be ({states}, {states}), got {tuple(transitions.shape)}")
        if (means is None) == (probabilities is None):
            raise InputError("give either means or probabilities, and not both")
        if probabilities is not None:
            model = cls(event_shape, Levels(int(probabilities.shape[-1])), n_states=states)
            given = {"emission_probabilities": simplex(probabilities, "probabilities")}
        else:
            assert means is not None
            several, kind = (means.shape[1], "mixture") if means.ndim == 3 else (1, "gaussian")
            own: dict[str, Any] = {"emission": kind, "covariance": covariance, "n_components": several}
            model = cls(event_shape, Real(), n_states=states, **own)
            shares = simplex(torch.ones(states, several) if weights is None else weights, "weights")
            given = model.tables.normals(means, covariances, shares)
        model.tables.check(given, states)
        for name, tensor in {**chain, **given}.items():
            getattr(model, name).copy_(tensor)
        return model

    def rules(self) -> dict[str, Rule]:
        """Probabilities with sum 1, covariances that are some."""
        return self.tables.rules()

    @property
    def parameters_now(self) -> Parameters:
        """The chain and the emissions."""
        return self.tables.parameters(dict(self.named_buffers()))

    @property
    def inference(self) -> Inference:
        """What the model says of rows."""
        return Inference(self.parameters_now, self.layout, len(self.initial) * self.n_components)

    def set_parameters(self, parameters: Parameters) -> None:
        """Take over these parameters, and their number of states."""
        device = self.device
        if parameters.chain.states != len(self.initial):
            self._allocate(parameters.chain.states)
            self.to(device)
        self.n_states = parameters.chain.states
        for name, tensor in self.tables.tensors(parameters).items():
            getattr(self, name).copy_(tensor)

    @property
    def iterative(self) -> bool:
        """Yes: EM."""
        return True

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Baum–Welch to convergence; `fit_report` says how it went.

        Args:
            train: sequences in the model's units, NaN where a cell is missing, with weights if they have any.
            valid: sequences that choose the number of states.
            seed: of the starts.
            watch: told of every iteration and of what happens.

        Raises:
            InputError: a constant or empty feature, an infinite value, more states than steps.
            FitError: the penalised log-likelihood fell, or a covariance degenerated.
        """
        most = self.max_states if self.n_states == "auto" else self.n_states
        width = most * self.n_components
        sequences = Sequences(train, self.layout, width)

        def step(iteration: int, value: float, left: float) -> None:
            watch.step(f"{value:.4f} nats a step" + (f", {left:.1g} to come" if math.isfinite(left) else ""))

        problem = Problem(sequences, self.prior_counts, self.settings, step)
        task = Task(problem, self._starts(train, seed), self.restarts, watch.say)
        if self.n_states == "auto":
            held_out = Sequences(valid, self.layout, width) if valid is not None and len(valid) else None
            found = selected(task, held_out, self.max_states)
        else:
            found = fitted(task, self.n_states)
        self.set_parameters(found.ascent.parameters)
        self.fit_report = found.report

    def _starts(self, train: Rows, seed: int) -> Callable[[int, int], Parameters]:
        if isinstance(self.space, Levels):
            return LevelStarts(train, self.layout, self.space, self.prior_levels, seed)
        own = (self.covariance, self.n_components, self.prior_counts, self.prior_rows)
        return NormalStarts(train, self.layout, *own, seed)

    def resolved(self) -> dict[str, Any]:
        """The number of states that was chosen, and the emission."""
        return {"n_states": len(self.initial), "emission": self.kind}

    def report(self) -> dict[str, Any]:
        """How the fit went: iterations, convergence, starts, and the curve if the number of states was chosen."""
        return self.fit_report

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
        """log p of the observed cells of each sequence, exact."""
        method, found = self.method_or_default(method), self.inference.log_likelihood(x)
        on_calls(len(x))
        count = len(self.initial)
        return LogLikelihood(
            value=found,
            kind="exact",
            measure=self.space.measure,
            of=f"a hidden Markov model of {count} {plural('state', count)}, {self._described}",
            method=method,
            event_shape=self.event_shape,
        )

    @property
    def _described(self) -> str:
        """The emissions in words."""
        if self.kind == "categorical":
            return "categorical"
        return self.covariance_word + (f", {self.n_components} normals each" if self.kind == "mixture" else " normals")

    @torch.no_grad()
    def posterior_states(self, x: Float[Tensor, "B *event"]) -> Float[Tensor, "B T K"]:
        """p(z_t = k | x) for every step; behind the end of a sequence, what the chain predicts.

        Args:
            x: rows in the model's units. Where p(x) = 0 there is no posterior: NaN.
        """
        return self.inference.posterior(x)

    @torch.no_grad()
    def states(self, x: Float[Tensor, "B *event"]) -> Int[Tensor, "B T"]:
        """The most probable path of states of each row (Viterbi); -1 behind the end of a sequence.

        Args:
            x: rows in the model's units.
        """
        return self.inference.states(x)

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A path of states, then a step from each; every sequence has all its steps."""
        return self.sample_joint(n, seed, start=start)[0]

    @torch.no_grad()
    def sample_joint(self, n: int, seed: int = 0, *, start: int = 0) -> tuple[Tensor, Int[Tensor, "n T"]]:
        """Draws of p(x, z): the rows that `sample` gives, and their paths."""
        return self.inference.sample(sample_ids(n, start), sample_noise(seed))

    @torch.no_grad()
    def impute(self, x: Tensor, draws: int | None = None, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """Missing cells by the posterior of the states: exact mean, exact draws; behind the end of a sequence too."""
        if draws is None:
            return self.inference.filled(x)
        if draws < 1:
            raise InputError(f"the number of draws must be at least 1, got {draws}")
        noises = [Noise(seed, "impute", number) for number in range(draws)]
        return self.inference.filled_by_chance(x, row_ids(x, ids), noises)

    @property
    def prior(self) -> Conditional:
        """p(z), paths `(B, T)`."""
        return PathPrior(self.inference)

    @property
    def emission(self) -> Conditional:
        """p(x | z)."""
        return StepEmission(self.inference)

    @property
    def posterior(self) -> Conditional:
        """p(z | x), exact."""
        return PathPosterior(lambda: self.inference)
