"""Two players in one loop: each has a loss of its own and moves parameters of its own, in turn, on the same rows.

A player's loss may look at the other's parameters and does not move them. Neither loss says how well the game goes: at the end of a
good one both are where they were. So nothing stops early, all steps are taken, and the average of the weights at the end is kept; a
measure of held-out rows is written down beside the losses and decides nothing.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from jensen.data.examples import Batch
from jensen.errors import InputError
from jensen.noise import Noise
from jensen.training.device import Precision
from jensen.training.fitter import (
    Fitter,
    Loss,
    Rows,
    State,
    TrainingSettings,
    load_moments,
    moments,
    under,
)
from jensen.training.optim import EMA, Stages

Measure = Callable[[nn.Module, Rows, Noise], dict[str, float]]


@dataclass(frozen=True)
class Player:
    """One of the two.

    Attributes:
        loss: what it minimises.
        own: the module whose parameters it moves.
    """

    loss: Loss
    own: nn.Module


class GameFitter(Fitter):
    """Adam for both players, the second one first; an average of the first one's weights is what is kept.

    Args:
        first: the player whose module samples.
        second: its opponent, which moves first in a step.
        settings: rates and sizes; patience must be 0.
        precision: the arithmetic of the networks.
        steps: the number of steps.
        held_out: rows to measure on.
        measure: of the averaged module, the held-out rows and noise that is the same every time.
        seed: of all noise.
    """

    def __init__(
        self,
        first: Player,
        second: Player,
        settings: TrainingSettings,
        precision: Precision,
        *,
        steps: int,
        held_out: Rows,
        measure: Measure,
        seed: int,
    ) -> None:
        self.check(settings)
        self.players = {"first": first, "second": second}
        self.settings, self.precision, self.seed = settings, precision, seed
        self.batch_size, self.rows, self.measure = settings.batch_size, held_out, measure
        self.average = copy.deepcopy(first.own).requires_grad_(False).eval()
        self.ema = EMA(first.own, self.average, settings.ema * steps)
        self.stages = Stages(steps, int(settings.warmup * steps), 0)
        self.skipped = 0
        self.optimizers = {name: _adam(player.own, settings) for name, player in self.players.items()}

    @staticmethod
    def check(settings: TrainingSettings) -> None:
        """Refuse what belongs to training by one objective.

        Raises:
            InputError: a stop rule, another optimiser.
        """
        if settings.patience:
            raise InputError(
                f"patience must be 0 for a model without likelihood, which has nothing to stop by, got {settings.patience}; leave it out"
            )
        if settings.optimizer != "adamw":
            raise InputError(
                f"optimizer={settings.optimizer} is for models with one objective, and this one has two; leave it out"
            )

    def last(self) -> int:
        """All steps."""
        return self.stages.last

    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """A step of the second player, then one of the first; a player whose loss or gradient is not finite sits it out."""
        rate = self.settings.lr * self.stages.rate(number)
        noise = Noise(self.seed, "train", number)
        second = self._move("second", batch, noise, rate)
        first = self._move("first", batch, noise, rate)
        self.ema.update()
        return {
            "loss": first[0],
            "opponent": second[0],
            "grad_norm": max(first[1], second[1]),
            "lr": rate,
            "skipped": float(self.skipped),
        }

    def _move(self, name: str, batch: Batch, noise: Noise, rate: float) -> tuple[float, float]:
        """Loss and gradient norm of a player's step."""
        player, optimizer = self.players[name], self.optimizers[name]
        player.own.train()
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight = batch.weights() / batch.weights().sum().clamp(min=1e-300)
        own = list(player.own.parameters())
        with self.precision.autocast(own[0].device):
            loss = (weight.to(torch.float32) * player.loss(batch, noise.at(name))).sum()
        slopes = torch.autograd.grad(loss, own)
        for parameter, slope in zip(own, slopes, strict=True):
            parameter.grad = slope
        norm = nn.utils.clip_grad_norm_(own, self.settings.grad_clip, foreach=True)
        if bool(torch.isfinite(loss) & torch.isfinite(norm)):
            optimizer.step()
        else:
            self.skipped += 1
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    @torch.no_grad()
    def evaluate(self, number: int) -> dict[str, float]:
        """The measure of the averaged module."""
        return self.measure(self.average, self.rows, Noise(self.seed, "held-out"))

    def keep_best(self) -> None:
        """Put the averaged weights into the first player's module."""
        self.players["first"].own.load_state_dict(self.average.state_dict())
        for player in self.players.values():
            player.own.eval()

    def state(self) -> State:
        """Weights, their average, both optimisers' moments, and counters."""
        tensors = {f"average/{name}": tensor for name, tensor in self.average.state_dict().items()}
        for name, player in self.players.items():
            tensors |= {f"{name}/{k}": v for k, v in player.own.state_dict().items()}
            tensors |= moments(self.optimizers[name], f"{name} optimizer/")
        return State(tensors, {"ema_updates": self.ema.updates, "skipped": self.skipped})

    def load_state(self, state: State) -> None:
        """Go on from a state that `state` gave."""
        self.average.load_state_dict(under("average/", state.tensors))
        for name, player in self.players.items():
            player.own.load_state_dict(under(f"{name}/", state.tensors))
            load_moments(self.optimizers[name], f"{name} optimizer/", state.tensors)
        self.ema.updates, self.skipped = state.numbers["ema_updates"], state.numbers["skipped"]


def _adam(module: nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """Without momentum, which carries a player past where its opponent has moved to."""
    return torch.optim.AdamW(
        module.parameters(),
        lr=settings.lr,
        betas=(0.0, settings.beta2),
        weight_decay=settings.weight_decay,
        foreach=True,
    )
