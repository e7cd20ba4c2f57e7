"""Prior, emission and posterior of a VAE from what was said of its networks, its latents and its emission."""

from dataclasses import dataclass

from jensen.data.space import Space
from jensen.vae.diffusion_prior import DiffusionPrior
from jensen.vae.emission import Emission
from jensen.vae.networks import Shape
from jensen.vae.parts import Parts
from jensen.vae.posterior import FAMILIES, NormalGiven, Posterior, TwoLayers
from jensen.vae.prior import MixturePrior, Prior, StandardNormal, TwoLayerPrior, VampPrior
from jensen.vae.words import Said


@dataclass(frozen=True)
class Latents:
    """What z is, how it is drawn and guessed."""

    dims: int
    layers: int
    posterior: str
    prior: str
    components: int


def parts_of(shape: Shape, space: Space, said: Said, latents: Latents) -> Parts:
    """Prior, emission and posterior."""
    observed = said.observed(space, shape.cells)
    first = 2 * latents.dims if latents.layers == 2 else latents.dims
    family = FAMILIES[latents.posterior](first)
    shape.check(family.features, first, observed.outputs)
    posterior = Posterior(shape.encoder(family.features), family, shape.event)
    emission = Emission(shape.decoder(first, observed.outputs), observed, shape.event, first)
    if latents.layers == 1:
        return Parts(_prior(latents, posterior, shape.event), emission, posterior, shape.classes)
    width, depth = (shape.width // 2, shape.depth) if shape.word == "mlp" else (64, 1)
    up, down = (
        NormalGiven(a, b, width=max(1, width), depth=depth, activation=shape.activation)
        for a, b in ((first, latents.dims), (latents.dims, first))
    )
    prior = TwoLayerPrior(StandardNormal(latents.dims), down, first)
    return Parts(prior, emission, TwoLayers(posterior, up, latents.dims), shape.classes)


def _prior(latents: Latents, posterior: Posterior, event: tuple[int, ...]) -> Prior:
    if latents.prior == "mixture":
        return MixturePrior(latents.dims, latents.components)
    if latents.prior == "vamp":
        return VampPrior(posterior, latents.dims, latents.components, event)
    if latents.prior == "diffusion":
        return DiffusionPrior(latents.dims)
    return StandardNormal(latents.dims)
