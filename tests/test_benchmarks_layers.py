"""diffusers' U-Net in the layers of benchmarks/diffusers_layers.py: the same function of the same weights, values and gradients."""

from pathlib import Path

import pytest
import torch

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize(("groups", "upsampling"), [(2, "Repeated"), (8, "Transposed")])
def test_layers_that_keep_the_layout_compute_the_same(
    groups: int, upsampling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import diffusers_layers as layers

    def network() -> torch.nn.Module:
        torch.manual_seed(0)
        made = diffusers.UNet2DModel(
            sample_size=(12, 20),
            in_channels=1,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=groups,
        ).double()
        for weight in made.parameters():
            torch.nn.init.normal_(weight, 0.5 if weight.dim() == 1 else 0.0, 0.3)
        return made

    torch.manual_seed(1)
    images, levels = torch.randn(3, 1, 12, 20, dtype=torch.float64), torch.tensor([0.0, 37.0, 999.0])
    theirs, ours = network(), layers.channels_last(network(), getattr(layers, upsampling))
    assert {type(m) for m in ours.modules()} >= {layers.Residual, getattr(layers, upsampling), layers.Attended}
    found, expected = ours(images, levels).sample, theirs(images, levels).sample
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    way = torch.randn_like(expected)
    for own, their in zip(
        torch.autograd.grad(found, list(ours.parameters()), way),
        torch.autograd.grad(expected, list(theirs.parameters()), way),
        strict=True,
    ):
        torch.testing.assert_close(own, their, rtol=1e-7, atol=1e-7)
