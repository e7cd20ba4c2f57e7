"""Layers written for speed against the plain operations they stand for, values and derivatives, in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jensen.nn.layers import add_to_each
from jensen.nn.unet import Enlarge, UNet

F64 = torch.float64


def assert_same(ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *given: Tensor) -> None:
    values = ours(*given), theirs(*given)
    assert values[0].shape == values[1].shape
    weights = torch.randn(values[0].shape, dtype=F64)
    slopes = [torch.autograd.grad(value, given, weights) for value in values]
    for a, b in zip((values[0], *slopes[0]), (values[1], *slopes[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_is_added_to_each(layout: torch.memory_format):
    torch.manual_seed(0)
    h, shared = torch.randn(3, 4, 5, 6, dtype=F64), torch.randn(1, 4, 5, 6, dtype=F64)
    assert_same(add_to_each, torch.add, h.contiguous(memory_format=layout).requires_grad_(), shared.requires_grad_())


def test_enlarging_is_pixel_shuffle_of_a_convolution_and_stays_channels_last():
    torch.manual_seed(0)
    layer, h = Enlarge(6, 5).double(), torch.randn(2, 6, 3, 4, dtype=F64).contiguous(memory_format=torch.channels_last)
    assert_same(
        lambda h, weight, bias: torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (h,)),
        lambda h, weight, bias: F.pixel_shuffle(F.conv2d(h, weight, bias), 2),
        h.requires_grad_(),
        layer.weight,
        layer.bias,
    )
    assert layer(h).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("patch", [1, 2])
def test_a_patch_is_answered_where_it_was_cut(patch: int):
    """With the stem and the head as identities, and nothing in between, each pixel comes back."""
    net = UNet(1, 1, channels=(16,), depth=(0,), patch=patch, attention=(), position=False)
    cells = patch**2
    torch.nn.init.zeros_(net.stem.weight)
    torch.nn.init.zeros_(net.stem.bias)
    net.stem.weight.data[:cells, :, 1, 1] = torch.eye(cells)
    net.head.weight.data[:, :cells, 1, 1] = torch.eye(cells)
    net.norm = torch.nn.Identity()
    x = torch.rand(2, 1, 5, 7)
    torch.testing.assert_close(net(x, torch.zeros(2)), F.silu(x))
