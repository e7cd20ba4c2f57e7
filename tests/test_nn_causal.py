"""Causal networks: the Jacobian proves the order, and cached generation is the one-pass network."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from jensen.nn.causal import Causal, CausalConv, Raster, Recurrent, Vector

NETWORKS: dict[str, Callable[[], Causal]] = {
    "vector": lambda: Vector((5,), 3, width=16, depth=2),
    "vector of an image": lambda: Vector((1, 2, 3), 2, width=16, depth=1),
    "one dimension": lambda: Vector((1,), 2, width=4, depth=1),
    "grey image": lambda: Raster((1, 5, 5), 2, width=16, depth=3),
    "large grey image": lambda: Raster((1, 9, 17), 2, width=8, depth=4),
    "colour image": lambda: Raster((3, 3, 4), 2, width=16, depth=2),
    "sequence": lambda: Recurrent((6,), 2, width=12, depth=1),
    "sequence of vectors": lambda: Recurrent((1, 3, 2), 2, width=12, depth=2),
}
each = pytest.mark.parametrize("word", NETWORKS)


def shaken(word: str) -> Causal:
    """The network with every weight moved, in double precision, so that no dependency hides behind a zero. Seed 0."""
    torch.manual_seed(0)
    network = NETWORKS[word]().double()
    for parameter in network.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return network.eval()


def order(event: tuple[int, ...], network: Causal) -> Tensor:
    """The rank in the network's order of each dimension of the flattened row."""
    numbers = torch.arange(math.prod(event)).reshape(event)
    if not isinstance(network, Raster):
        return numbers.flatten()
    return numbers.reshape(event[1], event[2], event[0]).permute(2, 0, 1).flatten()


def jacobian(network: Causal, x: Tensor) -> Tensor:
    """Σ over outputs of |∂out_d/∂x_e|, `(D, D)`."""
    full = torch.autograd.functional.jacobian(lambda t: network(t).flatten(1, -2)[0], x)
    return full.abs().sum(1).reshape(math.prod(network.event), -1)


@each
def test_an_output_sees_only_what_is_before_it(word: str):
    network = shaken(word)
    seen = jacobian(network, torch.randn(1, *network.event).double())
    rank = order(network.event, network)
    before = rank[None, :] < rank[:, None]
    assert float(seen[~before].max()) == 0.0


@pytest.mark.parametrize("word", [w for w in NETWORKS if w not in ("large grey image", "one dimension")])
def test_an_output_sees_all_that_is_before_it(word: str):
    network = shaken(word)
    seen = jacobian(network, torch.randn(1, *network.event).double())
    rank = order(network.event, network)
    assert float(seen[rank[None, :] < rank[:, None]].min()) > 0.0


@each
def test_generation_is_the_network_a_dimension_at_a_time(word: str):
    """What `generate` hands to `draw` is what one pass over the finished rows puts out."""
    network, handed = shaken(word), {}

    def draw(out: Tensor, place: int) -> Tensor:
        handed[place] = out
        return torch.sin(3 * out[:, 0] + place)

    x = network.generate(4, draw)
    assert x.shape == (4, *network.event)
    wanted = network(x).flatten(1, -2)
    found = torch.stack([handed[place] for place in range(wanted.shape[1])], 1)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


@each
def test_the_bias_is_what_an_untrained_network_puts_out(word: str):
    network = NETWORKS[word]()
    start = torch.arange(float(network(torch.zeros(1, *network.event)).shape[-1]))
    network.bias(start)
    out = network(torch.randn(3, *network.event))
    torch.testing.assert_close(out, start.expand_as(out))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("dilation", [1, 2])
def test_a_masked_convolution_is_a_sum_over_its_neighbours(strict: bool, dilation: int):
    torch.manual_seed(1)
    conv = CausalConv(2, 3, rows=2, reach=1, dilation=dilation, strict=strict)
    h = torch.randn(1, 2, 4, 5)
    out, weight = conv(h), conv.conv.weight
    wanted = torch.zeros(3)
    for row, down in ((0, -dilation), (1, 0)):
        for column, right in ((0, -dilation), (1, 0), (2, dilation)):
            masked = row == 1 and (column == 2 or (column == 1 and strict))
            inside = 0 <= 3 + down < 4 and 0 <= 2 + right < 5
            if inside and not masked:
                wanted += weight[:, :, row, column] @ h[0, :, 3 + down, 2 + right]
    torch.testing.assert_close(out[0, :, 3, 2], wanted + conv.conv.bias)
