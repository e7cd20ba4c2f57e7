"""What a diffusion model is trained on: a weighted squared error at one random step of the chain for each row, or a term of the bound.

The step is stratified over the batch: row b looks at i = F⁻¹(u + b/B mod 1), u uniform, F the distribution function of q. With `adaptive`
q(i) follows p(i) sqrt(E loss_i²), the second moments learned on the way in bins of steps, and the loss is multiplied by p(i)/q(i), so that its
mean is what it was and its variance the least (Nichol and Dhariwal 2021, section 3.3; Kingma and Gao 2023, section F).
"""

from itertools import pairwise

import torch
from torch import Tensor

from jensen.data.examples import Batch
from jensen.data.space import Levels
from jensen.diffusion.denoiser import NetworkDenoiser
from jensen.diffusion.dequantisation import LearnedSpread
from jensen.diffusion.parametrisation import Eps
from jensen.diffusion.process import diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.variance import Learned
from jensen.diffusion.weighting import weighting_from
from jensen.distributions.picking import picked
from jensen.noise import Noise
from jensen.training.fitter import Objective

PARTS = 8  # of the chain, for held-out terms
BINS = 64  # whose second moments are learned
MEMORY, UNIFORM = 0.99, 0.1
HYBRID = 1e-3  # the bound's share where the network learns the variance (Nichol and Dhariwal 2021, section 3.1)
WIDTH = 2.5  # of the emphasis, in λ
PLACED, SHARE = 8, 1e-3  # one row in so many for the dequantisation, and its weight


class DDPMObjective(Objective):
    """The objective of `jensen.diffusion.weighting` that a word stands for, a dimension: of "bound" T times a random term of the bound.

    Args:
        reverse: the process whose denoiser is trained.
        loss: the word.
        emphasis: q(i) ∝ 1 + emphasis · exp(-λ_i²/(2·2.5²)), for "simple". It is not divided out again: it is a weight, like the one by which
            "simple" differs from the bound anyway.
        adaptive: learn q(i) on the way, and divide it out.
        spread: the standard deviation of the data, for "edm".
        places: the flow's dequantisation where it is learned: on an eighth of the rows.
    """

    looks = 1 + PARTS
    second_moments: Tensor

    def __init__(
        self,
        reverse: ReverseProcess,
        loss: str,
        emphasis: float = 0.0,
        *,
        adaptive: bool = False,
        spread: float = 1.0,
        places: LearnedSpread | None = None,
    ) -> None:
        super().__init__()
        self.reverse, self.loss, self.adaptive, self.places = reverse, loss, adaptive, places
        log_snr, denoiser = reverse.chain.log_snr, reverse.denoiser
        target = denoiser.parametrisation if isinstance(denoiser, NetworkDenoiser) else Eps()
        self.weighting = None if loss == "bound" else weighting_from(loss, target, spread)
        shares = torch.full_like(log_snr, 1 / len(log_snr)) if self.weighting is None else self.weighting.steps(log_snr)
        bump = emphasis * torch.exp(-0.5 * (log_snr / WIDTH).square())
        self.shares = shares * (1 + bump) / (shares * (1 + bump)).sum()
        bins = min(BINS, len(log_snr))
        self.bin = torch.arange(len(log_snr)) * bins // len(log_snr)
        if adaptive:
            self.register_buffer("second_moments", torch.zeros(bins, dtype=torch.float64))

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        x_0 = batch.x
        place = (noise.at("t").uniform([0])[0] + torch.arange(len(x_0)).double() / len(x_0)) % 1.0
        q = self._proposal() if self.adaptive else self.shares
        at = picked(q, place)
        eps = noise.at("eps").normal(batch.id, tuple(x_0.shape[1:])).to(x_0)
        loss = self._loss(x_0, 1 + at, eps, batch.context)
        if self.adaptive:
            if self.training:
                self._learn(self.bin[at], loss.detach().double().cpu())
            loss = loss * (self.shares[at] / q[at]).to(loss)
        return loss if self.places is None else loss + self._of_places(batch, noise).to(loss)

    def _of_places(self, batch: Batch, noise: Noise) -> Tensor:
        """What the first eighth of the rows says of the dequantisation, 0 for the others; small, so as not to count in the gradient's norm."""
        some = slice(0, -(-len(batch.x) // PLACED))
        space, high = self.reverse.emission.space, float(self.reverse.chain.log_snr[0])
        assert self.places is not None
        assert isinstance(space, Levels)
        x = batch.x[some]
        u = noise.at("place").uniform(batch.id[some], (x[0].numel(),))
        given = None if batch.context is None else batch.context[some]
        cost = self.places.cost(x, u, space, self.reverse.denoiser, high, given)
        return torch.cat([SHARE * cost, cost.new_zeros(len(batch.x) - len(x))])

    def _loss(self, x_0: Tensor, i: Tensor, eps: Tensor, context: Tensor | None) -> Tensor:
        if self.weighting is None:
            return self.reverse.chain.steps * self.reverse.term(x_0, i, eps, context) / x_0[0].numel()
        log_snr = self.reverse.chain.log_snr[i - 1]
        learns_variance = isinstance(self.reverse.variance, Learned)  # others are measured, later
        x = diffuse(x_0, eps, log_snr)
        denoised, said = self.reverse.denoiser.moments(x, log_snr, context, spread=learns_variance)
        error = x_0 - denoised
        loss = self.weighting.weight(log_snr).to(error) * error.square().flatten(1).mean(1)
        return loss + HYBRID * self._of_variance(x_0, i, denoised, said).to(loss) if learns_variance else loss

    def _of_variance(self, x_0: Tensor, i: Tensor, denoised: Tensor, said: Tensor | None) -> Tensor:
        """The sum of the bound's terms a dimension, by one of them over how often it is looked at; its gradient reaches the variance alone. 0 for
        L_0, which has an emission.
        """
        divergence = self.reverse.divergence(x_0, denoised.detach(), self.reverse.variance_at(i, said), i)
        return torch.where(i > 1, divergence / (self.shares[i - 1] * x_0[0].numel()), 0.0)

    def _proposal(self) -> Tensor:
        """q(i); a bin that was not seen yet counts as the mean of those that were."""
        moments = self.second_moments.cpu()
        seen = moments > 0
        if not bool(seen.any()):
            return self.shares
        moments = torch.where(seen, moments, moments[seen].mean())
        shaped = self.shares * moments.sqrt()[self.bin]
        return (1 - UNIFORM) * shaped / shaped.sum() + UNIFORM * self.shares

    def _learn(self, bins: Tensor, loss: Tensor) -> None:
        """Running means of loss² in the bins that were seen, the first as it is."""
        finite = loss.isfinite()
        bins, squares = bins[finite], loss[finite].square()
        count = torch.bincount(bins, minlength=len(self.second_moments))
        mean = torch.bincount(bins, squares, minlength=len(self.second_moments)) / count.clamp(min=1)
        old = self.second_moments.cpu()
        kept = torch.where(old == 0, 0.0, MEMORY)
        self.second_moments.copy_(torch.where(count > 0, kept * old + (1 - kept) * mean.clamp(min=1e-30), old))

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The bound of each row from L_0 and one step in each of eight equal parts of the rest; minus the costs."""
        steps, event, given = self.reverse.chain.steps, tuple(batch.x.shape[1:]), batch.context
        edges = torch.linspace(1, steps, min(PARTS, steps - 1) + 1).round().long().tolist()
        first = torch.ones(len(batch.x), dtype=torch.int64)
        eps = noise.at("first").normal(batch.id, event).to(batch.x)
        terms = {"prior": -self.reverse.prior_term(batch.x), "step 1": -self.reverse.term(batch.x, first, eps, given)}
        for number, (low, high) in enumerate(pairwise(edges)):
            stream = noise.at("part", number)
            u = stream.at("t").uniform(batch.id)
            i = 1 + low + ((high - low) * u).long().clamp(max=high - low - 1)
            eps = stream.at("eps").normal(batch.id, event).to(batch.x)
            terms[f"steps {low + 1}-{high}"] = -(high - low) * self.reverse.term(batch.x, i, eps, given)
        return terms
