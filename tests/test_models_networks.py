"""Networks from words."""

from typing import Any

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


def test_patch_and_attention_are_the_settings_of_a_u_net():
    """Attention at the stages named, on the way down and up; a patch of 4 sees an image of 16 as 4 x 4; both change what is computed."""

    def stages(attention: tuple[int, ...] | None) -> list[int]:
        network = NetworkShape((1, 8, 8), "unet", "small", 0.0, 8, attention=attention).build(1)
        assert isinstance(network, UNet)
        return [len(stage.attentions) for stage in (*network.down, *network.up)]

    assert stages(None) == stages((2,)) == [0, 0, 2, 0, 0]
    assert stages((0, 1)) == [1, 1, 0, 1, 1]
    assert stages(()) == [0, 0, 0, 0, 0]
    network = NetworkShape((1, 16, 16), "unet", "small", 0.0, 8, patch=4).build(1)
    seen: list[torch.Size] = []
    assert isinstance(network, UNet)
    network.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    assert network(torch.zeros(2, 1, 16, 16), torch.zeros(2)).shape == (2, 1, 16, 16)
    assert seen == [(2, 16, 4, 4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "dit", "attention": [1]}, "attention is a setting of network=unet, got network=dit; leave it out"),
        ({"network": "mlp", "patch": 2}, "patch is a setting of network=unet or dit, got network=mlp"),
        ({"network": "unet", "patch": 9}, r"patch must be from 1 to 8 on images of shape \(1, 8, 8\), got 9"),
        ({"network": "dit", "patch": 0}, "patch must be from 1 to 8"),
        ({"network": "unet", "attention": [3]}, r"from 0 to 2 at this size and none twice, got \[3\]"),
        ({"network": "unet", "attention": [-1]}, r"from 0 to 2 at this size and none twice, got \[-1\]"),
    ],
)
def test_settings_that_a_network_does_not_have_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        DDPM((1, 8, 8), Real(), size="small", **settings)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_networks_of_images_look_at_each_row_alone_at_every_cell_and_at_the_noise(network: str):
    """One row moved leaves the others' to the bit; one cell far away, or λ, moves every cell's output."""
    torch.manual_seed(0)
    net = NetworkShape((2, 9, 13), network, "tiny", 0.0, 8).build(3)
    assert isinstance(net, (UNet, DiT))
    x, levels = torch.randn(3, 2, 9, 13), torch.tensor([0.0, 1.0, 2.0])
    assert float(net(x, levels).abs().max()) == 0
    torch.nn.init.normal_(net.head.weight, std=0.1)
    for parameter in net.parameters():
        if float(parameter.abs().max()) == 0:
            torch.nn.init.normal_(parameter, std=0.1)
    before = net(x, levels).detach()
    other = x.clone()
    other[1, 0, 0, 0] += 1
    moved = (net(other, levels) - before).detach().abs()
    assert float(moved[[0, 2]].max()) == 0
    assert float(moved[1].amax(0).min()) > 0
    hotter = (net(x, levels + torch.tensor([0.0, 0.5, 0.0])) - before).detach().abs()
    assert float(hotter[[0, 2]].max()) == 0
    assert float(hotter[1].amax(0).min()) > 0


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
    with pytest.raises(InputError, match=r"from 0 to 12, none twice, got \[6, 13\]"):
        DDPM((2,), Real(), fourier=[6, 13])
