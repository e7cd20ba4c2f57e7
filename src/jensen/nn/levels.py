"""The levels head: an exact per-pixel Bayes denoiser under a prior that the network predicts.

Data on k levels y_1..y_k is seen through x_t = α y + σ ε. If a pixel had the categorical prior softmax(ℓ), Bayes' rule
would give its posterior and posterior mean in closed form:

    p(v | x_t) = softmax_v( ℓ_v − (y_v − x_t/α)² · SNR / 2 ),     SNR = α²/σ²,
    x̂_0 = Σ_v p(v | x_t) y_v.

The network only supplies the prior, from the context: ℓ = f W + b, with f the features of the pixel (c numbers),
W (c, k) and b (k) learned, b starting at the log-histogram of the data. At high SNR the posterior snaps to the grid
exactly, which a network that outputs x̂_0 would have to learn; at low SNR x̂_0 is the mean of the predicted prior.

k numbers a pixel are never stored for the whole batch. Rows are worked in chunks that fit the cache, and the backward
pass computes the posterior again. With p fixed, ∂x̂/∂ℓ_v = p_v (y_v − x̂), so for g = ∂L/∂x̂

    ∂L/∂f = g · (p (y W)ᵀ − x̂ · p Wᵀ),   ∂L/∂W = (g f)ᵀ p · y − (g x̂ f)ᵀ p,   ∂L/∂b likewise with f = 1:

matrix products only. By x_t itself, ∂x̂/∂(x_t/α) = SNR · Var_p(y), as Tweedie has it. SNR reaches e^13: feed the head float32 or float64, and let the loss form x̂_0 − x_0 directly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jensen.rules import FINITE, RISING, Rule, Ruled

__all__ = ["LevelsHead", "posterior_mean"]

CHUNK = 1024  # rows at a time: 1024 × 256 floats are one megabyte, so two buffers stay in the cache
FLOOR = 2.5  # no probability is below the rounding error to this power: where the SNR is high it would be far less, and the arithmetic of
# numbers next to 0 (subnormal ones) is several times slower than any other


class _Posterior:
    """p (rows, k) of a slice of rows, worked in two buffers that stay in the cache."""

    def __init__(
        self, features: Tensor, scale: Tensor, u: Tensor, weight: Tensor, bias: Tensor, values: Tensor
    ) -> None:
        self.features, self.scale, self.u = features, scale, u
        self.weight, self.bias, self.values = weight, bias, values
        self.least = torch.finfo(u.dtype).eps ** FLOOR
        self.buffers = torch.empty(2, min(CHUNK, len(u)), len(values), dtype=u.dtype, device=u.device)

    def __call__(self, rows: slice) -> Tensor:
        logits, distance = self.buffers[:, : rows.stop - rows.start].unbind(0)
        torch.addmm(self.bias, self.features[rows], self.weight, out=logits)
        torch.sub(self.values, self.u[rows], out=distance).mul_(self.scale[rows])
        logits.addcmul_(distance, distance, value=-1)
        # in place: the kernel takes a row's maximum before it writes, then goes element by element
        return torch.softmax(logits, 1, out=logits).clamp_(min=self.least)

    def slope(self, p: Tensor) -> Tensor:
        """SNR · Var_p(y) (rows, 1) of the rows whose p was the last, which it writes over; the moments are about u, which at high SNR is nearer
        than the mean of all levels.
        """
        away = self.buffers[1, : len(p)]
        p.sub_(1.001 * self.least).clamp_(min=0)  # squares reach e^40: nothing may stand at the least
        first = p.mul_(away).sum(1, keepdim=True)
        return 2 * (p.mul_(away).sum(1, keepdim=True) - first.square())


class _PosteriorMean(torch.autograd.Function):
    """x̂ (n,) from features (n, c), u (n,), SNR (n,), weight (c, k), bias (k,), values (k,); SNR and values constant."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor
    ) -> Tensor:
        u, scale = u[:, None], (0.5 * snr).sqrt()[:, None]
        mean = torch.empty_like(u)
        posterior = _Posterior(features, scale, u, weight, bias, values)
        for rows in _chunks(len(u)):
            torch.mm(posterior(rows), values[:, None], out=mean[rows])
        ctx.save_for_backward(features, u, scale, weight, bias, values, mean)
        return mean.squeeze(1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, u, scale, weight, bias, values, mean = ctx.saved_tensors
        ones = torch.ones_like(u)
        scaled = grad[:, None] * torch.cat((features, ones), dim=1)
        left = torch.cat((scaled, scaled * mean), dim=1)
        right = torch.cat((weight * values, weight)).T.contiguous()
        outer = torch.zeros(left.shape[1], len(values), dtype=left.dtype, device=left.device)
        inner = torch.empty(len(u), right.shape[1], dtype=left.dtype, device=left.device)
        posterior = _Posterior(features, scale, u, weight, bias, values)
        slope = torch.empty_like(u) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(u)):
            p = posterior(rows)
            torch.mm(p, right, out=inner[rows])
            outer.addmm_(left[rows].T, p)
            if slope is not None:
                slope[rows] = posterior.slope(p)
        first, second = outer.chunk(2)
        joint = first * values - second
        along, across = inner.chunk(2, dim=1)
        by_u = None if slope is None else grad * slope.squeeze(1)
        return grad[:, None] * (along - mean * across), by_u, None, joint[:-1], joint[-1], None


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def posterior_mean(features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """E[y | x_t] (...) for features (..., c), u = x_t/α (...), SNR (...), weight (c, k), bias (k,), values (k,).

    Differentiable once in features, u, weight and bias; the posteriors (..., k) are not stored.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        flat = features.to(dtype).reshape(-1, features.shape[-1])
        arguments = (t.to(dtype) for t in (u.reshape(-1), snr.expand_as(u).reshape(-1), weight, bias, values))
        return _PosteriorMean.apply(flat, *arguments).view(u.shape)


@torch.no_grad()
def posterior_moments(
    features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """E[y | x_t] and Var[y | x_t] (...), as `posterior_mean`, in one pass; not differentiable."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    with torch.autocast(u.device.type, enabled=False):
        flat = features.to(dtype).reshape(-1, features.shape[-1])
        rows, snr = u.to(dtype).reshape(-1, 1), snr.to(dtype).expand_as(u).reshape(-1, 1)
        weight, bias, values = (t.to(dtype) for t in (weight, bias, values))
        posterior = _Posterior(flat, (0.5 * snr).sqrt(), rows, weight, bias, values)
        mean, slope = torch.empty_like(rows), torch.empty_like(rows)
        for chunk in _chunks(len(rows)):
            p = posterior(chunk)
            torch.mm(p, values[:, None], out=mean[chunk])
            slope[chunk] = posterior.slope(p)
    return mean.view(u.shape), (slope / snr).clamp(min=0).view(u.shape)


class LevelsHead(nn.Module, Ruled):
    """Features of each pixel and x_t → E[x_0 | x_t] under the prior softmax(f W + b) over the levels.

    Args:
        features: c, numbers per pixel and channel that the network supplies.
        values: (k,) the levels in model units.

    Example:
        >>> head = LevelsHead(4, torch.linspace(-1, 1, 17))
        >>> one = torch.ones(2, 1, 1, 1)
        >>> head(torch.zeros(2, 3 * 4, 8, 8), torch.zeros(2, 3, 8, 8), 0.8 * one, 0.6 * one).shape
        torch.Size([2, 3, 8, 8])
    """

    values: Tensor

    def __init__(self, features: int, values: Tensor) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("values", values.detach().clone())
        self.weight = nn.Parameter(torch.randn(features, len(values), dtype=values.dtype) / features**0.5)
        self.bias = nn.Parameter(torch.zeros_like(values))

    def rules(self) -> dict[str, Rule]:
        """Levels in their order, weights that are numbers."""
        return {"values": RISING, "weight": FINITE, "bias": FINITE}

    def forward(self, features: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """features (B, C·c, …), x_t (B, C, …), alpha and sigma broadcastable to x_t → E[x_0 | x_t] (B, C, …)."""
        f = self._last(features, x_t)
        return posterior_mean(f, x_t / alpha, (alpha / sigma) ** 2, self.weight, self.bias, self.values)

    def moments(self, features: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """As forward → E[x_0 | x_t] and Var[x_0 | x_t] (B, C, …), not differentiable."""
        f = self._last(features, x_t)
        return posterior_moments(f, x_t / alpha, (alpha / sigma) ** 2, self.weight, self.bias, self.values)

    def _last(self, features: Tensor, x_t: Tensor) -> Tensor:
        """(B, C·c, …) → (B, C, …, c)."""
        batch, channels, *rest = x_t.shape
        return features.reshape(batch, channels, self.features, *rest).movedim(2, -1)
