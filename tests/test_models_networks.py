"""Networks from words."""

import pytest
import torch

from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.ddpm import DDPM
from jensen.models.networks import Flat, NetworkShape, WithWaves
from jensen.nn.dit import DiT
from jensen.nn.unet import UNet


@pytest.mark.parametrize(
    ("word", "event", "kind"),
    [
        ("auto", (3, 5, 7), UNet),
        ("auto", (6,), Flat),
        ("unet", (3, 5, 7), UNet),
        ("dit", (3, 5, 7), DiT),
        ("mlp", (3, 5, 7), Flat),
        ("mlp", (6,), Flat),
    ],
)
def test_a_word_builds_its_network(word: str, event: tuple[int, ...], kind: type):
    network = NetworkShape(event, word, "tiny", 0.0, 8).build(4)
    assert type(network) is kind
    assert network(torch.zeros(2, *event), torch.zeros(2)).shape == (2, 4 * event[0], *event[1:])


@pytest.mark.parametrize("word", ["unet", "dit"])
def test_size_and_dropout_go_where_they_belong(word: str):
    def weights(size: str) -> int:
        return sum(p.numel() for p in NetworkShape((1, 8, 8), word, size, 0.0, 8).build(1).parameters())

    assert weights("tiny") < weights("small") == weights("auto") < weights("base")
    network = NetworkShape((1, 8, 8), word, "tiny", 0.3, 8).build(1)
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.3}


@pytest.mark.parametrize("word", ["unet", "dit"])
def test_networks_of_images_refuse_vectors(word: str):
    with pytest.raises(
        InputError, match=rf"network={word} needs images \(C, H, W\), got rows of shape \(6,\); use mlp"
    ):
        NetworkShape((6,), word, "tiny", 0.0, 8).build(1)


@pytest.mark.parametrize("event", [(2, 5, 7), (6,), (4, 5)])
@pytest.mark.parametrize("word", ["auto", "mlp"])
def test_waves_of_the_input_are_shown_beside_it(event: tuple[int, ...], word: str):
    """Two inputs that differ by 2⁻⁵, a whole turn of sin(2⁶πx): alike to the waves and not to x itself; half a turn the other way."""
    network = NetworkShape(event, word, "tiny", 0.0, 8, (6,)).build(3)
    assert isinstance(network, WithWaves)
    seen: list[torch.Tensor] = []
    network.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    x = torch.full((2, *event), 0.25)
    for shift in (0.0, 2**-5, 2**-6):
        assert network(x + shift, torch.zeros(2)).shape == (2, 3 * event[0], *event[1:])
    still, turned, half = (tensor[:, event[0] :] for tensor in seen)
    torch.testing.assert_close(turned, still, rtol=0, atol=1e-4)
    torch.testing.assert_close(half, -still, rtol=0, atol=1e-4)
    torch.testing.assert_close(seen[1][:, : event[0]], x + 2**-5)
    assert float(still.abs().max()) == pytest.approx(1, abs=1e-4)


def test_waves_that_cannot_be_are_told():
    with pytest.raises(InputError, match=r"from 0 to 12, got \[6, 13\]"):
        DDPM((2,), Real(), fourier=[6, 13])
