"""p(z) by a diffusion model of codes: latent diffusion, trained together with both networks (Vahdat, Kreis and Kautz 2021, "Score-based
generative modeling in latent space"; Rombach et al. 2022).

Its log-density is known by a bound alone, of which a draw looks at two terms: with i uniform on 2 … T and ε, ε' ~ N(0, I),

    log p(z) ≥ E[-L_T - L_0(z, ε') - (T - 1) L_{i-1}(z, ε)]

(`diffusion.reverse`; L_0 is of another size than the rest, and whether it was drawn with them would be most of the error). So it may stand in an ELBO, and nowhere inside a logarithm of a mean: its `log_density` is "bound", and iwae and ais
refuse it. i, ε and ε' come from the same noise as z, so that a row's numbers are its own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.data.space import Real
from jensen.diffusion.denoiser import NetworkDenoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import controlled
from jensen.diffusion.parametrisation import PARAMETRISATIONS
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import sample
from jensen.diffusion.schedule import schedule_from
from jensen.diffusion.solvers.ancestral import Ancestral
from jensen.diffusion.variance import variance_from
from jensen.nn.mlp import MLP
from jensen.noise import Noise
from jensen.vae.prior import Prior, Scored

STEPS, START, END, FIRST_SCALE = 250, 9.0, -7.0, 0.02
WIDTH, DEPTH = 128, 3


class DiffusionPrior(Prior):
    """A DDPM of codes.

    Args:
        dims: of z.
    """

    log_density = "bound"

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dims, self.noise_dims = dims, 2 * dims + 1
        with torch.device("cpu"):  # the chain is small and always here, also when only shapes are wanted (meta)
            chain = Chain(schedule_from("log-snr", start=START, end=END), STEPS)
            variance = variance_from("calibrated", chain.log_snr)  # β as long as it is not, and its errors are known
            emission = Emission(Real(), FIRST_SCALE)
        denoiser = NetworkDenoiser(MLP(dims, dims, width=WIDTH, depth=DEPTH), PARAMETRISATIONS["v"]())
        self.reverse = ReverseProcess(chain, denoiser, variance, emission)

    def forward(self, given: Tensor) -> Scored:
        """Refused: a term of the bound is chosen by noise; see `law`."""
        raise NotImplementedError("the bound of a diffusion prior needs noise")

    def law(self, noise: Float[Tensor, "draws B E"]) -> Scored:
        """L_T, L_0 and one other term of the bound for every draw, chosen by its noise."""
        flat = noise.flatten(0, 1)
        return Scored(lambda z: self._bound(z.float(), flat), noise.shape[1], self.dims)

    def _bound(self, z: Tensor, noise: Tensor) -> Tensor:
        """-L_T - L_0 - (T - 1) L_{i-1}."""
        others = self.reverse.chain.steps - 1
        i = 2 + (torch.special.ndtr(noise[:, 0].double().cpu()) * others).long().clamp(max=others - 1)
        first, eps = noise[:, 1:].to(z).split(self.dims, 1)
        cost = self.reverse.prior_term(z) + controlled(self.reverse, z, None, first)
        return -(cost + others * controlled(self.reverse, z, i, eps)).to(z.device)

    @torch.no_grad()
    def draw(self, ids: Tensor, noise: Noise) -> Tensor:
        """Ancestrally, in all steps."""
        like = next(self.parameters())
        return sample(self.reverse, (self.dims,), ids, noise, Ancestral(), like=like).double()

    @torch.no_grad()
    def calibrate(self, z: Float[Tensor, "n D"], noise: Noise) -> None:
        """The scale of the last step, from codes."""
        first = torch.ones(len(z), dtype=torch.int64)
        eps = noise.normal(range(len(z)), (self.dims,)).to(z)
        log_snr = self.reverse.chain.log_snr[0]
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        noisy = (alpha * z + sigma * eps).float()
        self.reverse.emission.calibrate(z.float(), self.reverse.denoise(noisy, first))
