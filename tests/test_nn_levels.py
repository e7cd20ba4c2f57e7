"""The levels head against Bayes' rule written out, which autograd differentiates."""

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from jensen.nn import levels
from jensen.nn.levels import posterior_mean, posterior_moments

F64 = torch.float64
ROWS, FEATURES, LEVELS = 2500, 3, 9  # two chunks and a half


def given(seed: int) -> list[Tensor]:
    """features, u, SNR, weight, bias, values; SNR from e^-5 to e^11."""
    g = torch.Generator().manual_seed(seed)
    snr = torch.linspace(-5, 11, ROWS, dtype=F64).exp()
    values = torch.linspace(-1, 1, LEVELS, dtype=F64)
    features = torch.randn(ROWS, FEATURES, generator=g, dtype=F64)
    weight, bias = (torch.randn(*shape, LEVELS, generator=g, dtype=F64) for shape in ((FEATURES,), ()))
    level = values[torch.randint(0, LEVELS, (ROWS,), generator=g)]
    u = level + torch.randn(ROWS, generator=g, dtype=F64) / snr.sqrt()
    return [features, u, snr, weight, bias, values]


def written_out(features: Tensor, u: Tensor, snr: Tensor, weight: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """p(v | x_t) ∝ exp(ℓ_v) N(x_t; α y_v, σ²)."""
    logits = features @ weight + bias - 0.5 * snr[:, None] * (values - u[:, None]).square()
    return logits.softmax(1)


@pytest.mark.parametrize("kept", [0, levels.KEPT])
def test_the_mean_and_its_derivatives_are_those_of_bayes_rule(kept: int, monkeypatch: pytest.MonkeyPatch):
    """With what the backward pass needs kept, and computed again."""
    monkeypatch.setattr(levels, "KEPT", kept)
    arguments, weights = given(0), torch.randn(ROWS, generator=torch.Generator().manual_seed(1), dtype=F64)
    wanted = [arguments[i].requires_grad_() for i in (0, 1, 3, 4)]
    mean, plain = posterior_mean(*arguments), written_out(*arguments) @ arguments[5]
    torch.testing.assert_close(mean, plain, rtol=0, atol=1e-12)
    found = torch.autograd.grad(mean, wanted, weights)
    expected = torch.autograd.grad(plain, wanted, weights)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kept", [0, levels.KEPT])
def test_features_in_bfloat16_have_derivatives_of_that_precision_at_every_noise_level(
    kept: int, monkeypatch: pytest.MonkeyPatch
):
    """Row by row for those by the features, against float64 on the same rounded features: where the SNR is high, x̂ is all but on a level
    and what is left must not be a difference of large numbers.
    """
    monkeypatch.setattr(levels, "KEPT", kept)
    features, u, snr, weight, bias, values = given(4)
    features = features.bfloat16()
    exact = [features.double().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    plain = written_out(exact[0], u.float().double(), snr.float().double(), exact[1], exact[2], values) @ values
    expected = torch.autograd.grad(plain, exact, torch.ones_like(plain))
    ours = [features.requires_grad_(), weight.float().requires_grad_(), bias.float().requires_grad_()]
    mean = posterior_mean(ours[0], u.float(), snr.float(), ours[1], ours[2], values.float())
    found = torch.autograd.grad(mean, ours, torch.ones_like(mean))
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.float32]
    size = expected[0].norm(dim=1)
    told = size > 1e-5
    error = (found[0].double() - expected[0]).norm(dim=1)
    assert told.sum() > 1500
    assert float((error / size)[told].max()) < 0.02
    for ours_, theirs in zip(found[1:], expected[1:], strict=True):
        assert float((ours_ - theirs).norm() / theirs.norm()) < 0.005


def test_what_the_backward_pass_needs_is_kept_up_to_a_size_and_only_where_there_will_be_one(
    monkeypatch: pytest.MonkeyPatch,
):
    arguments = [t.requires_grad_() for t in given(5)]
    all_of_it = ROWS * LEVELS * 8

    def largest() -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            posterior_mean(*arguments)
        return max(event.self_cpu_memory_usage for event in seen.events())

    for kept, most in (all_of_it, all_of_it), (all_of_it - 1, 2 * levels.CHUNK * LEVELS * 8):
        monkeypatch.setattr(levels, "KEPT", kept)
        assert largest() == most
        with torch.no_grad():
            assert largest() == 2 * levels.CHUNK * LEVELS * 8


def test_moments_are_those_of_bayes_rule():
    arguments = given(2)
    p, values = written_out(*arguments), arguments[5]
    mean, variance = posterior_moments(*arguments)
    torch.testing.assert_close(mean, p @ values, rtol=0, atol=1e-12)
    torch.testing.assert_close(variance, (p * (values - mean[:, None]).square()).sum(1), rtol=1e-7, atol=1e-12)


def test_what_is_left_out_of_a_posterior_adds_nothing_to_its_variance():
    """float32 at SNR e^38, where a level two away is e^38 variances off: SNR · Var is 0, whatever its square."""
    features, u, _, weight, bias, values = (t.float() for t in given(3))
    snr = torch.full((ROWS,), 38.0).exp()
    nearest = values[(u[:, None] - values).abs().argmin(1)]
    _, variance = posterior_moments(features, nearest, snr, weight, bias, values)
    assert float((snr * variance).max()) == 0
