"""A hidden Markov model: p(x) = Σ_z π(z_1) p(x_1 | z_1) ∏_t A(z_t, z_{t+1}) p(x_{t+1} | z_{t+1}), an exact likelihood.

A row is a sequence (`hmm.layout` says which axis is time; sequences that end early end in NaN). The latent is a path of
states: prior a Markov chain, emission step by step, posterior a Markov chain again, exact, so the evidence lower bound
equals log p(x). Fitted by Baum–Welch (`hmm.em`) from k-means++ starts under a weak prior. Real steps are normal or mixtures
of normals given the state, levels are categorical; missing cells and steps are marginalised exactly.
(Rabiner 1989, "A tutorial on hidden Markov models and selected applications in speech recognition".)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from jensen.data.codec import Affine, identity
from jensen.data.examples import Split
from jensen.data.space import Levels, Real, Space
from jensen.distributions.conditional import Conditional
from jensen.errors import InputError, plural
from jensen.hmm.em import Parameters, Problem
from jensen.hmm.emission import Emission
from jensen.hmm.layout import Layout, lengths
from jensen.hmm.levels import LevelEmission
from jensen.hmm.markov import Path, posterior, prior
from jensen.hmm.normal import NormalEmission
from jensen.hmm.recursion import Chain, passes
from jensen.hmm.selection import Task, fitted, selected
from jensen.hmm.sequences import Sequences, at_once, over_blocks
from jensen.hmm.start import LevelStarts, NormalStarts
from jensen.hmm.viterbi import viterbi
from jensen.likelihood import LogLikelihood
from jensen.mixture.covariance import covariance_of
from jensen.mixture.em import Settings
from jensen.mixture.parameters import Parameters as MixtureParameters
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    Imputer,
    LatentModel,
    Model,
    OnCalls,
    Watch,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.training.fitter import Rows

Kind = Literal["auto", "gaussian", "mixture", "categorical"]
Structure = Literal["diag", "full", "tied", "spherical"]
RESTARTS, MANY_CELLS = 3, 10**7
MOST_CELLS = 1 << 28  # of the parameters, and of one sequence's states: 2 GiB


class HiddenMarkov(ClosedForm, LatentModel, Imputer):
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
        _check(locals())
        self.kind = _kind(emission, space)
        self.layout = Layout(self.event_shape)
        self.n_states, self.max_states, self.restarts = n_states, max_states, restarts or RESTARTS
        self.n_components = n_components if self.kind == "mixture" else 1
        self.covariance_word: Structure = covariance
        self.covariance = covariance_of(covariance, self.layout.dims, 1)
        weak = 0.5 * self.layout.dims if self.covariance.correlations else 1.0
        self.prior_rows = weak if prior_rows is None else prior_rows
        self.prior_counts, self.prior_levels = prior_counts, prior_levels
        self.settings = Settings(tolerance, max_iterations)
        self.fit_report: dict[str, Any] = {}
        self._allocate(1 if n_states == "auto" else n_states)

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Real values standardised, with one shift and scale a feature for all steps: a chain that does not change with
        time must not see its units change. Levels stay as they are.
        """
        if isinstance(split.space, Levels):
            return identity()
        layout = Layout(split.event_shape)
        x = layout.steps(split.train.x.double()).flatten(0, 1)
        mean = x.nanmean(0)
        deviation = (x - mean).square().nanmean(0).sqrt()
        _refuse_constant(mean, deviation)
        return Affine(layout.per_feature(mean), layout.per_feature(deviation))

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The emission for the space, the number of starts for so many cells."""
        many = len(split.train) * math.prod(split.event_shape) > MANY_CELLS
        kind = _kind(settings.get("emission", "auto"), space)
        restarts = settings.get("restarts") or (1 if many else RESTARTS)
        return {**settings, "emission": kind, "restarts": restarts}

    def _shapes(self, states: int) -> dict[str, tuple[int, ...]]:
        """The emission's tensors."""
        dims, normals = self.layout.dims, states * self.n_components
        if isinstance(self.space, Levels):
            return {"probabilities": (states, dims, self.space.k)}
        spread = self.covariance.shapes(normals, dims)
        return {"weights": (normals,), "means": (normals, dims)} | {f"spread_{n}": s for n, s in spread.items()}

    def _allocate(self, states: int) -> None:
        """Even chains, standard normals and even histograms, in buffers whose shapes the number of states fixes."""
        shapes = {"transitions": (states, states), **self._shapes(states)}
        if sum(math.prod(shape) for shape in shapes.values()) > MOST_CELLS:
            raise InputError(
                f"the parameters of {states} states with {self.layout.dims} numbers a step do not fit in memory; "
                "use fewer states or components, covariance diag, fewer levels, or resize the data"
            )
        if states * self.layout.times * max(1, self.layout.dims // 64) > MOST_CELLS:
            raise InputError(
                f"{states} states at each of {self.layout.times} steps do not fit in memory; use fewer, or cut the sequences"
            )
        self.register_buffer("initial", torch.full((states,), 1 / states, dtype=torch.float64))
        for name, shape in shapes.items():
            own = name if name == "transitions" else f"emission_{name}"
            self.register_buffer(own, _blank(name, shape, states * self.n_components, self.n_components))

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
        chain = Chain(_simplex(initial, "initial"), _simplex(transitions, "transitions"))
        states = chain.states
        if chain.transitions.shape != (states, states):
            raise InputError(f"transitions must be ({states}, {states}), got {tuple(transitions.shape)}")
        if (means is None) == (probabilities is None):
            raise InputError("give either means or probabilities, and not both")
        if probabilities is not None:
            space: Space = Levels(int(probabilities.shape[-1]))
            model = cls(event_shape, space, n_states=states)
            given = {"probabilities": _simplex(probabilities, "probabilities")}
        else:
            assert means is not None
            several = means.shape[1] if means.ndim == 3 else 1
            kind: Kind = "mixture" if means.ndim == 3 else "gaussian"
            model = cls(
                event_shape, Real(), n_states=states, emission=kind, covariance=covariance, n_components=several
            )
            own = torch.ones(states, several) if weights is None else weights
            given = {"weights": _simplex(own, "weights").flatten(), "means": means.double().flatten(0, -2)}
            name, shape = next(iter(model.covariance.shapes(states * several, model.layout.dims).items()))
            if covariances is not None:
                given[f"spread_{name}"] = (
                    covariances.double().reshape(shape) if covariances.numel() == math.prod(shape) else covariances
                )
        for name, tensor in given.items():
            wanted = model._shapes(states)[name]
            if tuple(tensor.shape) != wanted:
                raise InputError(f"{name} must have shape {wanted}, got {tuple(tensor.shape)}")
            getattr(model, f"emission_{name}").copy_(tensor)
        model.initial.copy_(chain.initial)
        model.transitions.copy_(chain.transitions)
        emission = model.parameters_now.emission
        if isinstance(emission, NormalEmission):
            wrong = model.covariance.invalid(emission.parameters.spread, emission.parameters.components)
            if wrong is not None:
                raise InputError(f"covariance {wrong} is not positive definite; give one that is")
        return model

    @property
    def parameters_now(self) -> Parameters:
        """The chain and the emissions."""
        return Parameters(Chain(self.initial, self.transitions), self._emission())

    def _emission(self) -> Emission:
        tensors = {name: getattr(self, f"emission_{name}") for name in self._shapes(len(self.initial))}
        if isinstance(self.space, Levels):
            return LevelEmission(tensors["probabilities"], self.space, self.prior_levels)
        spread = {name.removeprefix("spread_"): t for name, t in tensors.items() if name.startswith("spread_")}
        parameters = MixtureParameters(tensors["weights"], tensors["means"], spread)
        return NormalEmission(parameters, self.covariance, len(self.initial))

    def set_parameters(self, parameters: Parameters) -> None:
        """Take over these parameters, and their number of states."""
        device = self.device
        if parameters.chain.states != len(self.initial):
            self._allocate(parameters.chain.states)
            self.to(device)
        self.n_states = parameters.chain.states
        self.initial.copy_(parameters.chain.initial)
        self.transitions.copy_(parameters.chain.transitions)
        for name, tensor in parameters.emission.tensors().items():
            getattr(self, f"emission_{name}").copy_(tensor)

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
        method, now = self.method_or_default(method), self.parameters_now

        def value(steps: Tensor) -> Tensor:
            return passes(now.chain, now.emission.log_prob(steps), lengths(steps)).log_evidence

        found = self._in_blocks(value, x)
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

    def _blocks(self, x: Tensor) -> Iterator[Tensor]:
        """Steps of sequences, in blocks of one shape, the last filled up with zeros: products of matrices choose their
        order of summation by shape, so the bits of a row do not depend on its company.
        """
        size = at_once(self.layout.times, max(len(self.initial) * self.n_components, self.layout.dims))
        for part in x.split(size):
            steps = self.layout.steps(part.double())
            missing = size - len(part)
            filler = steps.new_zeros(len(steps), missing, self.layout.dims)
            yield torch.cat([steps, filler], 1) if missing else steps

    def _in_blocks(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A function of steps `(T, B, d)`, with sequences first in what it gives, of rows."""
        return torch.cat(list(over_blocks(function, self._blocks(x))))[: len(x)]

    @torch.no_grad()
    def posterior_states(self, x: Float[Tensor, "B *event"]) -> Float[Tensor, "B T K"]:
        """p(z_t = k | x) for every step; behind the end of a sequence, what the chain predicts.

        Args:
            x: rows in the model's units.
        """
        now = self.parameters_now

        def value(steps: Tensor) -> Tensor:
            return passes(now.chain, now.emission.log_prob(steps), lengths(steps)).posterior().permute(2, 0, 1)

        return self._in_blocks(value, x)

    @torch.no_grad()
    def states(self, x: Float[Tensor, "B *event"]) -> Int[Tensor, "B T"]:
        """The most probable path of states of each row (Viterbi); -1 behind the end of a sequence.

        Args:
            x: rows in the model's units.
        """
        now = self.parameters_now
        return self._in_blocks(lambda s: viterbi(now.chain, now.emission.log_prob(s), lengths(s))[0].T, x)

    def _path_given(self, steps: Tensor) -> Path:
        """p(z | x) of steps `(T, B, d)`."""
        now = self.parameters_now
        log_b = now.emission.log_prob(steps)
        return posterior(now.chain, log_b, passes(now.chain, log_b, lengths(steps)))

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A path of states, then a step from each; every sequence has all its steps."""
        return self.sample_joint(n, seed, start=start)[0]

    @torch.no_grad()
    def sample_joint(self, n: int, seed: int = 0, *, start: int = 0) -> tuple[Tensor, Int[Tensor, "n T"]]:
        """Draws of p(x, z): the rows that `sample` gives, and their paths."""
        ids, noise, times = sample_ids(n, start), sample_noise(seed), self.layout.times
        z = prior(Chain(self.initial, self.transitions), n, times).at(noise.at("states").uniform(ids, (times,)))
        emission = self._emission()
        u, eps = _draws(noise, ids, times, emission)
        x = emission.draw(z.flatten(), u, eps).view(n, times, -1)
        return self.layout.rows(x.transpose(0, 1)), z

    @torch.no_grad()
    def impute(self, x: Tensor, draws: int | None = None, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """Missing cells by the posterior of the states: exact mean, exact draws; behind the end of a sequence too."""
        if draws is not None and draws < 1:
            raise InputError(f"the number of draws must be at least 1, got {draws}")
        emission, times, flat = self._emission(), self.layout.times, self.layout.steps(x).transpose(0, 1).flatten(0, 1)
        if draws is None:
            filled = emission.fill(flat, self.posterior_states(x).flatten(0, 1))
            return self._as_rows(filled, x)
        ids, noises = row_ids(x, ids), [Noise(seed, "impute", number) for number in range(draws)]
        paths = self._drawn_paths(x, [noise.at("states").uniform(ids, (times,)) for noise in noises])
        return torch.stack(
            [
                self._as_rows(emission.fill_by_chance(flat, z.flatten(), *_draws(noise, ids, times, emission)), x)
                for z, noise in zip(paths, noises, strict=True)
            ]
        )

    def _as_rows(self, flat: Tensor, x: Tensor) -> Tensor:
        """Steps, sequence after sequence, as rows."""
        return self.layout.rows(flat.view(len(x), self.layout.times, -1).transpose(0, 1))

    def _drawn_paths(self, x: Tensor, draws: list[Tensor]) -> list[Tensor]:
        """Paths from p(z | x) that each `u (B, T)` picks."""
        parts: list[list[Tensor]] = [[] for _ in draws]
        start = 0
        for steps in self._blocks(x):
            law, size = self._path_given(steps), steps.shape[1]
            for u, paths in zip(draws, parts, strict=True):
                own = u[start : start + size]
                filled = torch.cat([own, own.new_zeros(size - len(own), own.shape[1])])
                paths.append(law.at(filled)[: len(own)])
            start += size
        return [torch.cat(paths) for paths in parts]

    def conditional(self, values: Mapping[int, float]) -> Model:
        """Refused: what is left is a chain that changes with time.

        Raises:
            InputError: always.
        """
        raise InputError(
            "a hidden Markov model given some of its cells is no stationary hidden Markov model; use impute with draws"
        )

    @property
    def prior(self) -> Conditional:
        """p(z), paths `(B, T)`."""
        return _Prior(self)

    @property
    def emission(self) -> Conditional:
        """p(x | z)."""
        return _Emission(self)

    @property
    def posterior(self) -> Conditional:
        """p(z | x), exact."""
        return _Posterior(self)


class _Prior(Conditional):
    def __init__(self, model: HiddenMarkov) -> None:
        super().__init__()
        self.chain, self.times = Chain(model.initial, model.transitions), model.layout.times

    def forward(self, given: Tensor) -> Distribution:
        return prior(self.chain, len(given), self.times)


class _Emission(Conditional):
    def __init__(self, model: HiddenMarkov) -> None:
        super().__init__()
        self.law, self.layout = model._emission(), model.layout

    def forward(self, given: Tensor) -> Distribution:
        return Emitted(self.law, self.layout, given)


class _Posterior(Conditional):
    def __init__(self, model: HiddenMarkov) -> None:
        super().__init__()
        object.__setattr__(self, "model", model)  # not as a submodule: it does not own it

    def forward(self, given: Tensor) -> Distribution:
        model: HiddenMarkov = self.__dict__["model"]
        return model._path_given(model.layout.steps(given.double()))


class Emitted(Distribution):
    """p(x | z) for paths `z (B, T)`: steps are independent. NaN cells are marginalised.

    Args:
        law: the emissions.
        layout: of a row.
        z: the paths.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch has it)
    has_rsample = False

    def __init__(self, law: Emission, layout: Layout, z: Tensor) -> None:
        self.law, self.layout, self.z = law, layout, z
        super().__init__(z.shape[:1], torch.Size(layout.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_t log p(x_t | z_t) of rows `(B, *event)`."""
        log_b = self.law.log_prob(self.layout.steps(value.double()))
        return log_b.gather(1, self.z.T[:, None])[:, 0].sum(0)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Rows `(*sample_shape, B, *event)` by torch's generator."""
        made = [self._one() for _ in range(math.prod(sample_shape))]
        return torch.stack(made).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _one(self) -> Tensor:
        n = self.z.numel()
        u = torch.rand(n, self.law.uniforms, dtype=torch.float64)
        x = self.law.draw(self.z.flatten(), u, torch.randn(n, self.law.normals, dtype=torch.float64))
        return self.layout.rows(x.view(*self.z.shape, -1).transpose(0, 1))


def _draws(noise: Noise, ids: Tensor, times: int, emission: Emission) -> tuple[Tensor, Tensor]:
    """The noise of every step of every row, `(B·T, …)`."""
    u = noise.at("choice").uniform(ids, (times, emission.uniforms)).flatten(0, 1)
    return u, noise.at("normal").normal(ids, (times, emission.normals)).double().flatten(0, 1)


def _kind(emission: Kind, space: Space) -> Kind:
    """The emission for the space, "auto" decided."""
    if emission == "auto":
        return "categorical" if isinstance(space, Levels) else "gaussian"
    if (emission == "categorical") != isinstance(space, Levels):
        fit = "categorical" if isinstance(space, Levels) else "gaussian or mixture"
        raise InputError(f"emission must be {fit} (or auto) for {space}, got {emission!r}")
    return emission


def _blank(name: str, shape: tuple[int, ...], normals: int, components: int) -> Tensor:
    """Even transitions and histograms, standard normals."""
    if name.startswith("spread_covariance"):
        return torch.eye(shape[-1], dtype=torch.float64).expand(shape).clone()
    even = {"transitions": 1 / shape[-1], "probabilities": 1 / shape[-1], "weights": 1 / components, "means": 0.0}
    return torch.full(shape, even.get(name, 1.0), dtype=torch.float64)


def _simplex(values: Tensor, name: str) -> Tensor:
    """Probabilities along the last axis, divided by their sum."""
    values = values.double()
    sums = values.sum(-1, keepdim=True)
    if not bool((values >= 0).all()) or not bool(((sums > 0) & sums.isfinite()).all()):
        raise InputError(f"{name} must be at least 0 with a finite positive sum, got {values.tolist()}")
    return values / sums


def _refuse_constant(mean: Tensor, deviation: Tensor) -> None:
    """Refuse features that are the same, or missing, at every step of every row."""
    constant = ~(deviation > 1e-12 * mean.abs())
    if not bool(constant.any()):
        return
    at = int(constant.nonzero()[0])
    which = f"number {at + 1} of {len(mean)} of each step"
    if bool(deviation[at].isnan()):
        raise InputError(f"{which} has no values in the training rows; drop it")
    raise InputError(
        f"{which} is constant in the training rows (value {float(mean[at]):g}), so its density is infinite; drop it"
    )


def _check(given: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be."""
    for name in ("n_states", "n_components", "max_iterations", "restarts", "max_states"):
        if given[name] not in ("auto", None) and given[name] < 1:
            raise InputError(f"{name} must be at least 1, got {given[name]}")
    for name in ("prior_rows", "prior_counts", "prior_levels", "tolerance"):
        if given[name] is not None and not 0 <= given[name] < math.inf:
            raise InputError(f"{name} must be at least 0 and finite, got {given[name]}")
    for name, words in (("covariance", get_args(Structure)), ("emission", get_args(Kind))):
        if given[name] not in words:
            raise InputError(f"{name} must be one of {', '.join(words)}, got {given[name]!r}")
