"""The density of a mixture of codes, held against torch's, and its draws."""

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from jensen.noise import Noise
from jensen.vae.prior import MixturePrior, log_mixture

F64 = torch.float64


def test_products_of_matrices_are_torchs_mixture_with_its_gradient():
    """Scales from 0.001 to 2, components 5 apart; points at their middles, near and far."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, generator=generator, dtype=F64)
    means = 5 * torch.randn(4, 3, generator=generator, dtype=F64)
    scale = torch.logspace(-3, 0.3, 12, dtype=F64).view(4, 3)
    z = torch.cat([means, means + scale, torch.randn(20, 3, generator=generator, dtype=F64)])
    inputs = [t.requires_grad_() for t in (z, logits, means, scale)]
    found = log_mixture(z, logits.log_softmax(0), means, scale.square())
    wanted = MixtureSameFamily(Categorical(logits=logits), Independent(Normal(means, scale), 1)).log_prob(z)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-7)
    for mine, torchs in zip(
        torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(wanted.sum(), inputs), strict=True
    ):
        torch.testing.assert_close(mine, torchs, rtol=1e-7, atol=1e-3)


def test_draws_have_the_density():
    """E[-log p] of draws is the entropy by draws of torch's mixture, 4 standard errors, seed 0."""
    torch.manual_seed(0)
    prior = MixturePrior(2, 3)
    with torch.no_grad():
        prior.mixture.raw["variances"].uniform_(-4, 0)
        prior.mixture.logits.copy_(torch.tensor([0.0, 1.0, -1.0]))
        own = prior(torch.zeros(4000, 0)).log_prob(prior.draw(torch.arange(4000), Noise(0)))
        now = prior.mixture.parameters_now()
        law = MixtureSameFamily(
            Categorical(now.weights), Independent(Normal(now.means, now.spread["variances"].sqrt()), 1)
        )
        other = law.log_prob(law.sample((4000,)))
    assert abs(float(own.mean() - other.mean())) < 4 * float((own.var() + other.var()) / 4000) ** 0.5
