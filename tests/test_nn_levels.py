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
    """Against float64 on the same rounded features, row by row for those by the features. W is smooth over 256 levels and has an offset,
    as a trained one: where the SNR is high, a derivative is a small difference of its like rows.
    """
    monkeypatch.setattr(levels, "KEPT", kept)
    g = torch.Generator().manual_seed(4)
    snr = torch.linspace(-5, 13, ROWS, dtype=F64).exp().float()
    values = torch.linspace(-1, 1, 256)
    u = (values[torch.randint(0, 256, (ROWS,), generator=g)] + torch.randn(ROWS, generator=g) / snr.sqrt()).float()
    weight = 5 + torch.stack([values, values**2, (3 * values).sin()])
    given = [torch.randn(ROWS, 3, generator=g).bfloat16(), weight, values.cos()]
    exact, ours = ([t.to(kind or t.dtype).requires_grad_() for t in given] for kind in (F64, None))
    plain = written_out(exact[0], u.double(), snr.double(), exact[1], exact[2], values.double()) @ values.double()
    mean = posterior_mean(ours[0], u, snr, ours[1], ours[2], values)
    expected, found = (torch.autograd.grad(x, by, torch.ones_like(x)) for x, by in ((plain, exact), (mean, ours)))
    assert [t.dtype for t in found] == [torch.bfloat16, torch.float32, torch.float32]
    size, error = expected[0].norm(dim=1), (found[0].double() - expected[0]).norm(dim=1)
    assert float((error - 0.01 * size).max()) < 3e-6  # rounding of float32 where W is 5
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert float((one - other).norm() / other.norm()) < 0.005


@pytest.mark.parametrize(("kept", "wanted"), [(ROWS * LEVELS * 8, True), (ROWS * LEVELS * 8 - 1, False)])
def test_what_the_weights_derivatives_need_is_kept_up_to_a_size(
    kept: int, wanted: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(levels, "KEPT", kept)
    monkeypatch.setattr(levels, "CHUNK", 64)
    saved = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        mean = posterior_mean(*(t.requires_grad_(index in (0, 3, 4)) for index, t in enumerate(given(5))))
    assert ((ROWS, LEVELS) in saved) == wanted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        mean.sum().backward()
    assert max(event.self_cpu_memory_usage for event in seen.events()) < ROWS * LEVELS * 8 / 2


@pytest.mark.parametrize(("recorded", "by"), [(False, True), (True, False)])
def test_where_nothing_is_differentiated_nothing_is_kept(recorded: bool, by: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(levels, "CHUNK", 64)
    with torch.set_grad_enabled(recorded), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        posterior_mean(*(t.requires_grad_(by) for t in given(5)))
    assert max(event.self_cpu_memory_usage for event in seen.events()) < ROWS * LEVELS * 8 / 2


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
