"""The commands about codes, samples and gaps, as a user types them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import jensen
from jensen.__main__ import main
from jensen.cli.gap import taken_apart
from jensen.evaluation.latents import PICTURES
from jensen.models.vae import VAE
from jensen.vae.gap import Gap
from jensen.vae.likelihood import Estimate

FAST = ["--steps", "25", "--set", "latent_dim=3", "--set", "width=16", "--set", "depth=1", "--set", "batch_size=32"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vae and an autoencoder of digits, and a gaussian."""
    folder = tmp_path_factory.mktemp("runs")
    for word in ("vae", "autoencoder"):
        assert main(["fit", "digits", "-m", word, "-o", str(folder / word), *FAST]) == 0
    jensen.fit(jensen.load_data("digits"), "gaussian", run=folder / "gaussian", progress=False)
    return folder


def test_encode_writes_a_code_for_every_row_in_order(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    x = jensen.load_data("digits").all_rows()
    wanted = jensen.load(runs / "vae").latents.encode(x)
    for name in ("z.npy", "z.npz", "z.csv"):
        assert main(["encode", str(runs / "vae"), "digits", "-o", str(tmp_path / name)]) == 0
        assert "1797 codes of 3 numbers" in capsys.readouterr().out
    found = np.load(tmp_path / "z.npy")
    assert np.allclose(found, wanted.numpy(), atol=1e-5)
    packed = np.load(tmp_path / "z.npz")
    assert np.array_equal(packed["z"], found)
    assert np.array_equal(packed["id"], np.arange(1797))
    lines = (tmp_path / "z.csv").read_text().splitlines()
    assert lines[0] == "z1,z2,z3"
    assert np.array_equal(np.loadtxt(lines, delimiter=",", skiprows=1), found)


def test_codes_in_closed_form_in_the_order_of_a_file(tmp_path: Path):
    """ppca: M⁻¹Wᵀ(x - μ) by numpy of the rows as they stand in the file, in data units up to a rotation: distances of codes."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(150, 2)) @ draw.normal(size=(2, 4)) + 0.3 * draw.normal(size=(150, 4))
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="a,b,c,d", comments="")
    run = str(tmp_path / "run")
    jensen.fit(jensen.load_data(str(tmp_path / "x.csv")), "ppca", run=run, n_components=2, progress=False)
    assert main(["encode", run, str(tmp_path / "x.csv"), "-o", str(tmp_path / "z.csv")]) == 0
    z = np.loadtxt(tmp_path / "z.csv", delimiter=",", skiprows=1)
    train = jensen.load_data(str(tmp_path / "x.csv")).train.x.double().numpy()
    mean, spread = train.mean(0), train.std(0)
    values, axes = np.linalg.eigh(np.cov(((train - mean) / spread).T, bias=True))
    left = values[:2].mean()  # Tipping and Bishop 1999: E[z | x] along axis u is sqrt(λ - σ²) / λ uᵀ(x - μ)
    wanted = (x - mean) / spread @ axes[:, 2:] * np.sqrt(values[2:] - left) / values[2:]
    apart = [np.linalg.norm(codes[:, None] - codes[None], axis=-1) for codes in (z, wanted)]
    assert np.allclose(*apart, rtol=1e-5, atol=1e-7)


def test_codes_of_a_folder_name_its_files(tmp_path: Path):
    draw = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for i in draw.permutation(30):
        picture = draw.integers(0, 256, (4, 4)).astype(np.uint8)
        Image.fromarray(picture).save(tmp_path / "pictures" / f"p{i:02d}.png")
    run, data = str(tmp_path / "run"), str(tmp_path / "pictures")
    jensen.fit(jensen.load_data(data), "ppca", run=run, n_components=2, progress=False)
    for name in ("z.csv", "z.npz"):
        assert main(["encode", run, data, "-o", str(tmp_path / name)]) == 0
    lines = [line.split(",") for line in (tmp_path / "z.csv").read_text().splitlines()]
    packed = np.load(tmp_path / "z.npz", allow_pickle=False)
    assert lines[0] == ["file", "z1", "z2"]
    assert [line[0] for line in lines[1:]] == packed["files"].tolist()
    one = np.asarray(Image.open(tmp_path / "pictures" / packed["files"][7]))[None, None]
    wanted = jensen.load(run).latents.encode(torch.from_numpy(one.copy()))[0]
    assert np.allclose(packed["z"][7], wanted.numpy())
    assert np.allclose([float(v) for v in lines[8][1:]], wanted.numpy())


def test_latent_draws_every_picture(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["latent", str(runs / "vae"), "-o", str(tmp_path / "all")]) == 0
    told = capsys.readouterr().out
    assert {p.name for p in (tmp_path / "all").iterdir()} == {f"{word}.png" for word in PICTURES}
    assert "reconstruct.png: above rows, below their reconstructions" in told
    split = jensen.load_data("digits")
    sheet = np.asarray(Image.open(tmp_path / "all" / "reconstruct.png").convert("L"))
    scale = 8  # 8 × 8 pixels at 64
    top, left = sheet.shape[0] - 2 * 66, sheet.shape[1] - 10 * 66  # words stand above and on the left
    assert (sheet[top - 1, left:] == 255).all()
    assert (sheet[top:, left - 1] == 255).all()
    first = sheet[top : top + 8 * scale : scale, left : left + 8 * scale : scale]
    rows = (split.test.x[:, 0].double() * 255 / 16).round().numpy()
    assert (np.abs(rows - first).max((1, 2)) == 0).any(), "the first picture of the upper line is a test row"
    for row in range(10):  # every one of them, and the same with the run's own data by name
        shown = sheet[top : top + 8 * scale : scale, left + row * (8 * scale + 2) :][:, : 8 * scale : scale]
        assert (np.abs(rows - shown).max((1, 2)) == 0).any()
    assert main(["latent", str(runs / "vae"), "digits", "-o", str(tmp_path / "own.png"), "--what", "reconstruct"]) == 0
    assert np.array_equal(np.asarray(Image.open(tmp_path / "own.png").convert("L")), sheet)
    assert (
        main(["latent", str(runs / "autoencoder"), "digits", "-o", str(tmp_path / "two"), "--what", "map,plane"]) == 0
    )
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"map.png", "plane.png"}
    assert main(["latent", str(runs / "vae"), "-o", str(tmp_path / "one.png"), "--what", "map"]) == 0
    assert Image.open(tmp_path / "one.png").size[0] > 100


def test_what_cannot_be_is_one_line(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    vae, out = str(runs / "vae"), str(tmp_path / "x")
    cases = {
        "a 'gaussian' model has no code for a row": ["latent", str(runs / "gaussian"), "-o", out],
        "unknown picture 'mop'; did you mean 'map'": ["latent", vae, "-o", out, "--what", "mop"],
        "holds one picture, got 7": ["latent", vae, "-o", f"{out}.png"],
        "the output must be .npy, .npz, .csv": ["encode", vae, "digits", "-o", f"{out}.png"],
        "kind must be linear or spherical, got 'round'": ["latent", vae, "-o", out, "--kind", "round"],
        "this model's likelihood has no setting 'drows'; did you mean 'draws'": ["evaluate", vae, "--method", "iwae", "--set", "drows=9"],
        "draws is no option of method=elbo": ["evaluate", vae, "--set", "draws=9"],
        "setting draws must be": ["evaluate", vae, "--method", "iwae", "--set", "draws=many"],
        "--gap is for vae": ["evaluate", str(runs / "gaussian"), "--gap", "9"],
        "--gap, a number of rows, must be from 2": ["evaluate", vae, "--gap", "1"],
        "-n, a number of rows to score, must be from 1 to 359, got 541": ["evaluate", vae, "-n", "541"],
        "--tolerance chooses how many draws are made": ["evaluate", vae, "--method", "iwae", "--tolerance", "0.1"],
        "--levels says how DATA is to be read, got 9 and no DATA": ["evaluate", vae, "--levels", "9"],
        "--size says how DATA is to be read": ["latent", vae, "-o", out, "--size", "3x3"],
        "--redraws is for runs on data with --binarise": ["evaluate", vae, "--redraws", "3", "-o", f"{out}.csv"],
        "--gap, a number of rows, must be from 2 to the 1 that -n takes, got 5": ["evaluate", vae, "-n", "1", "--gap", "5"],
        "takes as many of the run's own test rows, from 2 to 359, got 500": [
            "evaluate", vae, "digits", "--anomaly", "-n", "500", "-o", f"{out}.csv",
        ],
        "takes -n and --seed alone": ["evaluate", vae, "--method", "samples", "--gap", "9"],
        "from 20 rows to as many": ["evaluate", vae, "--method", "samples", "-n", "5"],
    }  # fmt: skip
    for message, words in cases.items():
        assert main(words) == 2, words
        told = capsys.readouterr()
        assert message in told.err
        assert not Path(f"{out}.csv").exists()
        assert "Traceback" not in told.err
        assert not told.out
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_methods_take_their_draws(runs: Path, capsys: pytest.CaptureFixture[str]):
    vae = str(runs / "vae")
    assert main(["evaluate", vae, "--method", "iwae", "--set", "draws=30", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["log_likelihood"]
    run, test = jensen.load(vae), jensen.load_data("digits").test
    assert found["mean_nats"] == pytest.approx(run.log_likelihood(test, method="iwae", draws=30).mean)
    assert found["diagnostics"]["draws"] == 30
    assert found["kind"] == "lower bound"
    assert set(found["diagnostics"]["ess"]) == {"median", "min", "max"}


def test_the_gap_is_told(runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jensen.cli.gap.CERTIFY", {"n": 8, "temperatures": 6, "chains": 2})
    assert main(["evaluate", str(runs / "vae"), "--gap", "8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gap"]
    assert found["gap"]["mean_nats"] == pytest.approx(found["family"]["mean_nats"] + found["amortisation"]["mean_nats"])
    assert found["rows"] == 8
    assert found["sandwich"]["gap_nats"] > -4 * found["sandwich"]["stderr_nats"]
    assert main(["evaluate", str(runs / "vae"), "--gap", "8"]) == 0
    told = capsys.readouterr().out
    assert "log p − elbo = " in told
    assert "annealing from both sides leaves log p open by" in told


def test_rows_of_a_gap_that_need_more_draws_are_counted(runs: Path, monkeypatch: pytest.MonkeyPatch):
    """Two of three by the estimate's own word, whose effective sample sizes have the median 2."""
    run = jensen.load(runs / "vae")
    zero = Estimate(torch.zeros(3), torch.zeros(3))
    told = {"reliable": torch.tensor([True, False, False]), "ess": torch.tensor([9.0, 1.0, 2.0])}
    monkeypatch.setattr(
        VAE, "gap", lambda *given, **options: Gap(zero, zero, Estimate(zero.value, zero.stderr, {}, told))
    )
    monkeypatch.setattr("jensen.cli.gap.CERTIFY", {"n": 2, "temperatures": 2, "chains": 2})
    found = taken_apart(run, jensen.load_data("digits").test, 3, 0)
    assert (found["unreliable"], found["effective_sample_size"]) == (2, 2.0)


def test_an_estimate_says_how_many_draws_it_is_of(runs: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", str(runs / "vae"), "--method", "iwae", "--set", "draws=150", "-n", "9", "--json"]) == 0
    ll = json.loads(capsys.readouterr().out)["log_likelihood"]
    assert main(["evaluate", str(runs / "vae"), "--method", "iwae", "--set", "draws=150", "-n", "9"]) == 0
    told = capsys.readouterr().out
    assert "(bound, iwae of 150 draws; 9 examples" in told
    weights = ll["diagnostics"]
    assert f"effective sample size of a row {weights['ess']['median']:.3g} (median)" in told
    assert f"Pareto k̂ {weights['pareto_k']['median']:.2f}, at most {weights['pareto_k']['max']:.2f}" in told
    words = ["--method", "ais", "--set", "temperatures=4", "--set", "chains=2", "-n", "3"]
    assert main(["evaluate", str(runs / "vae"), *words]) == 0
    assert "(bound, ais of 4 temperatures, 2 chains, 5 leapfrogs; 3 examples" in capsys.readouterr().out


def test_a_model_without_likelihood_says_why_and_measures_its_samples(runs: Path, capsys: pytest.CaptureFixture[str]):
    run = str(runs / "autoencoder")
    assert main(["evaluate", run]) == 0
    told = capsys.readouterr().out
    assert "autoencoder has no likelihood: it learns a code for every row and no distribution of rows" in told
    assert "classifier →" in told
    assert "train (ceiling)" in told
    assert main(["evaluate", run, "-n", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["log_likelihood"] is None
    assert found["samples"]["rows"] == 40
    assert found["samples"]["caution"].startswith("40 rows of each are few")
    assert set(found["samples"]["measures"]) == {"model", "train", "independent", "gaussian"}
    (runs / "autoencoder" / "evaluation.json").unlink()
    assert main(["evaluate", run, "-n", "40"]) == 0
    kept = json.loads((runs / "autoencoder" / "evaluation.json").read_text())
    assert "no distribution of rows" in kept["without_likelihood"]
    capsys.readouterr()
    assert main(["info", run]) == 0
    assert "result: no likelihood; it learns a code" in capsys.readouterr().out
    page = (runs / "autoencoder" / "report.html").read_text()
    assert "there is no evaluation.json" not in page
    assert "Samples against test rows" in page
    assert "The codes" in page


def test_samples_of_a_model_with_likelihood_go_into_its_report(runs: Path, capsys: pytest.CaptureFixture[str]):
    run = runs / "vae"
    assert "Not measured yet" in (run / "report.html").read_text()
    assert main(["evaluate", str(run), "--method", "samples", "-n", "50", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"model", "data", "samples"}
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text()
    assert "Not measured yet" not in page
    assert "coverage ↑" in page
    assert "KL(q(z | x) ‖ p(z))" in page


def test_a_fit_of_few_rows_ends_without_measures(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Too few test rows for two-sample measures: the fit is told and kept, and why it is not measured."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(40, 3)))
    run = tmp_path / "run"
    assert main(["fit", str(tmp_path / "x.npy"), "-m", "autoencoder", "-o", str(run), "--steps", "5"]) == 0
    assert "its samples were not measured: two-sample measures need at least 20 test rows" in capsys.readouterr().out
    assert (run / "report.html").is_file()
    assert main(["evaluate", str(run)]) == 0
    assert "its samples were not measured" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--method", "samples"]) == 2
    assert main(["encode", str(run), str(tmp_path / "x.npy"), "-o", str(tmp_path / "z.npy")]) == 0
