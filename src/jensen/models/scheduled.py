"""What a diffusion model learns of its schedule after training, kept with its weights: ends and shape (`jensen.diffusion.learned_schedule`)."""

import torch
from torch import Tensor, nn

from jensen.data.examples import Batch
from jensen.diffusion.calibration import knots_of
from jensen.diffusion.learned_schedule import FEWEST, PLACES, SHAPE, best_ends, low_variance_shape, measured_integrand
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform, Shaped
from jensen.models.diffusion_parts import check_learned
from jensen.models.model import OnCalls
from jensen.noise import Noise
from jensen.rules import RISING, Rule, between, first_broken


class Scheduled(nn.Module):
    """A model with a reverse process along the widest chain until more is learned.

    Attributes:
        reverse: the process, along the learned schedule.
        widest: the chain that was trained.
        ends: λ_T and λ_1, where they are learned.
        shape: of the schedule between them, where it is learned.
    """

    reverse: ReverseProcess
    widest: Chain
    ends: Tensor
    shape: Tensor

    def keep_schedule(self, *, trained_ends: bool, trained_shape: bool) -> None:
        """Make room for what is to be learned; before that, the widest ends and a straight line.

        Raises:
            InputError: the schedule has ends or a shape of its own, or there is one step.
        """
        self.widest, self.trained_ends, self.trained_shape = self.reverse.chain, trained_ends, trained_shape
        for setting, wanted in (("trained_ends", trained_ends), ("trained_shape", trained_shape)):
            if wanted:
                check_learned(self.widest, setting)
        if trained_ends:
            self.register_buffer("ends", self.widest.log_snr[[-1, 0]].clone())
        if trained_shape:
            self.register_buffer("shape", _straight())
        self._as_learned()  # the levels of a loaded model to the last digit
        self.register_load_state_dict_post_hook(lambda model, _: model._as_learned())

    @property
    def learns_schedule(self) -> bool:
        """Whether anything of it is learned."""
        return self.trained_ends or self.trained_shape

    def rules_of_schedule(self) -> dict[str, Rule]:
        """What is learned lies within that which was trained."""
        rules = {}
        if self.trained_ends:
            low, high = (float(self.widest.log_snr[place]) for place in (-1, 0))
            rules["ends"] = between(low, high, f"from {low:g} to {high:g}") & RISING
        if self.trained_shape:
            rules["shape"] = SHAPE
        return rules

    def said_of_ends(self) -> str:
        """Beside a number in continuous time, where they were chosen."""
        return ", log-SNR {1:.3g} to {0:.3g}".format(*self.ends.tolist()) if self.trained_ends else ""

    def said_of_schedule(self) -> str:
        """Beside a number of a chain, which depends on the shape as well, where there was one to be learned."""
        bent = self.trained_shape and not torch.equal(self.shape.cpu(), _straight())
        return self.said_of_ends() + (", trained shape" if bent else "")

    @torch.no_grad()
    def learn_schedule(self, batch: Batch, noise: Noise, on_calls: OnCalls) -> None:
        """From these validation rows; nothing where they are few, and no shape from a network that diverged."""
        if len(batch.x) < FEWEST:
            on_calls(len(batch.x) * len(knots_of(self.widest)))
            return
        widest = self.reverse.along(self.widest)
        found = measured_integrand(widest, batch.x, batch.id, noise, context=batch.context, on_calls=on_calls)
        high, low = self.widest.log_snr[[0, -1]].tolist()
        if self.trained_ends:
            high, low = best_ends(found, widest, batch.x)
            self.ends.copy_(torch.tensor([low, high], dtype=torch.float64))
        if self.trained_shape:
            shape = low_variance_shape(found, high, low)
            self.shape.copy_(shape if bool(shape.isfinite().all()) else self.shape)
        self._as_learned()

    def _as_learned(self) -> None:
        """The chain of the learned schedule; the widest where its numbers are none that the rules allow."""
        if not self.learns_schedule:
            return
        allowed = first_broken(self.rules_of_schedule(), dict(self.named_buffers(recurse=False))) is None
        low, high = (self.ends if self.trained_ends and allowed else self.widest.log_snr[[-1, 0]]).tolist()
        learned = Shaped(high, low, self.shape) if self.trained_shape and allowed else LogSNRUniform(high, low)
        self.reverse.chain = Chain(learned, self.widest.steps)


def _straight() -> Tensor:
    """The shape of even levels."""
    return torch.linspace(0, 1, PLACES, dtype=torch.float64)
