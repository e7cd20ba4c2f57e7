"""The report: one page that fetches nothing, escapes everything, and shows the numbers of evaluation.json."""

import html
import json
import math
import shlex
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import jensen
from jensen.__main__ import main
from jensen.data import Examples, Levels, Split
from jensen.errors import InputError
from jensen.evaluation import panels
from jensen.evaluation.charts import dots_figure, steps_figure
from jensen.evaluation.numbers import Unit, cost
from jensen.evaluation.page import text
from jensen.evaluation.panels import comparison
from jensen.evaluation.panels.comparison import TOO_FEW, UNKNOWN, _reading_own, _reading_train, minus
from jensen.evaluation.report import write_report
from jensen.files import write_json
from jensen.likelihood import plus_minus
from jensen.models import pipeline

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "\u202e名 & co")
VOID = {"meta", "img", "source", "br"}


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Scores of a precision that these tests do not look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TOLERANCE", 0.3)
        yield


class Page(HTMLParser):
    """Tags, attributes and text; fails on tags that do not close."""

    def __init__(self, content):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.feed(content)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "srcset", "href", "action", "data")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def read(path):
    content = path.read_text(encoding="utf-8")
    page = Page(content)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(page.tags)
    assert "http" not in content.replace("http-equiv", "")
    assert "url(" not in content
    assert "@import" not in content
    assert 'name="viewport"' in content
    return page


def images(seed=0, classes=HOSTILE):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 5, (60, 1, 4, 4), generator=generator).byte()
    rows = Examples(x, torch.arange(60), torch.arange(60) % 3)
    parts = [rows.take(torch.arange(*ends)) for ends in ((0, 40), (40, 50), (50, 60))]
    return Split(*parts, Levels(5), classes, {"source": f"/tmp/{HOSTILE[0]}", "notes": [HOSTILE[1]]})


def summary(mean, stderr, kind="lower bound"):
    return {
        "kind": kind,
        "measure": "counting",
        "of": "ancestral, T = 6",
        "mean_nats": mean,
        "stderr_nats": stderr,
        "stderr_test_set_nats": 0.8 * stderr,
        "stderr_monte_carlo_nats": 0.6 * stderr,
        "bits_per_dim": -mean / 16 / np.log(2),
        "stderr_bits_per_dim": stderr / 16 / np.log(2),
        "examples": 10,
        "dims": 16,
        "terms": {name: {"mean_nats": mean * part, "stderr_nats": stderr} for name, part in PARTS.items()},
        "quote": f"≤ {plus_minus(-mean / 16 / np.log(2), stderr / 16 / np.log(2))} bits/dim  (bound, vlb; 10 examples; ± 1 SE)",
    }


PARTS = {"prior": 0.1, "diffusion": 0.7, "reconstruction": 0.2}
EVALUATION = {
    "model": "diffusion",
    "log_likelihood": summary(-23.4567, 0.321),
    "controls": {"independent": summary(-25.25, 0.2, "exact"), "gaussian": {"problem": "too <few> rows"}},
    "differences": {
        "independent": {
            "mean_nats": 1.7933,
            "stderr_nats": 0.111,
            "mean_bits_per_dim": 0.1617,
            "stderr_bits_per_dim": 0.01,
            "meaning": "a lower bound on the difference",
        }
    },
    "per_step": {
        "step": [1, 2, 4, 6],
        "log_snr": [5.0, 3.0, -1.0, -5.0],
        "nats": [4.0, 5.0, 6.0, 1.0],
        "stderr_nats": [0.1] * 4,
    },
    "self_check": {
        "steps": 6,
        "of": "ancestral, T = 6",
        "test": summary(-23.0, 0.5),
        "train": summary(-21.0, 0.5),
        "samples": summary(-29.0, 0.5),
    },
    "seed": 0,
}


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    """A run of a tiny diffusion model on tiny images with hostile names."""
    path, split = tmp_path_factory.mktemp("runs") / "diffusion", images()
    options = {"timesteps": 6, "network": "mlp", "size": "tiny", "batch_size": 8, "precision": "float32"}
    jensen.fit(split, "diffusion", run=path, steps=3, progress=False, **options)
    return path, split


@pytest.fixture(scope="module")
def full(diffusion):
    """Its report, with everything."""
    path, split = diffusion
    write_json(path / "evaluation.json", EVALUATION)
    page = read(write_report(path, split, None))
    (path / "evaluation.json").unlink()
    return page


def test_every_number_equals_the_json(full):
    scale = 1 / 16 / np.log(2)
    ll = EVALUATION["log_likelihood"]
    assert ll["quote"].partition("  (")[0] in full.text
    for entry in (ll, EVALUATION["controls"]["independent"]):
        assert plus_minus(entry["bits_per_dim"], entry["stderr_bits_per_dim"]) in full.text
    assert "+1.79 ± 0.11 nats an image" in full.text
    assert f"{plus_minus(0.1617, 0.01, sign=True)} bits/dim" in full.text
    assert "a lower bound on the difference" in full.text
    for term in ll["terms"].values():
        assert plus_minus(-term["mean_nats"] * scale, term["stderr_nats"] * scale) in full.text
    for entry in EVALUATION["self_check"].values():
        if isinstance(entry, dict):
            assert plus_minus(entry["bits_per_dim"], entry["stderr_bits_per_dim"]) in full.text
    both = np.hypot(0.5, 0.5) * scale
    assert f"Samples − test: {plus_minus(6 * scale, both, sign=True)} bits/dim" in full.text
    assert f"Test − train: {plus_minus(2 * scale, both, sign=True)} bits/dim" in full.text


def test_it_reads_the_numbers_plainly(full):
    for line in (
        "The true value is at least as good",
        "Knowing nothing costs log₂ 5 = 2.32",
        "less likely to it than real rows",
        "learned some of the training rows by heart",
        "gaussian: too <few> rows",
        "(a lower bound on the difference). independent: worse than diffusion by at least this.",
        "before variance and emission are calibrated",
        "ancestral, T = 6, ending in a draw from the emission, seed 0",
        "too few test rows to tell (10)",
    ):
        assert line in full.text
    assert "Not shown" not in full.text


def test_the_chart_of_steps_is_of_the_steps_between_x_1_and_x_t(full):
    """Σ over steps 2, 4, 6 by the trapezoid rule is 11 + 7: a quarter is reached at step 4, three quarters at step 6."""
    assert "of single steps, at 3 steps of the chain" in full.text
    assert "The middle half of their sum is paid between log-SNR -1.0 and -5.0." in full.text
    figure = steps_figure([-1.0, 3.0, -5.0], [6.0, 5.0, 1.0], [0.1] * 3, unit="nats")
    (axes,) = figure.axes
    (line,) = axes.get_lines()
    assert line.get_xdata().tolist() == [3.0, -1.0, -5.0]
    assert line.get_ydata().tolist() == [5.0, 6.0, 1.0]
    assert axes.get_xlim() == (3.0, -5.0)


def test_the_mark_says_the_kind(diffusion, monkeypatch):
    """A lower bound of log p is an upper bound of the cost: the truth lies to the left."""
    path, split = diffusion
    seen = []

    def spied(names, *numbers, **rest):
        seen.append(dict(zip(names, numbers[-1], strict=True)))
        return dots_figure(names, *numbers, **rest)

    monkeypatch.setattr(comparison, "dots_figure", spied)
    controls = {"independent": summary(-25.25, 0.2, "exact"), "gaussian": summary(-25.0, 0.2, "estimate")}
    write_json(path / "evaluation.json", {**EVALUATION, "controls": controls})
    assert "a triangle is a bound" in read(write_report(path, split, None)).text
    (path / "evaluation.json").unlink()
    assert {"diffusion": "<", "independent": "o", "gaussian": "D"} in seen
    assert {"test rows": "<", "training rows": "<", "its own samples": "<"} in seen
    axes = dots_figure(["a", "b"], [1.0, 2.0], [0.1, 0.1], ["<", "D"], unit="nats").axes[0]
    assert [line.get_marker() for line in axes.get_lines() if len(line.get_xdata()) == 1][-1] == "D"


def test_hostile_names_are_text(diffusion, full):
    content = (diffusion[0] / "report.html").read_text(encoding="utf-8")
    assert HOSTILE[0] not in content
    assert HOSTILE[1] not in content
    assert html.escape(HOSTILE[0]) in content
    assert html.escape(HOSTILE[1]) in content
    assert "\u202e" not in content
    assert "script" not in full.tags
    assert text("a\x00\ud800<&\"'") == "a\ufffd\ufffd&lt;&amp;&quot;&#x27;"


def test_without_data_and_without_evaluation(diffusion):
    path, _ = diffusion
    page = read(write_report(path, None, "the data at '<there>' have moved; give DATA"))
    assert page.text.count("Not shown: the data at '<there>' have moved; give DATA.") == 3
    assert page.text.count("there is no evaluation.json") == 4
    assert "What the run noted about them" in page.text
    assert "From noise to data" in page.text


@pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"log_likelihood": None, "controls": None, "per_step": None, "self_check": None},
        {"log_likelihood": {"quote": 3, "mean_nats": "x", "terms": []}, "differences": {"independent": None}},
        {**EVALUATION, "per_step": {"step": [1], "log_snr": [1.0], "nats": [1.0, 2.0]}, "self_check": {"test": {}}},
        {
            **EVALUATION,
            "log_likelihood": {**summary(-1.0, 1.0), "mean_nats": None, "bits_per_dim": None, "stderr_nats": None},
        },
    ],
)
def test_holes_in_the_numbers_leave_a_line(diffusion, evaluation, monkeypatch):
    numbers = (panels.header, panels.meaning, panels.controls, panels.split_of_bits, panels.self_check)
    monkeypatch.setattr("jensen.evaluation.report.PANELS", numbers)
    path, _ = diffusion
    write_json(path / "evaluation.json", evaluation)
    page = read(write_report(path, None, None))
    (path / "evaluation.json").unlink()
    assert "Where the bits go" in page.text


def test_an_unknown_error_stays_unknown():
    known, alone = cost(summary(-3.0, 0.5), Unit("nats", 1.0)), cost({"mean_nats": -2.0}, Unit("nats", 1.0))
    assert known == (3.0, 0.5)
    assert alone[0] == 2.0
    assert math.isnan(alone[1])
    assert math.isnan(minus(known, alone)[1])
    assert cost({"mean_nats": -2.0, "stderr_nats": 0.0}, Unit("nats", 1.0)) == (2.0, 0.0)


@pytest.mark.parametrize(("few", "told"), [("test", 2), ("samples", 1), ("train", 1)])
def test_a_reading_needs_enough_rows_on_both_sides(diffusion, few, told, monkeypatch):
    """9 rows of one kind beside 10 of the others: what is read from them, and only that, is too little to tell."""
    monkeypatch.setattr("jensen.evaluation.report.PANELS", (panels.self_check,))
    path, _ = diffusion
    check = EVALUATION["self_check"]
    write_json(path / "evaluation.json", {**EVALUATION, "self_check": {**check, few: {**check[few], "examples": 9}}})
    page = read(write_report(path, None, None))
    (path / "evaluation.json").unlink()
    assert page.text.count(TOO_FEW) == told


@pytest.mark.parametrize("reading", [_reading_own, _reading_train])
def test_a_reading_needs_two_standard_errors(reading):
    for times in (-1.9, 0.0, 1.9):
        assert reading((0.3 * times, 0.3), 100).startswith("Within two standard errors")
    below, above = (reading((0.3 * times, 0.3), 100) for times in (-2.1, 2.1))
    assert "Within" not in below + above
    assert below != above


@pytest.mark.parametrize("rows", [1, 2])
def test_one_or_two_test_rows_allow_no_verdict(tmp_path, rows):
    """The likelihoods are those of the run; rows as far apart as these would be many standard errors, if taken at their word."""
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=50 + x[:rows])
    data, run = str(tmp_path / "x.npz"), str(tmp_path / "run")
    assert main(["fit", data, "-m", "gmm", "--set", "n_components=2", "-o", run]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (found["log_likelihood"]["stderr_nats"] is None) == (rows == 1)
    page = read(tmp_path / "run" / "report.html")
    assert page.text.count(TOO_FEW) == 4  # two controls, samples - test, test - train
    assert ("± is one standard error of the mean" in page.text) == (rows == 2)
    assert ("± unknown" in page.text) == (rows == 1)
    assert rows == 2 or "± 0 " not in page.text
    assert ("Of 1 test row " in page.text) == (rows == 1)
    for reading in ("better than", "worse than", "likely to it than", "by heart", "Within two standard errors"):
        assert reading not in page.text


def test_one_test_row_is_enough_for_a_diffusion_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x_train=x, x_test=x[:1])
    settings = [f"--set={pair}" for pair in ("timesteps=6", "network=mlp", "size=tiny", "batch_size=8")]
    run = str(tmp_path / "run")
    assert main(["fit", str(tmp_path / "x.npz"), "-m", "diffusion", "-o", run, "--steps", "3", *settings]) == 0
    page = read(tmp_path / "run" / "report.html")
    assert "steps of the chain; their errors are unknown." in page.text
    assert page.text.count(TOO_FEW) == 4


@pytest.mark.parametrize(
    ("model", "control", "mean", "words"),
    [
        ("exact", "exact", -1.0, "diffusion: worse than independent."),
        ("exact", "exact", 1.0, "independent: worse than diffusion."),
        ("exact", "exact", 0.1, "no clear difference from diffusion"),
        (
            "lower bound",
            "exact",
            -1.0,
            "diffusion: its bound is worse than independent's number; the model itself may be better: not ranked.",
        ),
        ("lower bound", "exact", 1.0, "independent: worse than diffusion by at least this."),
        ("lower bound", "lower bound", 1.0, "independent: two bounds (the other is diffusion's): not ranked"),
        (
            "exact",
            "lower bound",
            -1.0,
            "diffusion: worse than independent by at least this.",
        ),
    ],
)
def test_what_a_gain_allows_to_say_depends_on_the_kinds(diffusion, monkeypatch, model, control, mean, words):
    found = said(diffusion, monkeypatch, model=model, control=control, mean_nats=mean, stderr_nats=0.1)
    assert words in found
    assert ("worse than" in found) == ("worse than" in words)


def test_a_gain_without_error_or_with_few_rows_says_nothing(diffusion, monkeypatch):
    assert UNKNOWN in said(diffusion, monkeypatch, model="exact", control="exact", mean_nats=-5.0, stderr_nats=None)
    few = said(diffusion, monkeypatch, rows=9, model="exact", control="exact", mean_nats=-5.0, stderr_nats=0.1)
    assert TOO_FEW in few
    assert "worse than" not in few


def said(diffusion, monkeypatch, *, model, control, rows=10, **difference):
    """The text of the panel of controls."""
    monkeypatch.setattr("jensen.evaluation.report.PANELS", (panels.controls,))
    path, _ = diffusion
    evaluation = {
        "log_likelihood": {**summary(-23.0, 0.3, model), "examples": rows},
        "controls": {"independent": summary(-25.0, 0.2, control)},
        "differences": {"independent": {"meaning": "…", **difference}},
    }
    write_json(path / "evaluation.json", evaluation)
    page = read(write_report(path, None, None))
    (path / "evaluation.json").unlink()
    return page.text.partition("row by row")[0]


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((60, 3, 4, 3), ["--levels", "9", "--layout", "HWC", "--split-seed", "7"]),
        ((60, 3), ["--levels", "4", "--set", "n_components=2", "--set", "covariance=diag"]),
        ((60, 3), ["--seed", "3"]),
        ((60, 3), ["--levels", "9", "--binarise", "static", "--binarise-seed", "5"]),
    ],
)
def test_the_command_on_the_page_shows_the_run_again(tmp_path, capsys, shape, options):
    """The same command finds the run finished; another one, by so much as an option, would be refused."""
    np.save(tmp_path / "a b.npy", np.random.default_rng(0).integers(0, 4, shape).astype(np.uint8))
    words = ["fit", str(tmp_path / "a b.npy"), "-m", "gmm", "-o", str(tmp_path / "r n"), *options]
    assert main(words) == 0
    page = read(tmp_path / "r n" / "report.html")
    start = page.text.index("jensen fit '")
    printed = shlex.split(page.text[start : page.text.index(" numbers in it ", start)])
    assert printed[0] == "jensen"
    assert set(words) <= set(printed)
    capsys.readouterr()
    assert main(printed[1:]) == 0
    assert main([*printed[1:], "--split-seed", "8"]) == 2


def test_the_command_resizes_a_folder(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for n in range(12):
        Image.fromarray(np.full((6, 8), n, np.uint8)).save(tmp_path / "photos" / f"{n}.png")
    words = ["fit", str(tmp_path / "photos"), "-m", "independent", "-o", str(tmp_path / "run"), "--size", "3x4"]
    assert main(words) == 0
    assert "--size 3x4" in read(tmp_path / "run" / "report.html").text


def test_closed_form_model_on_vectors(tmp_path):
    x = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    x[::9, 1] = np.nan
    split = jensen.load_data(x)
    pipeline = jensen.fit(split, "independent", run=tmp_path / "run", progress=False)
    ll = pipeline.log_likelihood(split.test)
    write_json(tmp_path / "run" / "evaluation.json", {"log_likelihood": {**ll.to_dict(), "quote": str(ll)}})
    page = read(write_report(tmp_path / "run", split, None))
    for line in (
        ll.quote(),
        "Nats, per row.",
        "fitted in closed form",
        "draws a row in one go",
        "was scored without controls",
    ):
        assert line in page.text


def test_real_valued_images_of_a_closed_form_model(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 3, 4, 5)).astype(np.float32)
    split = jensen.load_data(x)
    jensen.fit(split, "independent", run=tmp_path / "run", progress=False)
    page = read(write_report(tmp_path / "run", split, None))
    assert "Black is" in page.text


def test_data_of_another_shape_are_named(diffusion):
    other = jensen.load_data(np.zeros((30, 6, 6), np.uint8), levels=5)
    page = read(write_report(diffusion[0], other, None))
    assert "(1, 6, 6), the model was fitted to (1, 4, 4)" in page.text


def test_an_unfinished_run_and_a_damaged_file_are_refused(diffusion, tmp_path):
    with pytest.raises(InputError, match="no run at"):
        write_report(tmp_path / "nothing", None, None)
    path, split = diffusion
    (path / "evaluation.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"evaluation\.json"):
        write_report(path, split, None)
    (path / "evaluation.json").unlink()
