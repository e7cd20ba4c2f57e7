"""Guidance on W1, whose components are the classes: the score is that of the product, and a solver follows its flow."""

import math

import pytest
import torch
from analytic import Exact, Mixture, levels_of, mixture_2d, z_score
from scipy.integrate import solve_ivp
from torch import Tensor

from jensen.data.space import Real
from jensen.diffusion.denoiser import Denoiser, eps_from
from jensen.diffusion.emission import Emission
from jensen.diffusion.guidance import Guided
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Sampler, sample
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.solvers.ancestral import Ancestral
from jensen.diffusion.solvers.words import sampler_from
from jensen.diffusion.variance import Interpolated
from jensen.noise import Noise

F64 = torch.float64
WORLD = mixture_2d()


def component(world: Mixture, k: int) -> Mixture:
    return Mixture([1.0], [world.means[k].tolist()], [world.covariances[k].tolist()])


class Labelled(Denoiser):
    """Exact with and without the class; counts its calls."""

    def __init__(self, world: Mixture) -> None:
        super().__init__()
        self.all, self.calls = Exact(world), 0
        self.each = [Exact(component(world, k)) for k in range(len(world.weights))]

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t, c], row by row."""
        self.calls += 1
        if context is None:
            return self.all(x_t, log_snr)
        out = torch.empty_like(x_t)
        for k, denoiser in enumerate(self.each):
            out[context == k] = denoiser(x_t[context == k], log_snr[context == k])
        return out

    def moments(
        self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None, *, spread: bool
    ) -> tuple[Tensor, Tensor | None]:
        """With the class for a variance, to be seen again."""
        said = None if context is None or not spread else context[:, None].expand_as(x_t).double()
        return self(x_t, log_snr, context), said


def drawn(denoiser: Denoiser, context: Tensor | None, n: int, sampler: Sampler, steps: int) -> Tensor:
    chain = Chain(LogSNRUniform(9.0, -9.0), steps)
    reverse = ReverseProcess(chain, denoiser, Interpolated(0.5), Emission(Real(), math.exp(-4.5)))
    like = torch.zeros((), dtype=F64)
    return sample(reverse, (2,), torch.arange(n), Noise(1), sampler, context=context, like=like)


@pytest.mark.parametrize("weight", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("level", [-2.0, 0.5, 4.0])
def test_the_score_is_that_of_the_product(weight: float, level: float):
    """∇ [(1 - w) log p_t(x) + w log p_t(x | c)], by autograd, each row with a class of its own."""
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    classes, log_snr = torch.arange(9) % 3, torch.full((9,), level, dtype=F64)

    def log_product(row: Tensor, k: int) -> Tensor:
        given = component(WORLD, k).log_prob(row[None], level)[0]
        return (1 - weight) * WORLD.log_prob(row[None], level)[0] + weight * given

    expected = torch.stack([torch.func.grad(log_product)(row, int(k)) for row, k in zip(x, classes, strict=True)])
    denoised = Guided(Labelled(WORLD), weight)(x, log_snr, classes)
    found = -eps_from(x, denoised, log_snr) / levels_of(level)[1].sqrt()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("word", ["ancestral", "dpm-2m"])
def test_weight_one_draws_the_classes_and_zero_the_whole(word: str):
    """3000 samples of each class, 100 steps: means and covariances by z-tests, seed 1."""
    sampler = Ancestral() if word == "ancestral" else sampler_from(word, {})
    for k in range(3):
        x = drawn(Guided(Labelled(WORLD), 1.0), torch.full((3000,), k), 3000, sampler, 100)
        mean, covariance = WORLD.means[k], WORLD.covariances[k]
        for i in range(2):
            assert abs(z_score(x[:, i], float(mean[i]))) < 5
            for j in range(i + 1):
                product = (x[:, i] - mean[i]) * (x[:, j] - mean[j])
                assert abs(z_score(product, float(covariance[i, j]))) < 5
    whole = drawn(Labelled(WORLD), None, 50, sampler, 20)
    torch.testing.assert_close(drawn(Guided(Labelled(WORLD), 0.0), torch.ones(50), 50, sampler, 20), whole)


@pytest.mark.parametrize("word", ["ddim", "heun", "dpm-3m", "unipc-3"])
def test_solvers_follow_the_guided_flow(word: str):
    """dx/dλ = ½ (α x̂_0 - α² x) with the guided x̂_0, by an adaptive method that knows no grid."""
    guided, level = Guided(Labelled(WORLD), 2.5), 9.0
    start = Noise(1).at("start").normal(torch.arange(3), (2,)).double()
    classes = torch.tensor([0, 1, 2])

    def slope(log_snr: float, flat: Tensor) -> Tensor:
        x = torch.as_tensor(flat, dtype=F64).reshape(3, 2)
        a = levels_of(log_snr)[0].sqrt()
        denoised = guided(x, torch.full((3,), log_snr, dtype=F64), classes)
        return (0.5 * (a * denoised - a * a * x)).flatten()

    end = solve_ivp(slope, (-9.0, level), start.flatten(), rtol=1e-9, atol=1e-9).y[:, -1]
    x_1 = torch.from_numpy(end).reshape(3, 2)
    expected = guided(x_1, torch.full((3,), level, dtype=F64), classes)
    found = drawn(guided, classes, 3, sampler_from(word, {}), 300)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 if word == "ddim" else 2e-3)


def test_what_is_not_needed_is_not_asked():
    x, log_snr, classes = torch.zeros(3, 2, dtype=F64), torch.zeros(3, dtype=F64), torch.arange(3)
    for weight, context, calls in (1.0, classes, 1), (2.0, None, 1), (2.0, classes, 2):
        inner = Labelled(WORLD)
        Guided(inner, weight)(x, log_snr, context)
        assert inner.calls == calls


def test_the_variance_is_the_conditionals():
    x, log_snr, classes = torch.zeros(3, 2, dtype=F64), torch.zeros(3, dtype=F64), torch.arange(3)
    said = Guided(Labelled(WORLD), 2.0).moments(x, log_snr, classes, spread=True)[1]
    assert said is not None
    assert said[:, 0].tolist() == [0, 1, 2]
    assert Guided(Labelled(WORLD), 2.0).moments(x, log_snr, classes, spread=False)[1] is None
