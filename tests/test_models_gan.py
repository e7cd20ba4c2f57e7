"""`gan`: penalties and losses in closed form, modes that are covered, levels, and no likelihood."""

import json
import math

import pytest
import torch
from torch import Tensor, nn

import jensen
from jensen.data.examples import Batch
from jensen.data.space import Levels, Real
from jensen.distributions.divergence import between_samples
from jensen.errors import InputError
from jensen.models.gan import GAN, CriticLoss, Game, Generator, GeneratorLoss, distance, with_square_slope
from jensen.models.model import DensityModel
from jensen.nn.perceptron import Perceptron
from jensen.nn.players import ImageCritic, ImageGenerator
from jensen.noise import Noise
from jensen.resolving import checked
from jensen.training.device import precision

MODES = torch.tensor([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [-2.0, -2.0]])
QUICK = {"width": 64, "depth": 2, "batch_size": 64, "lr": 3e-3, "progress": False}


def world(n: int, seed: int) -> Tensor:
    """Four modes of deviation 0.3, equally likely."""
    draw = torch.Generator().manual_seed(seed)
    return MODES[torch.randint(4, (n,), generator=draw)] + 0.3 * torch.randn(n, 2, generator=draw)


class Linear(nn.Module):
    """D(x) = w·x."""

    def __init__(self, weight: list[float]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight


def small() -> Generator:
    """z of three numbers → rows of two."""
    return Generator(3, (2,), Perceptron(3, 2, width=8, depth=1))


def test_the_penalty_of_a_linear_critic_is_its_squared_weight():
    """And of D(x) = Σ x⁴ it is Σ (4 x³)², row by row; of images too."""
    x = torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    critic = Linear([1.0, -2.0, 0.5, 3.0])
    value, square = with_square_slope(critic, x)
    torch.testing.assert_close(value, critic(x))
    torch.testing.assert_close(square, torch.full((6,), 14.25))
    (slope,) = torch.autograd.grad(square.mean(), critic.weight)
    torch.testing.assert_close(slope, 2 * critic.weight.detach())
    _, square = with_square_slope(lambda x: x.flatten(1).pow(4).sum(1), x)
    torch.testing.assert_close(square, (4 * x.pow(3)).square().flatten(1).sum(1))


def test_the_losses_are_those_of_the_docstring():
    """A linear critic, γ = 0.7: with m = D(x) - D(G(z)), log(1 + e^-m) + γ ‖w‖² and log(1 + e^m)."""
    critic, generator = Linear([1.0, -2.0]), small()
    game, noise = Game(generator, critic, Real(), 0.7), Noise(0, "losses")
    batch = Batch(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5) + 10)
    made = generator(noise.at("z").normal(batch.id, (3,)))
    margin = critic(batch.x) - critic(made)
    torch.testing.assert_close(CriticLoss(game)(batch, noise), (1 + (-margin).exp()).log() + 0.7 * 5.0)
    torch.testing.assert_close(GeneratorLoss(game)(batch, noise), (1 + margin.exp()).log())
    alone = Batch(batch.x[2:3], batch.id[2:3])
    for loss in (CriticLoss(game), GeneratorLoss(game)):
        torch.testing.assert_close(loss(alone, noise), loss(batch, noise)[2:3])


def test_the_generator_does_not_saturate():
    """Where G loses by far, its loss still has slope 1 in D(G(z)); log(1 - D) would have none."""
    game = Game(small(), Linear([50.0, 0.0]), Real(), 0.0)
    batch, noise = Batch(torch.full((4, 2), 9.0), torch.arange(4)), Noise(0)
    slopes = torch.autograd.grad(GeneratorLoss(game)(batch, noise).mean(), game.generator.network.layers[-1].bias)
    torch.testing.assert_close(slopes[0], torch.tensor([-50.0, 0.0]))


def test_the_sample_covers_the_modes():
    """500 steps, seed 0: at least 80 % of 2,000 draws within four deviations of a mode, each mode with 15 to 35 % of them, and an
    energy distance to fresh rows below 0.02. Seeds 0, 1, 2 measured 0.009, 0.010, 0.013 (two samples of the world: 0.000 ± 0.002, one
    normal with its moments: 0.17, three of its modes: 0.35).
    """
    pipeline = jensen.fit(world(2000, 0).numpy(), "gan", steps=500, **QUICK)
    sample, fresh = pipeline.sample(2000), world(2000, 9)
    near = torch.cdist(sample, MODES).min(1)
    share = torch.bincount(near.indices, minlength=4) / 2000
    assert float((near.values < 1.2).float().mean()) > 0.8
    assert 0.15 < float(share.min()) < float(share.max()) < 0.35
    found = between_samples(fresh, sample, "energy", version="U").value
    assert found < 0.02
    normal = (
        fresh.mean(0)
        + torch.randn(2000, 2, generator=torch.Generator().manual_seed(1)) @ torch.linalg.cholesky(fresh.T.cov()).T
    )
    assert between_samples(fresh, normal, "energy", version="U").value > 4 * found


def test_levels_are_spread_over_their_cells_and_samples_are_levels():
    space = Levels(5, -1.0, 0.5)
    game = Game(small(), Linear([1.0, 1.0]), space, 0.1)
    x = space.values()[torch.randint(5, (400, 2), generator=torch.Generator().manual_seed(0))]
    batch = Batch(x, torch.arange(400))
    spread = game.real(batch, Noise(0, "a"))
    assert torch.equal(space.index(spread.double()), space.index(x))
    away = (spread - x) / space.step
    assert -0.5 <= float(away.min()) < -0.49
    assert 0.49 < float(away.max()) <= 0.5
    assert abs(float(away.mean())) < 4.5 / math.sqrt(12 * 800)
    assert not torch.equal(spread, game.real(batch, Noise(0, "b")))
    model = GAN((2,), space, width=8, depth=1)
    drawn = model.sample(50)
    assert bool(torch.isin(drawn, space.values()).all())
    plain = Batch(x.double(), batch.id)
    assert torch.equal(Game(game.generator, game.critic, Real(), 0.1).real(plain, Noise(0)), x.float())


def test_what_is_written_down_is_the_energy_distance_to_held_out_rows():
    generator, rows = small(), jensen.load_data(world(300, 0).numpy()).train
    noise = Noise(0, "held-out")
    with torch.no_grad():
        made = generator(noise.at("z").normal(rows.id, (3,)))
        told = distance(generator, rows, noise)
    assert told == {"energy distance": between_samples(rows.x, made, "energy", version="U").value}


def test_a_run_resumes_and_keeps_the_generator_alone(tmp_path):
    options = {**QUICK, "steps": 25, "width": 8}
    pipeline = jensen.fit(world(200, 0).numpy(), "gan", run=tmp_path / "run", **options)
    assert all(name.startswith("generator.") for name in pipeline.model.state_dict())
    again = jensen.fit(world(200, 0).numpy(), "gan", run=tmp_path / "run", **options)
    assert torch.equal(again.sample(5, seed=1), pipeline.sample(5, seed=1))
    records = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert set(records[-1]["held_out"]) == {"energy distance"}


def test_networks_of_images_fit_any_size():
    """And every cell of an image matters to the critic, every number of z to every cell."""
    for shape in ((1, 8, 8), (3, 5, 9), (2, 1, 4), (1, 16, 16)):
        torch.manual_seed(0)
        generator, critic = ImageGenerator(6, shape, 4, 1), ImageCritic(shape, 4, 1)
        z = torch.randn(2, 6, requires_grad=True)
        image = generator(z)
        assert image.shape == (2, *shape)
        x = image.detach().requires_grad_()
        out = critic(x)
        assert out.shape == (2, 1)
        assert bool((torch.autograd.grad(out.sum(), x)[0] != 0).all())
        assert bool((torch.autograd.grad(image.sum(), z)[0] != 0).all())


def test_small_images_are_convolved_and_all_else_is_not():
    for shape, word in (((1, 8, 8), "conv"), ((1, 28, 28), "mlp"), ((8,), "mlp")):
        data = jensen.load_data(torch.randn(30, *shape).numpy())
        assert GAN.resolve(data, Real(), {})["network"] == word
    data = jensen.load_data(torch.randn(30, 1, 8, 8).numpy())
    assert GAN.resolve(data, Real(), {"network": "mlp"})["width"] == 128
    assert GAN.resolve(data, Real(), {})["width"] == 32


def test_the_penalty_is_a_dimension():
    pipeline = jensen.fit(world(100, 0).numpy(), "gan", steps=2, **{**QUICK, "batch_size": 8}, penalty=0.25)
    rows = pipeline.encoded(jensen.load_data(world(100, 0).numpy()).valid)
    settings = pipeline.model.training_settings(jensen.load_data(world(100, 0).numpy()), {})
    fitter = pipeline.model.fitter(settings, precision("float32"), steps=2, held_out=rows, seed=0)
    assert fitter.players["second"].loss.game.penalty == 0.5


def test_it_has_no_likelihood():
    pipeline = jensen.fit(world(100, 0).numpy(), "gan", steps=2, **{**QUICK, "batch_size": 8})
    assert not isinstance(pipeline.model, DensityModel)
    with pytest.raises(InputError, match="GAN has no likelihood"):
        pipeline.log_likelihood(world(10, 1).numpy())


def test_wrong_settings_are_refused():
    for options, message in (
        ({"latent_dim": 0}, "latent_dim must be from 1 to 4096, got 0"),
        ({"width": 0}, "width must be from 1 to 4096, got 0"),
        ({"depth": 0}, "depth must be from 1 to 16, got 0"),
        ({"network": "conv"}, r"network=conv needs images \(C, H, W\), got rows of shape \(2,\); use mlp"),
        ({"penalty": -1.0}, "penalty must be at least 0 and finite, got -1.0"),
        ({"penalty": math.nan}, "penalty must be at least 0"),
    ):
        with pytest.raises(InputError, match=message):
            GAN((2,), Real(), **options)
    with pytest.raises(InputError, match="model 'gan' has no setting 'bogus'"):
        checked("gan", {"bogus": 1})
    with pytest.raises(InputError, match="patience must be 0"):
        jensen.fit(world(100, 0).numpy(), "gan", steps=2, patience=3, progress=False)
