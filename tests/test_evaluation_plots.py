"""Pictures: pixels where they can be computed, captions that equal the schedule, the same bytes every time."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from jensen.data import Levels, Real, load_data
from jensen.data.examples import Examples
from jensen.diffusion.schedule import Cosine, LogSNRUniform, alpha, sigma
from jensen.errors import InputError
from jensen.evaluation import images
from jensen.evaluation.charts import curve_figure
from jensen.evaluation.figures import figure_png, printable, save_figure
from jensen.evaluation.images import CELL, GAP, grid, save_grid, save_images, to_pixels
from jensen.evaluation.neighbours import affordable, nearest
from jensen.evaluation.plots import noise_figure, show_figure
from jensen.evaluation.strips import chosen_steps, noise_strip

DIGITS_SCALE = CELL // 8


def test_grid_cells_are_the_enlarged_values(tmp_path):
    x = torch.randint(0, 17, (7, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    save_grid(x, Levels(17), tmp_path / "grid.png", columns=3)
    sheet = np.asarray(Image.open(tmp_path / "grid.png").convert("L"))
    step = 8 * DIGITS_SCALE + GAP
    assert sheet.shape == (GAP + 3 * step, GAP + 3 * step)
    for n, row, column in [(0, 0, 0), (4, 3, 7), (6, 7, 1)]:
        top, left = GAP + n // 3 * step + row * DIGITS_SCALE, GAP + n % 3 * step + column * DIGITS_SCALE
        cell = sheet[top : top + DIGITS_SCALE, left : left + DIGITS_SCALE]
        assert (cell == round(255 * int(x[n, 0, row, column]) / 16)).all()
    assert (sheet[:GAP] == 255).all()
    assert (sheet[-GAP - 5 :, -GAP - 5 :] == 255).all()  # the last two places are empty


@pytest.mark.parametrize(("channels", "mode"), [(1, "RGB"), (2, "RGB"), (3, "RGB"), (4, "RGBA")])
def test_channels_are_kept(channels, mode):
    x = torch.full((1, channels, 64, 64), 40, dtype=torch.uint8)
    x[:, 0] = 200
    sheet = grid(to_pixels(x, Levels(256)))
    assert sheet.mode == mode
    assert (
        sheet.getpixel((GAP, GAP))
        == {1: (200,) * 3, 2: (200, 40, 40), 3: (200, 40, 40), 4: (200, 40, 40, 40)}[channels]
    )


def test_real_values_are_cut_to_the_stated_range():
    x = torch.tensor([-9.0, -1.0, 0.0, 1.0, 9.0, math.nan]).reshape(1, 1, 1, 6)
    assert to_pixels(x, Real(), (-1.0, 1.0)).ravel().tolist() == [0, 0, 128, 255, 255, 0]
    assert to_pixels(x[..., :5], Real()).ravel().tolist() == [0, 113, 128, 142, 255]


def test_sixteen_bit_images_are_written_deep(tmp_path):
    x = torch.tensor([0, 1, 40000, 65535]).to(torch.uint16).reshape(1, 1, 2, 2)
    save_images(x, Levels(65536), tmp_path / "deep")
    assert np.asarray(Image.open(tmp_path / "deep" / "000000.png")).ravel().tolist() == [0, 1, 40000, 65535]
    with pytest.raises(InputError, match="3 channels"):
        save_images(x.repeat(1, 3, 1, 1), Levels(65536), tmp_path / "colour")


def test_eight_bit_images_come_back_equal(tmp_path):
    x = torch.randint(0, 256, (3, 3, 5, 7), generator=torch.Generator().manual_seed(0)).byte()
    save_images(x, Levels(256), tmp_path / "out")
    for n in range(3):
        back = np.asarray(Image.open(tmp_path / "out" / f"{n:06d}.png")).transpose(2, 0, 1)
        assert (back == x[n].numpy()).all()


def test_captions_need_one_a_picture_and_take_any_text():
    pixels = to_pixels(torch.zeros(2, 1, 8, 8).byte(), Levels(17))
    plain, captioned = grid(pixels), grid(pixels, captions=["$\\frac{\n", "名" * 90])
    assert captioned.height > plain.height
    assert captioned.width == plain.width
    with pytest.raises(InputError, match="2 pictures, got 1"):
        grid(pixels, captions=["one"])
    with pytest.raises(InputError, match="no rows"):
        grid(pixels[:0])
    assert printable("a\n\u202e名") == "a▯▯▯"


def test_files_are_whole_and_equal_every_time(tmp_path):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    for name in ("a.png", "b.png"):
        save_grid(x, Real(), tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in content
    assert b"tIME" not in content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(InputError, match=r"\.png, got .*c\.jpg"):
        save_grid(x, Real(), tmp_path / "c.jpg")


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_vectors_with_missing_cells_are_shown(tmp_path, dims):
    x = np.random.default_rng(0).normal(size=(100, dims)).astype(np.float32)
    x[::3, 0] = np.nan
    save_figure(show_figure(load_data(x)), tmp_path / "show.png")
    assert Image.open(tmp_path / "show.png").width > 500


@pytest.mark.parametrize(
    ("names", "shown"), [(["mass", "speed"], ("mass", "speed")), (None, ("dimension 1", "dimension 2"))]
)
def test_vectors_are_drawn_under_their_names(tmp_path, monkeypatch, names, shown):
    drawn = []
    monkeypatch.setattr(images, "save_figure", lambda figure, path: drawn.extend(figure.axes))
    save_grid(torch.randn(20, 2), Real(), tmp_path / "x.png", names=names)
    assert (drawn[0].get_xlabel(), drawn[0].get_ylabel()) == shown


@pytest.mark.parametrize("last", [1, 2, 3, 7, 40, 30000])
def test_the_ticks_of_a_count_are_whole(last):
    figure = curve_figure(range(1, last + 1), {"held-out": [0.5] * last}, xlabel="components", ylabel="nats a row")
    ticks = figure.axes[0].get_xticks()
    assert all(float(tick).is_integer() for tick in ticks)
    assert figure.axes[0].get_xlabel() == "components"


def test_hostile_class_names_are_drawn_as_text():
    images = torch.zeros(40, 1, 4, 4).byte()
    rows = Examples(images, torch.arange(40), torch.arange(40) % 2)
    split = load_data("digits")
    hostile = type(split)(rows, rows, rows, Levels(17), ("_$\\frac{x", "<b>\n名"), {"source": "$^$"})
    assert figure_png(show_figure(hostile)).startswith(b"\x89PNG")


@pytest.mark.parametrize("schedule", [LogSNRUniform(7.0, -7.0), Cosine()])
def test_noise_captions_equal_the_schedule(schedule):
    split, steps, columns = load_data("digits"), 50, 6
    strip = noise_strip(split, schedule, steps=steps, columns=columns, seed=0, rows=2)
    first = schedule.first_time(steps)
    for i, caption in zip(chosen_steps(steps, columns - 1), strip.captions[1:], strict=True):
        t = torch.tensor([first + (1 - first) * (i - 1) / (steps - 1)]).double()
        log_snr = schedule.log_snr(t)
        name, *lines = caption.replace("−", "-").split("\n")
        values = [float(line.split()[-1]) for line in lines]
        expected = [float(t), float(alpha(log_snr)), float(sigma(log_snr)), float(log_snr)]
        assert name == f"x_{i}"
        assert values == pytest.approx(expected, rel=6e-3, abs=6e-3)


def test_noise_strip_is_the_forward_process():
    split, schedule = load_data("digits"), LogSNRUniform(7.0, -7.0)
    strip = noise_strip(split, schedule, steps=20, columns=4, seed=3, rows=2)
    x_0, noise = strip.states[0], []
    for i, state in zip(chosen_steps(20, 3), strip.states[1:], strict=True):
        log_snr = schedule.log_snr(torch.tensor([(i - 1) / 19]))
        noise.append((state - alpha(log_snr) * x_0) / sigma(log_snr))
    assert float(x_0.abs().max()) == 1.0
    for eps in noise[1:]:
        torch.testing.assert_close(eps, noise[-1], atol=1e-4, rtol=1e-4)


def test_noise_figure_of_images_and_of_vectors(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    x[0, 0] = np.nan
    for number, data in enumerate([load_data("digits"), load_data(x)]):
        save_figure(noise_figure(data, Cosine(), rows=1, columns=3), tmp_path / f"{number}.png")
        assert Image.open(tmp_path / f"{number}.png").width > 500


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nearest_equals_brute_force(monkeypatch, dtype):
    monkeypatch.setattr("jensen.evaluation.neighbours.CHUNK_CELLS", 50)
    generator = torch.Generator().manual_seed(0)
    rows = (100 * torch.rand(83, 1, 3, 4, generator=generator)).to(dtype)
    queries = torch.cat([(100 * torch.rand(9, 1, 3, 4, generator=generator)).to(dtype), rows[40:41]])
    found = nearest(queries, Examples(rows, torch.arange(83)))
    distances = (queries[:, None].double() - rows[None].double()).flatten(2).norm(dim=2)
    assert found.index.tolist() == distances.argmin(1).tolist()
    torch.testing.assert_close(found.distance, distances.min(1).values)
    assert float(found.distance[-1]) == 0.0
    assert affordable(Examples(rows, torch.arange(83)), 500, operations=83 * 12 * 70) == 70


def test_rows_with_missing_cells_are_never_the_nearest():
    rows = torch.tensor([[math.nan, 0.0], [5.0, 5.0]])
    assert nearest(torch.zeros(1, 2), Examples(rows, torch.arange(2))).index.tolist() == [1]
