"""Classifier-free guidance: a denoiser made of another's answers with and without the context.

    x̂_0(x_t, ∅) + w (x̂_0(x_t, c) - x̂_0(x_t, ∅))

(Ho and Salimans 2022, equation 6, with w for their 1 + w.) A score is affine in x̂_0, so that at each noise level this one's is
∇ log p_t(x)^{1-w} p_t(x | c)^w: w = 1 is the plain conditional model, w = 0 the unconditional one. For any other w these are not the marginals
of a diffusion of anything: samples follow a law of their own, that of the chain or the flow with this x̂_0 in it. A bound of that chain is a bound for that
law, and not for p(x | c).
"""

from jaxtyping import Float
from torch import Tensor

from jensen.diffusion.denoiser import Denoiser


class Guided(Denoiser):
    """Twice the network calls, but where w is 1 or no context is given.

    Args:
        denoiser: one that knows x with and without its context.
        weight: w.
    """

    def __init__(self, denoiser: Denoiser, weight: float) -> None:
        super().__init__()
        self.denoiser, self.weight = denoiser, float(weight)

    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """The guided x̂_0."""
        return self.moments(x_t, log_snr, context, spread=False)[0]

    def moments(
        self,
        x_t: Float[Tensor, "B *event"],
        log_snr: Float[Tensor, " B"],
        context: Tensor | None = None,
        *,
        spread: bool,
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """The guided x̂_0, and what the denoiser says of the variance given the context."""
        told, variance = self.denoiser.moments(x_t, log_snr, context, spread=spread)
        if context is None or self.weight == 1:
            return told, variance
        plain = self.denoiser(x_t, log_snr)
        return plain + self.weight * (told - plain), variance
