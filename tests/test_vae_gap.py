"""The gap of the bound in a world where both shares are in closed form, and the sandwich. Seeds fixed; 4 standard errors."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.ppca import PPCA
from jensen.models.vae import VAE
from jensen.noise import Noise

F64 = torch.float64


def world(posterior: str) -> tuple[VAE, PPCA, Tensor]:
    """A linear decoder with noise; an encoder that says N(0.3, ·) of every row."""
    generator = torch.Generator().manual_seed(0)
    other = PPCA((3,), Real(), n_components=2)
    other.loadings.copy_(torch.tensor([[1.0, 0.9], [0.5, 0.6], [-0.6, -0.2]], dtype=F64))
    other.noise.fill_(0.4)
    model = VAE((3,), Real(), latent_dim=2, posterior=posterior, depth=0, network="mlp").double()  # type: ignore[arg-type]
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for tensor in parameters.values():
            tensor.zero_()
        parameters["parts.emission.network.network.layers.0.weight"].copy_(other.loadings)
        parameters["parts.emission.observed.spreads.0.log_scale"].fill_(0.5 * math.log(0.4))
        parameters["parts.posterior.network.network.layers.0.bias"][:2] = 0.3
    x = torch.randn(5, 3, dtype=F64, generator=generator)
    return model.eval(), other, x


def precision(other: PPCA) -> Tensor:
    return torch.eye(2, dtype=F64) + other.loadings.T @ other.loadings / 0.4


def test_shares_are_the_divergences_of_the_best_member_and_of_the_encoders():
    """For the posterior N(m, Λ⁻¹) the best diagonal q has mean m and variances 1/Λ_dd; its divergence is ½ (Σ log Λ_dd - log |Λ|)."""
    model, other, x = world("diagonal")
    found = model.gap(x, draws=500)
    exact = other.log_likelihood(x).value
    lam = precision(other)
    family = 0.5 * float(lam.diagonal().log().sum() - torch.logdet(lam))
    assert family > 0.1
    assert float((found.log_p.value - exact).abs().max()) < 4 * float(found.log_p.stderr.max())
    errors = (found.refined.stderr.square() + found.log_p.stderr.square()).sqrt()
    assert bool((found.family - family > -4 * errors).all())
    assert bool((found.family - family < 4 * errors + 0.01).all()), "the ascent ends near the top"
    q = model.parts.posterior(x)
    whole = MultivariateNormal(other.encode(x), precision_matrix=lam)
    divergence = torch.distributions.kl_divergence(MultivariateNormal(q.loc, torch.diag_embed(q.variance)), whole)
    error = (found.refined.stderr.square() + found.elbo.stderr.square()).sqrt()
    assert float(((found.amortisation - (divergence.detach() - family)).abs() - 0.01).clamp(min=0).div(error).max()) < 4


def test_a_family_that_holds_the_posterior_has_no_share():
    model, _, x = world("full")
    found = model.gap(x, draws=500)
    assert float(found.family.abs().max()) < 0.01
    assert float(found.amortisation.min()) > 0.1


def test_what_has_no_gap_to_take_apart_is_refused_before_any_work():
    two = VAE((3,), Real(), latent_dim=2, latent_layers=2, network="mlp")
    bound = VAE((3,), Real(), latent_dim=2, prior="diffusion", network="mlp")
    with pytest.raises(InputError, match="latent_layers=1 alone, got 2"):
        two.check_gap()
    with pytest.raises(InputError, match="of prior=diffusion no log p is to be had"):
        bound.check_gap()


def test_company_changes_no_rows_gap():
    model, _, x = world("diagonal")
    whole = model.gap(x, steps=20, draws=100)
    alone = model.gap(x[3:4], ids=torch.tensor([3]), steps=20, draws=100)
    assert torch.allclose(whole.family[3:4], alone.family, atol=1e-8)


def test_the_sandwich_on_simulated_rows_holds_the_truth():
    model, other, _ = world("diagonal")
    found = model.certified(120, temperatures=12, chains=2)
    assert found.gap > -4 * found.stderr
    assert found.gap < 0.7
    ids, noise = torch.arange(120), Noise(0, "certified")
    z = model.parts.prior.draw(ids, noise.at("z"))
    x = model.parts.emission(z).draw(noise.at("x").uniform(ids, (3, 2)))  # type: ignore[attr-defined]
    truth = other.log_likelihood(x).value
    error = float((found.upper - found.lower).std()) / math.sqrt(120)
    assert float((found.lower - truth).mean()) < 4 * error
    assert float((found.upper - truth).mean()) > -4 * error
    worse = model.certified(120, temperatures=2, chains=2)
    assert worse.gap > found.gap
