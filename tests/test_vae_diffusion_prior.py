"""A diffusion model of codes as prior: a bound, typed as one. Seeds fixed; 4 standard errors."""

import math

import numpy as np
import pytest
import torch

import jensen
from jensen.errors import InputError
from jensen.models.vae import VAE
from jensen.noise import Noise
from jensen.vae.diffusion_prior import DiffusionPrior

F64 = torch.float64


@pytest.fixture(autouse=True)
def fewer_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 of the chain and not 250: what is tested holds for any number."""
    monkeypatch.setattr("jensen.vae.diffusion_prior.STEPS", 50)


def prior(dims: int = 1) -> DiffusionPrior:
    torch.manual_seed(0)
    return DiffusionPrior(dims).eval()


@torch.no_grad()
def test_the_mean_over_its_noise_is_the_whole_bound():
    """Σ of all T terms, each by many ε, against the mean of what the noise chooses."""
    model = prior(2)
    z = torch.tensor([[0.5, -1.2]])
    steps = model.reverse.chain.steps
    i = torch.arange(1, steps + 1)
    eps = torch.randn(150, steps, 2, generator=torch.Generator().manual_seed(1))
    whole = torch.stack([model.reverse.term(z.expand(steps, 2), i, e).sum() for e in eps])
    wanted = -(float(model.reverse.prior_term(z)) + float(whole.mean()))
    noise = torch.randn(30_000, 1, 5, generator=torch.Generator().manual_seed(2))
    found = model.law(noise).log_prob(z.expand(30_000, 1, 2))[:, 0]
    error = math.hypot(float(found.std()) / math.sqrt(30_000), float(whole.std()) / math.sqrt(150))
    assert abs(float(found.mean()) - wanted) < 4 * error


def test_samples_and_bound_are_of_one_law():
    """Trained on two clusters of codes: samples are in both, and the bound beats N(0, 1) by some tenths of a nat."""
    draw = np.random.default_rng(0)
    z = torch.from_numpy(draw.normal(size=(2000, 1)) * 0.25 + draw.choice([-1, 1], size=(2000, 1))).float()
    model = prior().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        eps = Noise(0, "step", step).normal(range(256), (1, 3)).transpose(0, 1)
        rows = z[Noise(0, "rows", step).permutation(2000)[:256]]
        optimizer.zero_grad()
        (-model.law(eps).log_prob(rows[None]).mean()).backward()
        optimizer.step()
    model.eval()
    model.calibrate(z, Noise(0, "calibrate"))
    drawn = model.draw(torch.arange(600), Noise(0, "draw"))
    assert 0.3 < float((drawn > 0).double().mean()) < 0.7
    assert float((drawn.abs() - 1).abs().mean()) < 0.4
    with torch.no_grad():
        noise = torch.randn(10, 2000, 3, generator=torch.Generator().manual_seed(4))
        bound = model.law(noise).log_prob(z.expand(10, 2000, 1)).mean(0)
    normal = torch.distributions.Normal(0.0, float(z.std())).log_prob(z[:, 0])
    mixture = torch.logsumexp(
        torch.stack([torch.distributions.Normal(c, 0.25).log_prob(z[:, 0]) for c in (-1.0, 1.0)]), 0
    ) - math.log(2)
    assert float(normal.mean()) + 0.2 < float(bound.mean()) < float(mixture.mean()) + 0.02


def test_only_the_elbo_is_told(tmp_path):
    split = jensen.load_data(np.random.default_rng(0).normal(size=(200, 4)))
    run = jensen.fit(split, "vae", prior="diffusion", latent_dim=2, width=16, depth=1, steps=40, progress=False)
    found = run.log_likelihood(split.test, repetitions=4)
    assert found.kind == "lower bound"
    assert found.stderr is not None
    again = run.log_likelihood(split.test, repetitions=4, batch_size=7)
    assert torch.allclose(found.value, again.value, atol=1e-4)
    for method in ("iwae", "ais"):
        with pytest.raises(InputError, match=r"DiffusionPrior gives a bound on its log-density.*take method=elbo"):
            run.log_likelihood(split.test, method=method)
    run.save(tmp_path)
    loaded = jensen.load(tmp_path)
    assert torch.equal(loaded.sample(5, seed=1), run.sample(5, seed=1))
    with pytest.raises(InputError, match="prior=diffusion gives a bound on log p"):
        VAE((4,), split.space, prior="diffusion", objective="iwae")


def test_the_whole_model_of_three_bits_is_bounded_below_its_own_frequencies():
    """All eight rows are scored: Σ exp(bound) is at most 1 and near it, and no bound is above the log-frequency of its row in 2,000 samples."""
    draw = np.random.default_rng(0)
    bits = (draw.normal(size=(1500, 1)) * 2 + draw.normal(size=(1500, 3)) > 0).astype(np.uint8)
    settings = {"prior": "diffusion", "latent_dim": 1, "width": 32, "depth": 1, "steps": 250, "lr": 5e-3}
    run = jensen.fit(jensen.load_data(bits, levels=2), "vae", batch_size=128, progress=False, **settings)
    rows = torch.tensor([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)], dtype=torch.uint8)
    found = run.log_likelihood(rows, repetitions=8000)
    assert found.stderr is not None
    assert float(found.stderr.max()) < 0.06
    mass = found.value.exp()
    error = float((mass * found.stderr).square().sum().sqrt())
    assert 0.8 < float(mass.sum()) < 1 + 4 * error
    share = torch.bincount((run.sample(2000, seed=1).long() * torch.tensor([4, 2, 1])).sum(1), minlength=8) / 2000
    spread = ((1 - share) / (2000 * share) + found.stderr.square()).sqrt()
    assert bool((found.value < share.log() + 4 * spread).all())
    assert float(share[0] + share[7]) > 0.5
