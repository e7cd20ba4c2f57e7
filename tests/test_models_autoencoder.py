"""The autoencoder: a linear one finds the principal components."""

import numpy as np
import pytest
import torch

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.autoencoder import Autoencoder


def test_a_linear_one_has_the_error_of_the_principal_components():
    """Baldi and Hornik 1989: the least error of q linear codes is the sum of the eigenvalues that are left."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(800, 2, generator=generator) @ torch.randn(2, 6, generator=generator)
    x = x + 0.3 * torch.randn(800, 6, generator=generator)
    split = jensen.load_data(x.numpy())
    run = jensen.fit(
        split, "autoencoder", latent_dim=2, depth=0, network="mlp", steps=300, lr=2e-2, batch_size=280, patience=0,
        weight_decay=0.0, progress=False,
    )  # fmt: skip
    rows = run.encoded(split.train).batch(slice(None)).x.double()
    least = float(torch.linalg.eigvalsh(rows.T.cov(correction=0))[:4].sum()) / 6
    model = run.model
    assert isinstance(model, Autoencoder)
    error = float((rows - model.decode(model.encode(rows))).square().mean())
    assert least * (1 - 1e-6) < error < least * 1.01


def test_samples_are_decoded_draws_of_the_normal_of_codes():
    torch.manual_seed(0)
    model = Autoencoder((3,), Real(), latent_dim=2, depth=0, network="mlp")
    rows = Examples(torch.randn(5000, 3, generator=torch.Generator().manual_seed(1)), torch.arange(5000))
    model.calibrate(rows, 0)
    codes = model.encode(rows.x)
    drawn = model.sample(20_000, seed=2)
    wanted = model.decode(codes)  # linear in normal codes
    assert torch.allclose(drawn.mean(0), wanted.mean(0), atol=4 * float(wanted.std()) / 20_000**0.5 + 0.02)
    assert torch.allclose(drawn.T.cov(), wanted.T.cov(), atol=0.05 * float(wanted.var(0).max()))
    assert torch.equal(model.sample(4, seed=2, start=6), drawn[6:10])


def test_on_levels_samples_are_levels():
    split = jensen.load_data(np.random.default_rng(0).integers(0, 5, (90, 4)).astype(np.uint8), levels=5)
    run = jensen.fit(split, "autoencoder", latent_dim=2, width=8, depth=1, steps=10, batch_size=16, progress=False)
    x = run.sample(50)
    assert x.dtype == torch.uint8
    assert int(x.max()) < 5


def test_a_law_of_codes_needs_two_rows():
    split = jensen.load_data(np.random.default_rng(0).normal(size=(12, 3)))
    assert len(split.valid) == 1
    with pytest.raises(InputError, match=r"at least 2 validation rows.*got 1"):
        jensen.fit(split, "autoencoder", steps=1, progress=False)
