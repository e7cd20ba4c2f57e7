"""Networks from words."""

import pytest
import torch

from jensen.errors import InputError
from jensen.models.networks import Flat, NetworkShape
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
