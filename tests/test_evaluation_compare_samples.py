"""Two-sample measures in comparisons, and a model without likelihood all the way: fit, evaluate, sample, report, compare."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jensen
from jensen.__main__ import main
from jensen.evaluation.compare import attempts, samples
from jensen.evaluation.two_sample import two_samples
from jensen.evaluation.two_sample.measure import as_dict

DRAW = np.random.default_rng(0)
ROWS = DRAW.normal(size=(400, 2)) * 0.3 + DRAW.choice([-2, 2], size=(400, 1))
DATA = jensen.load_data(ROWS)
WORDS = "gan,gmm,vae,ppca,autoencoder"
SMALL = {"width": 16, "depth": 1}
CODE = {"latent_dim": 1, "network": "mlp", **SMALL}
GAN: dict[str, Any] = {
    "steps": 20,
    "settings": {
        "gan": SMALL,
        "vae": CODE,
        "autoencoder": CODE,
        "ppca": {"n_components": 1},
        "jittered": {"scale": 0.005},
    },
}
WHY = "gan has no likelihood: its samples are x = G(z), and p(x) is nowhere written down"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compared") / "c"
    jensen.compare(DATA, WORDS, run=folder, progress=False, **GAN)
    return folder


def by_name(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in record["models"]}


def test_one_table_holds_models_with_and_without_likelihood(compared: Path):
    record = json.loads((compared / "compare.json").read_text())
    rows = by_name(record)
    assert set(rows) == {*WORDS.split(","), "independent", "gaussian", "jittered"}
    assert rows["gan"]["log_likelihood"] is rows["autoencoder"]["log_likelihood"] is None
    assert rows["gan"]["problem"] == WHY
    assert rows["autoencoder"]["problem"].startswith("autoencoder has no likelihood: it learns a code")
    kinds = {word: rows[word]["log_likelihood"]["kind"] for word in ("gmm", "ppca", "vae")}
    assert kinds == {"gmm": "exact", "ppca": "exact", "vae": "lower bound"}
    alone = jensen.fit(DATA, "ppca", n_components=1, progress=False).log_likelihood(DATA.test)
    assert rows["ppca"]["log_likelihood"]["mean_nats"] == pytest.approx(alone.mean, abs=1e-9)
    assert record["samples"]["rows"] == 80
    assert all(set(row["samples"]["measures"]) >= {"classifier", "frechet", "C_T"} for row in rows.values())
    assert rows["gan"]["samples"]["how"] == "G(z) of normal z, seed 0"
    value = {word: row["samples"]["measures"]["energy U"]["value"] for word, row in rows.items()}
    assert value["gmm"] < value["gaussian"], "two clusters are not one"
    assert rows["jittered"]["samples"]["measures"]["neighbour ratio"]["value"] < 0.5, "jittered rows are copies"
    page = (compared / "compare.html").read_text()
    for told in ("What they draw, against test rows", "coverage ↑", "train (ceiling)", "80 of each", WHY):
        assert told in page
    assert rows["jittered"]["samples"]["measures"]["classifier"]["p_value"] > 0.01


def test_the_terminal_shows_the_measures(compared: Path, capsys: pytest.CaptureFixture[str]):
    jensen.compare(DATA, WORDS, run=compared, progress=False, **GAN)
    shown = str(jensen.compare(DATA, WORDS, run=compared, progress=False, **GAN)).splitlines()
    head = next(n for n, line in enumerate(shown) if line.startswith("model") and "classifier →" in line)
    assert shown[head].split("  ")[0] == "model"
    lines = {line.split("  ")[0]: line for line in shown[head + 1 : head + 10]}
    assert set(lines) == {"train (ceiling)", *WORDS.split(","), "independent", "gaussian", "jittered"}
    assert f"  gan: no number: not ranked; {WHY}" in shown


def test_measures_are_those_of_evaluate(compared: Path):
    for word in ("gan", "gaussian"):
        run = jensen.load(compared / f"runs/{word}-0")
        alone = two_samples(run, DATA)
        record = json.loads((compared / "compare.json").read_text())
        own = by_name(record)[word]["samples"]["measures"]
        assert {name: own[name] for name in own} == {
            m.name: m.to_dict() for m in alone.columns["model"] if m.name in own
        }
        assert record["samples"]["ceiling"] == as_dict(alone.columns["train"])


def test_what_is_measured_is_not_measured_again(compared: Path, monkeypatch: pytest.MonkeyPatch):
    before = (compared / "compare.json").read_bytes()

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("done before")

    with monkeypatch.context() as patched:
        for place, name in ((attempts, "fit"), (attempts, "_score"), (attempts, "load"), (samples, "Gauge")):
            patched.setattr(place, name, never)
        jensen.compare(DATA, WORDS, run=compared, progress=False, **GAN)
    assert (compared / "compare.json").read_bytes() == before
    for word, content in (("gan", "{"), ("gmm", '{"how": "x", "measures": 3, "about": {}}')):
        (compared / f"runs/{word}-0/samples.json").write_text(content)
    with monkeypatch.context() as patched:
        for name in ("fit", "_score"):
            patched.setattr(attempts, name, never)
        jensen.compare(DATA, WORDS, run=compared, progress=False, **GAN)
    assert (compared / "compare.json").read_bytes() == before


def test_what_cannot_be_measured_costs_no_likelihood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    holed = ROWS.copy()
    holed[::5, 0] = np.nan
    found = jensen.compare(holed, "gmm", settings={"gmm": {"n_components": 2}}, progress=False)
    assert by_name(found.to_dict())["gmm"]["log_likelihood"]["mean_nats"] is not None
    told = "samples are not measured: two-sample measures need complete rows, and some have missing cells"
    assert str(found).count(told) == 1
    monkeypatch.setattr(samples.Gauging, "measured", lambda self, pipeline: 1 / 0)
    found = jensen.compare(DATA, "gaussian", progress=False)
    row = by_name(found.to_dict())["gaussian"]
    assert row["samples"] == {"problem": "ZeroDivisionError: division by zero"}
    assert row["log_likelihood"]["mean_nats"] is not None


def test_a_gan_goes_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, run = tmp_path / "rows.npy", str(tmp_path / "run")
    np.save(data, ROWS)
    size = ["--set", "width=16", "--set", "depth=1"]
    assert main(["fit", str(data), "-m", "gan", "-o", run, "--steps", "20", *size]) == 0
    assert WHY in capsys.readouterr().out
    assert main(["evaluate", run, "-n", "60", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert f"{WHY}. Its samples, measured against test rows:" in told
    assert "60 rows of each sample against as many test rows, seed 3; samples G(z) of normal z, seed 3" in told
    assert main(["evaluate", run, "-n", "60", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["log_likelihood"] is None
    assert "train − test log p" not in found["samples"]["measures"]["model"]
    assert found["samples"]["measures"]["gaussian"]["train − test log p"]["stderr"] > 0
    assert main(["sample", run, "-n", "5", "-o", str(tmp_path / "x.npy")]) == 0
    assert "5 samples (G(z) of normal z; seed 0)" in capsys.readouterr().out
    assert main(["report", run]) == 0
    page = (tmp_path / "run/report.html").read_text()
    for said in ("Samples against test rows", "nowhere written down", "train (ceiling)", "energy U →", "exact draws"):
        assert (said in page) != (said == "exact draws")
