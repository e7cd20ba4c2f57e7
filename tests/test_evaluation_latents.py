"""Pictures of codes hold what their captions say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jensen
from jensen.data.examples import Examples
from jensen.errors import InputError
from jensen.evaluation.latents import Gallery, principal_axes
from jensen.evaluation.outputs import picture_paths
from jensen.models.pipeline import Pipeline

F64 = torch.float64


def gallery(word: str = "ppca", **settings: int) -> tuple[Gallery, Pipeline, Examples]:
    draw = np.random.default_rng(0)
    x = torch.from_numpy(draw.normal(size=(120, 3)) @ draw.normal(size=(3, 5)) + 0.3 * draw.normal(size=(120, 5)))
    run = jensen.fit(x, word, progress=False, **settings)
    rows = Examples(x, torch.arange(120))
    return Gallery(run, rows), run, rows


def test_sheets_hold_what_they_say():
    shown, run, _ = gallery(n_components=3)
    codes, latents = run.latents.encode(shown.rows), run.latents
    parts = shown.reconstruct().by_group()
    assert torch.equal(parts["rows"], shown.rows.x)
    assert torch.allclose(parts["reconstructions"], latents.decode(codes))
    ways = shown.interpolate().by_group()
    assert list(ways) == ["way 1", "way 2", "way 3"]
    assert torch.allclose(ways["way 2"][[0, -1]], latents.decode(codes[2:4]))
    lines = shown.traverse().by_group()
    order = codes.var(0).argsort(descending=True)
    assert list(lines) == [f"z{d + 1}" for d in order]
    for name, rows in lines.items():
        d = int(name[1:]) - 1
        z = codes[:1].repeat(2, 1)
        z[:, d] = codes[:, d].mean() + 2.5 * codes[:, d].std() * torch.tensor([-1, 1])
        assert torch.allclose(rows[[0, -1]], latents.decode(z))
    assert torch.equal(shown.samples().rows, run.sample(64, seed=0).double())


def test_captions_part_generation_from_reconstruction():
    shown, _, _ = gallery(n_components=3)
    assert shown.samples().told == "drawn from the model: z ~ p(z), x ~ p(x | z)"
    assert shown.plane().told.startswith("quantiles of p(z) in z")
    assert shown.told == "3 of 3 numbers of the code depend on the row"
    assert "p(z)" not in shown.reconstruct().told
    plain, _, _ = gallery("autoencoder", latent_dim=2, width=8, depth=1, steps=2)
    assert plain.samples().told.endswith("a makeshift, since it has no p(z)")
    assert (
        plain.plane().told
        == "quantiles of a normal fitted to the codes in z1 growing to the right and z2 growing upwards, decoded"
    )
    assert plain.told == "2 numbers in the code, of no scale of their own"


def test_the_map_lies_along_the_axes_that_vary_most():
    """numpy's singular values; the order of rows is kept."""
    codes = torch.randn(50, 4, dtype=F64, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 0.1, 2])
    where, told = principal_axes(codes)
    u, s, _ = np.linalg.svd((codes - codes.mean(0)).numpy(), full_matrices=False)
    assert np.allclose(np.abs(where.numpy()), np.abs(u[:, :2] * s[:2]))
    assert f"{(s[:2] ** 2).sum() / (s**2).sum():.0%} of the variance" in told
    assert torch.equal(principal_axes(codes[:, :2])[0], codes[:, :2])


def test_the_map_names_classes_at_their_medians():
    plain, run, rows = gallery(n_components=2)
    assert not plain.map().axes[0].texts
    context = torch.arange(120) % 3
    shown = Gallery(run, replace(rows, context=context), ("a", "b", "c"))
    texts = {text.get_text(): text.get_position() for text in shown.map().axes[0].texts}
    codes = run.latents.encode(rows)
    for code, name in enumerate("abc"):
        assert texts[name] == pytest.approx(codes[context == code].median(0).values.tolist())


def test_one_row_is_too_few_and_one_file_holds_one_picture():
    _, run, rows = gallery(n_components=2)
    with pytest.raises(InputError, match="pictures of codes need at least 2 rows, got 1; give more"):
        Gallery(run, rows.take(torch.tensor([0])))
    line, _, _ = gallery(n_components=1)
    with pytest.raises(InputError, match="this model's code has no numbers"):
        gallery(n_components=0)
    assert line.map().axes
    assert picture_paths(Path("a.png"), ["map"]) == {"map": Path("a.png")}
    assert picture_paths(Path("a"), ["map", "plane"])["plane"] == Path("a/plane.png")
    with pytest.raises(InputError, match=r"'a.png' holds one picture, got 2: map, plane; name one with --what"):
        picture_paths(Path("a.png"), ["map", "plane"])
