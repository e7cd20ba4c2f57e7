"""What the loop trains: a `Fitter`. `GradientFitter` is the one for objectives with gradients.

An **objective** is a module that maps a batch to a loss per example and owns its parameters; it also scores held-out
rows. Its noise is passed in.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jensen.data.examples import Batch
from jensen.data.examples import Rows as Rows
from jensen.errors import InputError
from jensen.noise import Noise
from jensen.training.device import Precision
from jensen.training.optim import EMA, Stages
from jensen.training.soap import SOAP

PASSES = 3  # forward, that a step with its gradient takes as long as


class Loss(nn.Module, ABC):
    """A loss to minimise, with its parameters."""

    @abstractmethod
    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row, `(B,)`."""


class Objective(Loss):
    """A loss that says how well a model does on rows it has not learned from.

    Attributes:
        watched: what the terms of `held_out` sum to: "bound", of the log-likelihood if not the log-likelihood itself, or another word.
        looks: how often `held_out` passes a row through the network.
    """

    watched: str = "bound"
    looks: int = 1

    @abstractmethod
    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """Terms `(B,)` whose sum is what the stop rule watches, higher for better; of a bound in nats."""


@dataclass(frozen=True)
class State:
    """A fitter's state: tensors and plain numbers, nothing else."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class Fitter(ABC):
    """Something that improves a model a step at a time, and can stop and go on exactly.

    Attributes:
        batch_size: rows a step.
        skipped: steps that were left out because loss or gradient was not finite.
        evaluation_cost: what an evaluation costs, in steps, roughly.
    """

    batch_size: int
    skipped: int
    evaluation_cost: float = 0.0

    @abstractmethod
    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """Take step `number` (from 0); what happened, by name."""

    @abstractmethod
    def evaluate(self, number: int) -> dict[str, Any]:
        """Score the held-out rows after `number` steps: first what is watched, "bound" where it is one of log p, then the mean of each of
        its terms.
        """

    @abstractmethod
    def keep_best(self) -> None:
        """Put the weights that are to be kept into the model."""

    @abstractmethod
    def last(self) -> int:
        """The number of steps there will be, as it stands."""

    @abstractmethod
    def state(self) -> State:
        """All that is needed to go on."""

    @abstractmethod
    def load_state(self, state: State) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of training by gradients.

    Args:
        batch_size: rows a step.
        lr: peak learning rate.
        weight_decay: decoupled from the gradient.
        beta2: memory of the squared gradients.
        grad_clip: the largest gradient norm.
        ema: horizon of the weight average as a share of the run.
        warmup: share of the run with rising rate.
        patience: held-out evaluations without improvement that start the decay; 0 for never.
        precision: auto, float32 or bfloat16.
        optimizer: adamw; or soap, which needs fewer steps and takes more time for each: for perceptrons.
    """

    batch_size: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.01
    beta2: float = 0.99
    grad_clip: float = 1.0
    ema: float = 0.05
    warmup: float = 0.05
    patience: int = 5
    precision: str = "auto"
    optimizer: Literal["adamw", "soap"] = "adamw"

    def check(self, rows: int) -> None:
        """Refuse what cannot work, naming the setting."""
        rules = {
            "batch_size": (1 <= self.batch_size <= rows, f"between 1 and the {rows} training rows"),
            "lr": (0 < self.lr < 1e3, "positive and below 1000"),
            "weight_decay": (0 <= self.weight_decay < 1e3, "at least 0 and below 1000"),
            "beta2": (0 < self.beta2 < 1, "between 0 and 1"),
            "grad_clip": (self.grad_clip > 0, "positive"),
            "ema": (0 <= self.ema <= 1, "a share of the run, 0 to 1"),
            "warmup": (0 <= self.warmup <= 1, "a share of the run, 0 to 1"),
            "patience": (self.patience >= 0, "at least 0"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise InputError(f"{name} must be {rule}, got {getattr(self, name)}")
        if self.optimizer not in ("adamw", "soap"):
            raise InputError(f"optimizer must be adamw or soap, got {self.optimizer!r}")


class GradientFitter(Fitter):
    """Steps down an objective, with a moving average that is what gets evaluated and kept.

    Args:
        objective: what to minimise; trained in place.
        settings: rates and sizes.
        precision: the arithmetic of the network.
        steps: the planned number of steps.
        held_out: rows to watch.
        seed: of all noise.
    """

    def __init__(
        self,
        objective: Objective,
        settings: TrainingSettings,
        precision: Precision,
        *,
        steps: int,
        held_out: Rows,
        seed: int,
    ) -> None:
        self.objective, self.settings, self.precision = objective, settings, precision
        self.batch_size, self.seed, self.rows = settings.batch_size, seed, held_out
        self.evaluation_cost = len(held_out) * objective.looks / (PASSES * settings.batch_size)
        self.average = copy.deepcopy(objective).requires_grad_(False).eval()
        self.best = _snapshot(self.average)
        self.ema = EMA(objective, self.average, settings.ema * steps)
        self.stages = Stages(steps, int(settings.warmup * steps), settings.patience)
        self.skipped = self.skipped_in_a_row = 0
        self.weights = list(objective.parameters())
        self.optimizer = optimizer_of(self.weights, settings)

    def last(self) -> int:
        """The number of steps there will be."""
        return self.stages.last

    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """One step of the optimiser; skipped and counted where loss or gradient is not finite."""
        if not self.objective.training:
            self.objective.train()
        rate = self.settings.lr * self.stages.rate(number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        noise = Noise(self.seed, "train", number)
        with torch.random.fork_rng(devices=[]), self._autocast():
            seed_dropout(noise, self._device)
            weight = batch.weights() / batch.weights().sum().clamp(min=1e-300)
            loss = (weight.to(torch.float32) * self.objective(batch, noise)).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, self.settings.grad_clip, foreach=True)
        self._apply(bool(torch.isfinite(loss) & torch.isfinite(norm)))
        return {"loss": float(loss.detach()), "grad_norm": float(norm), "lr": rate, "skipped": float(self.skipped)}

    def _apply(self, finite: bool) -> None:
        if not finite:
            self.skipped, self.skipped_in_a_row = self.skipped + 1, self.skipped_in_a_row + 1
            return
        self.skipped_in_a_row = 0
        self.optimizer.step()
        self.ema.update()

    @torch.no_grad()
    def evaluate(self, number: int) -> dict[str, Any]:
        """Score the held-out rows with the averaged weights and the same noise every time; keep the best weights."""
        sums: dict[str, float] = {}
        total = 0.0
        for start in range(0, len(self.rows), 256):
            batch = self.rows.batch(slice(start, start + 256))
            with self._autocast():
                terms = self.average.held_out(batch, Noise(self.seed, "held-out"))
            weight = batch.weights()
            total += float(weight.sum())
            for name, values in terms.items():
                sums[name] = sums.get(name, 0.0) + float(weight @ values.double())
        means = {name: value / max(total, 1e-300) for name, value in sums.items()}
        bound = sum(means.values())
        if self.stages.saw(number, bound):
            self.best = _snapshot(self.average)
        return {self.objective.watched: bound, **means}

    def keep_best(self) -> None:
        """Put the weights with the best held-out bound into the objective."""
        self.objective.load_state_dict(self.best)
        self.objective.eval()

    def state(self) -> State:
        """Weights, their average, the best average, the optimiser's moments, and counters."""
        tensors = {f"weights/{k}": v for k, v in self.objective.state_dict().items()}
        tensors |= {f"average/{k}": v for k, v in self.average.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors |= moments(self.optimizer, "optimizer/")
        stages = {k: getattr(self.stages, k) for k in ("decay_from", "best", "waited")}
        stages["best"] = None if stages["best"] == -float("inf") else stages["best"]
        numbers = {"stages": stages, "ema_updates": self.ema.updates, "skipped": self.skipped}
        return State(tensors, numbers | {"skipped_in_a_row": self.skipped_in_a_row})

    def load_state(self, state: State) -> None:
        """Go on from a state that `state` gave."""
        self.objective.load_state_dict(under("weights/", state.tensors))
        self.average.load_state_dict(under("average/", state.tensors))
        self.best = under("best/", state.tensors)
        load_moments(self.optimizer, "optimizer/", state.tensors)
        stages = dict(state.numbers["stages"])
        self.stages.best = -float("inf") if stages["best"] is None else stages["best"]
        self.stages.decay_from, self.stages.waited = stages["decay_from"], stages["waited"]
        self.ema.updates = state.numbers["ema_updates"]
        self.skipped, self.skipped_in_a_row = state.numbers["skipped"], state.numbers["skipped_in_a_row"]

    def _autocast(self) -> Any:
        return self.precision.autocast(self._device)

    @property
    def _device(self) -> torch.device:
        return self.weights[0].device


def optimizer_of(weights: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    lr, betas, decay = settings.lr, (0.9, settings.beta2), settings.weight_decay
    if settings.optimizer == "soap":
        return SOAP(weights, lr=lr, betas=betas, weight_decay=decay)
    return torch.optim.AdamW(weights, lr=lr, betas=betas, weight_decay=decay, fused=True)


def seed_dropout(noise: Noise, device: torch.device) -> None:
    """Dropout draws from torch's own generator of a device."""
    seed = int(noise.uniform([0])[0] * 2**62)
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # torch.manual_seed, without asking after other devices
    else:
        torch.manual_seed(seed)


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def moments(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """What an optimiser remembers, under names that begin with a prefix."""
    state = optimizer.state_dict()["state"]
    return {f"{prefix}{index}/{k}": v for index, kept in state.items() for k, v in kept.items()}


def load_moments(optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `moments`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in under(prefix, tensors).items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
