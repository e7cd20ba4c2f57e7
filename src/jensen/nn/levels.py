"""The levels head: an exact per-pixel Bayes denoiser under a prior that the network predicts.

Data on k levels y_1..y_k is seen through x_t = α y + σ ε. If a pixel had the categorical prior softmax(ℓ), Bayes' rule
would give its posterior and posterior mean in closed form:

    p(v | x_t) = softmax_v( ℓ_v − (y_v − x_t/α)² · SNR / 2 ),     SNR = α²/σ²,
    x̂_0 = Σ_v p(v | x_t) y_v.

The network only supplies the prior, from the context: ℓ = f W + b, with f the features of the pixel (c numbers),
W (c, k) and b (k) learned, b starting at the log-histogram of the data. At high SNR the posterior snaps to the grid
exactly, which a network that outputs x̂_0 would have to learn; at low SNR x̂_0 is the mean of the predicted prior.

Rows are worked in chunks that fit the cache. As ∂p_w/∂ℓ_v = p_v (δ_vw − p_w), ∂x̂/∂ℓ_v = p_v (y_v − x̂) = r_v, so for g = ∂L/∂x̂

    ∂L/∂f = g · r Wᵀ,   ∂L/∂W = (g f)ᵀ r,   ∂L/∂b = gᵀ r:

matrix products only. Σ_v r_v = 0, so that r Wᵀ is a difference of like numbers: it is taken in the forward pass, in full precision. For ∂W
and ∂b the k numbers r of each row are kept, in bfloat16 where the features are, if those of the batch take at most 128 MiB; else they are
computed again. By x_t itself, ∂x̂/∂(x_t/α) = SNR · Var_p(y), as Tweedie has it. SNR reaches e^13: feed x_t, α and σ in float32 or float64,
and let the loss form x̂_0 − x_0 directly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from jensen.rules import FINITE, RISING, Rule, Ruled

__all__ = ["LevelsHead", "posterior_mean"]

KEPT = 1 << 27  # bytes of r that are kept for the backward pass of one call
CHUNK = 1024  # rows at a time: 1024 × 256 floats are one megabyte, so two buffers stay in the cache
FLOOR = 2.5  # no probability is below the rounding error to this power: where the SNR is high it would be far less, and the arithmetic of
# numbers next to 0 (subnormal ones) is several times slower than any other


class _Posterior:
    """p (rows, k) of a slice of rows and what follows from it, in two buffers that stay in the cache and are written over by the next."""

    def __init__(self, features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor) -> None:
        self.features, self.u, self.scale = features, u, (0.5 * snr).sqrt()
        self.weight, self.bias, self.values = weight, bias, values
        self.least = torch.finfo(u.dtype).eps ** FLOOR
        self.buffers = torch.empty(2, min(CHUNK, len(u)), len(values), dtype=u.dtype, device=u.device)

    def __call__(self, rows: slice) -> Tensor:
        logits, away = self.buffers[0, : rows.stop - rows.start], self._away(rows)
        torch.addmm(self.bias, self.features[rows].to(logits), self.weight, out=logits)
        logits.addcmul_(away, away, value=-1)
        # in place: the kernel takes a row's maximum before it writes, then goes element by element
        return torch.softmax(logits, 1, out=logits).clamp_(min=self.least)

    def mean(self, *, slope: Tensor | None = None) -> Tensor:
        """x̂ (n, 1) of all rows; ∂x̂/∂(x_t/α) is written into `slope` (n, 1) where it is given."""
        mean = torch.empty_like(self.u)
        for rows in _chunks(len(mean)):
            p = self(rows)
            torch.mm(p, self.values[:, None], out=mean[rows])
            if slope is not None:
                slope[rows] = self.slope(rows, p)
        return mean

    def pull(self, p: Tensor, mean: Tensor) -> Tensor:
        """∂x̂/∂ℓ = p (y − x̂) (rows, k)."""
        return torch.sub(self.values, mean, out=self.buffers[1, : len(p)]).mul_(p)

    def slope(self, rows: slice, p: Tensor) -> Tensor:
        """∂x̂/∂(x_t/α) = SNR · Var_p(y) (rows, 1), which writes over p; the moments are about u, which at high SNR is nearer than the mean of
        all levels.
        """
        away = self._away(rows)
        p.sub_(1.001 * self.least).clamp_(min=0)  # squares reach e^40: nothing may stand at the least
        first = p.mul_(away).sum(1, keepdim=True)
        return 2 * (p.mul_(away).sum(1, keepdim=True) - first.square())

    def _away(self, rows: slice) -> Tensor:
        """(y − u) √(SNR/2) (rows, k)."""
        away = self.buffers[1, : rows.stop - rows.start]
        return torch.sub(self.values, self.u[rows], out=away).mul_(self.scale[rows])


class _PosteriorMean(torch.autograd.Function):
    """x̂ (n, 1) from features (n, c), u (n, 1), SNR (n, 1), weight (c, k), bias (k,), values (k,); SNR and values constant."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor
    ) -> Tensor:
        posterior = _Posterior(features, u, snr, weight, bias, values)
        mean, along = torch.empty_like(u), u.new_empty(features.shape)
        keeps = len(u) * len(values) * features.element_size() <= KEPT
        kept = features.new_empty(len(u), len(values)) if keeps else None
        slope = torch.empty_like(u) if ctx.needs_input_grad[1] else None
        for rows in _chunks(len(u)):
            p = posterior(rows)
            torch.mm(p, values[:, None], out=mean[rows])
            pull = posterior.pull(p, mean[rows])
            torch.mm(pull, weight.T, out=along[rows])
            if kept is not None:
                kept[rows] = pull
            if slope is not None:
                slope[rows] = posterior.slope(rows, p)
        ctx.save_for_backward(features, u, snr, weight, bias, values, mean, along, kept, slope)
        return mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        features, u, snr, weight, bias, values, mean, along, kept, slope = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            left = (grad * torch.cat((features, torch.ones_like(features[:, :1])), dim=1)).to(features).T
            if kept is not None:
                across = (left @ kept).to(u)
            else:
                posterior = _Posterior(features, u, snr, weight, bias, values)
                across = u.new_zeros(len(left), len(values))
                for rows in _chunks(len(u)):
                    across += left[:, rows] @ posterior.pull(posterior(rows), mean[rows]).to(left)
        by_u = None if slope is None else grad * slope
        return (grad * along).to(features), by_u, None, across[:-1], across[-1], None


def _chunks(n: int) -> list[slice]:
    return [slice(start, min(start + CHUNK, n)) for start in range(0, n, CHUNK)]


def posterior_mean(features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """E[y | x_t] (...) for features (..., c), u = x_t/α (...), SNR (...), weight (c, k), bias (k,), values (k,).

    Differentiable once in features, u, weight and bias.
    """
    with torch.autocast(u.device.type, enabled=False):
        given = _flat(features, u, snr, weight, bias, values)
        differentiated = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        mean = _PosteriorMean.apply(*given) if differentiated else _Posterior(*given).mean()
        assert isinstance(mean, Tensor)
        return mean.view(u.shape)


@torch.no_grad()
def posterior_moments(
    features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """E[y | x_t] and Var[y | x_t] (...), as `posterior_mean`, in one pass; not differentiable."""
    with torch.autocast(u.device.type, enabled=False):
        given = _flat(features, u, snr, weight, bias, values)
        slope = torch.empty_like(given[1])
        mean = _Posterior(*given).mean(slope=slope)
    return mean.view(u.shape), (slope / given[2]).clamp(min=0).view(u.shape)


def _flat(features: Tensor, u: Tensor, snr: Tensor, *others: Tensor) -> list[Tensor]:
    """Features (n, c), in bfloat16 or the type of the others; u and SNR (n, 1), weight, bias and values, all in float32 or float64."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    kind = torch.bfloat16 if features.dtype == torch.bfloat16 else dtype
    columns = (t.to(dtype).reshape(-1, 1) for t in (u, snr.expand_as(u)))
    return [features.to(kind).reshape(-1, features.shape[-1]), *columns, *(t.to(dtype) for t in others)]


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
