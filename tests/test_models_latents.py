"""Codes and the ways between them."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import jensen
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.autoencoder import Autoencoder
from jensen.models.latents import Latents, active_units, most_varied, path
from jensen.models.pipeline import Pipeline
from jensen.models.vae import VAE
from jensen.vae.prior import MixturePrior

F64 = torch.float64


def fitted(levels: bool = False) -> tuple[Pipeline, np.ndarray]:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, 2)) @ draw.normal(size=(2, 5)) * 3 + draw.normal(size=(300, 5)) + 10
    x = np.clip(np.round(x), 0, 20).astype(np.uint8) if levels else x
    return jensen.fit(x if not levels else jensen.load_data(x, levels=21), "ppca", n_components=2, progress=False), x


def test_a_straight_line():
    a, b = torch.tensor([1.0, 2.0], dtype=F64), torch.tensor([3.0, -2.0], dtype=F64)
    assert torch.equal(path(a, b, 5)[2], torch.tensor([2.0, 0.0], dtype=F64))
    assert torch.equal(path(a, b, 5)[[0, -1]], torch.stack([a, b]))


def test_a_turn_keeps_the_length_and_the_rate():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(7, dtype=F64, generator=generator), dim=0) * 3 for _ in range(2))
    way = path(a, b, 9, kind="spherical")
    assert torch.allclose(way.norm(dim=1), torch.full((9,), 3.0, dtype=F64))
    assert torch.equal(way[[0, -1]], torch.stack([a, b]))
    steps = torch.acos(((way[1:] * way[:-1]).sum(1) / 9).clamp(-1, 1))
    assert torch.allclose(steps, torch.full((8,), math.acos(float(a @ b) / 9) / 8, dtype=F64))
    longer = path(a, 2 * b, 9, kind="spherical").norm(dim=1)
    assert torch.allclose(longer, torch.linspace(3, 6, 9, dtype=F64))
    assert torch.allclose(path(a, 2 * a, 3, kind="spherical"), path(a, 2 * a, 3))
    nearly = -a + 1e-6 * torch.linalg.norm(a) * torch.nn.functional.normalize(b - (a @ b) / (a @ a) * a, dim=0)
    assert torch.allclose(path(a, nearly, 5, kind="spherical").norm(dim=1), torch.full((5,), 3.0, dtype=F64), rtol=1e-8)
    assert torch.isfinite(path(a, -a, 5, kind="spherical")).all()
    assert torch.isfinite(path(a, torch.zeros_like(a), 5, kind="spherical")).all()


@pytest.mark.parametrize("levels", [False, True])
def test_rows_go_to_codes_and_back_in_data_units(levels: bool):
    """ppca in closed form: E[x | E[z | x]] in data units; on levels of the middle of the cell."""
    run, x = fitted(levels)
    found = run.latents
    inner = found.encoder
    units = run.encoded(x).batch(slice(None)).x.double()
    middle = units + (0.5 * run.model.levels.step if levels else 0.0)  # type: ignore[union-attr, operator]
    z = inner.encode(middle)
    assert torch.allclose(found.encode(x), z)
    back = run.codec.decode(inner.decode(z) - (middle - units))
    assert torch.allclose(found.decode(z), back.clamp(0, 20) if levels else back)
    assert torch.allclose(found.reconstruct(x), found.decode(z))
    away = (found.reconstruct(x) - torch.from_numpy(x).double()).square().mean()
    assert float(away) < 0.3 * float(np.var(x, axis=0).mean())


def test_walks_are_decoded_paths():
    run, x = fitted()
    latents, rows = run.latents, torch.from_numpy(x)
    a, b = latents.encode(rows[:2])
    assert torch.allclose(
        latents.interpolate(rows[0], rows[1], 4, kind="spherical"), latents.decode(path(a, b, 4, kind="spherical"))
    )
    values = torch.tensor([-2.0, 0.0, 2.0])
    moved = latents.traverse(rows[0], 1, values)
    z = a.repeat(3, 1)
    z[:, 1] = values.double()
    assert torch.allclose(moved, latents.decode(z))


def test_the_plane_is_of_quantiles_of_what_varies():
    run, _ = fitted()
    latents = run.latents
    codes = torch.stack([torch.zeros(50), torch.randn(50, generator=torch.Generator().manual_seed(0))], 1).double()
    assert most_varied(codes, 2) == [1, 0]
    assert active_units(codes) == 1
    rows, dims = latents.plane(codes, 4)
    assert dims == [0, 1]
    q = torch.special.ndtri((torch.arange(4, dtype=F64) + 0.5) / 4)
    assert torch.allclose(
        rows[1], latents.decode(torch.stack([q[1], q[3]])[None])[0]
    )  # first line, second from the left
    assert torch.allclose(rows[4], latents.decode(torch.stack([q[0], q[2]])[None])[0])


def test_the_plane_holds_the_law_that_codes_are_drawn_from():
    """An autoencoder's normal in closed form; the others of its numbers at their medians."""
    torch.manual_seed(0)
    model = Autoencoder((4,), Real(), latent_dim=3, depth=0, network="mlp")
    mean, factor = torch.tensor([5.0, -2.0, 1.0]), torch.tensor([[2.0, 0, 0], [1.0, 0.5, 0], [3.0, 0.0, 4.0]])
    model.code_mean.copy_(mean)
    model.code_factor.copy_(factor)
    p = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    normal = stats.norm(mean.numpy(), np.sqrt(np.diag((factor @ factor.T).numpy())))
    assert np.allclose(model.code_quantiles(p).numpy(), normal.ppf(p.numpy()[:, None]), atol=1e-6)
    run = jensen.fit(
        np.random.default_rng(0).normal(size=(60, 4)), "autoencoder", latent_dim=3, steps=2, progress=False
    )
    run.model.load_state_dict({**run.model.state_dict(), "code_mean": mean.double(), "code_factor": factor.double()})
    rows, dims = run.latents.plane(torch.tensor([[0.0, 0, 0], [1.0, 0, 9]], dtype=F64), 2)
    assert dims == [0, 2]
    z = torch.from_numpy(np.array([normal.ppf(0.25)[0], -2.0, normal.ppf(0.75)[2]]))
    assert torch.allclose(rows[:1], run.latents.decode(z[None]), atol=1e-6)


def test_quantiles_of_a_prior_that_is_a_mixture():
    """Its distribution function at them; 2,048 draws: 4 standard errors of a share, sqrt(p (1 - p) / 2048) = 0.011 at most."""
    model = VAE((4,), Real(), latent_dim=2, width=8, depth=1, prior="mixture", prior_components=3, network="mlp")
    prior = model.parts.prior
    assert isinstance(prior, MixturePrior)
    with torch.no_grad():
        for parameter in prior.mixture.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    now = prior.mixture.parameters_now()
    p = torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    z = model.code_quantiles(p)
    below = torch.special.ndtr((z[:, None] - now.means) / now.spread["variances"].sqrt())
    assert torch.allclose((now.weights[:, None] * below).sum(1), p[:, None].expand(3, 2), atol=0.044)
    plain = VAE((4,), Real(), latent_dim=2, width=8, depth=1, network="mlp")
    assert torch.equal(plain.code_quantiles(p), torch.special.ndtri(p)[:, None].expand(3, 2))


def test_what_has_no_code_says_so():
    run = jensen.fit(np.random.default_rng(0).normal(size=(50, 3)), "gaussian", progress=False)
    with pytest.raises(
        InputError, match="a 'gaussian' model has no code for a row; vae, ppca and autoencoder have one"
    ):
        run.latents.encode(np.zeros((1, 3)))
    with pytest.raises(InputError, match=r"codes must have shape \(rows, 2\), got \(3, 4\)"):
        Latents(fitted()[0]).decode(torch.zeros(3, 4))
    with pytest.raises(InputError, match="kind must be linear or spherical, got 'round'"):
        path(torch.ones(2), torch.ones(2), 3, kind="round")
    with pytest.raises(InputError, match="steps must be a whole number of at least 2, both ends among them, got 1"):
        path(torch.ones(2), torch.ones(2), 1)
    with pytest.raises(InputError, match=r"steps must be a whole number.*got 2.5"):
        path(torch.ones(2), torch.ones(2), 2.5)
    with pytest.raises(InputError, match="dim must be from 0 to 1, got 2"):
        run2, x = fitted()
        run2.latents.traverse(torch.from_numpy(x)[0], 2, torch.zeros(1))


def test_the_plane_of_ppca_is_of_its_leading_components():
    """Codes are whitened, so that their variance says nothing: the columns of W do, whose squares are the leading eigenvalues less σ²."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(400, 3, generator=generator, dtype=F64)
    x = z @ torch.tensor([[0.1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 0, 0], [1, 0.1, 0, 0, 0, 0]], dtype=F64)
    split = jensen.load_data(x + 0.1 * torch.randn(400, 6, generator=generator, dtype=F64))
    run = jensen.fit(split, "ppca", n_components=3, progress=False)
    rows, effects = run.encoded(split.train).batch(slice(None)).x.double(), run.latents.encoder.code_effects()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0)).flip(0)
    torch.testing.assert_close(effects.square(), eigenvalues[:3] - eigenvalues[3:].mean(), rtol=1e-6, atol=0)
    for scale in ([1.0, 1.01, 1.02], [1.02, 1.01, 1.0]):
        _, dims = run.latents.plane(z.sub(z.mean(0)).div(z.std(0)) * torch.tensor(scale, dtype=F64), 2)
        assert dims == [0, 1]


def test_codes_and_rows_may_be_arrays():
    """As `jensen encode` writes them."""
    run, x = fitted()
    latents = run.latents
    codes = latents.encode(x[:4])
    assert torch.equal(latents.decode(codes.numpy()), latents.decode(codes))
    first, last = x[0], x[1]
    arrays = torch.as_tensor(first).numpy(), torch.as_tensor(last).numpy()
    assert torch.equal(latents.interpolate(*arrays, 3), latents.interpolate(first, last, 3))
    assert torch.equal(latents.traverse(arrays[0], 1, [0.0, 2.0]), latents.traverse(first, 1, torch.tensor([0.0, 2.0])))
    with pytest.raises(InputError, match="shape"):
        latents.interpolate(arrays[0], arrays[0][:-1])
