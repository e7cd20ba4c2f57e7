"""The command line in-process: what goes to stdout, what to stderr, and the exit code."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import jensen
from jensen import fitting
from jensen.__main__ import main
from jensen.cli import inputs, printing, work
from jensen.diffusion.solvers.ancestral import DDIM
from jensen.errors import FitError
from jensen.evaluation.likelihood import summary
from jensen.models import MODELS, pipeline
from jensen.training.run import Run

ROWS = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 3.0]
TINY = ["--set", "timesteps=5", "--set", "size=tiny", "--set", "batch_size=20", "--set", "precision=float32"]


@pytest.fixture(scope="module", autouse=True)
def coarse() -> Iterator[None]:
    """Scores of a precision that these tests do not look at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "TOLERANCE", 0.3)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data files, and three small runs."""
    path = tmp_path_factory.mktemp("world")
    np.savetxt(path / "t.csv", ROWS, delimiter=",", header="height,weight", comments="")
    np.save(path / "images.npy", np.random.default_rng(0).integers(0, 4, (60, 4, 5)).astype(np.uint8))
    holes = np.where(np.arange(120).reshape(60, 2) == 99, np.nan, ROWS)
    np.savetxt(path / "holes.csv", holes, delimiter=",", header="height,weight", comments="")
    np.savez(path / "parts.npz", x_train=ROWS[:40], x_test=ROWS[40:])
    jensen.fit(str(path / "t.csv"), "gaussian", run=path / "table", progress=False)
    jensen.fit(jensen.load_data(str(path / "images.npy"), levels=4), "independent", run=path / "pixels", progress=False)
    lines = [f"{a},{'yes' if b > 0 else 'no'},{b}" for a, b in ROWS.tolist()]
    (path / "classes.csv").write_text("height,tall,weight\n" + "\n".join(lines) + "\n")
    labelled = jensen.load_data(str(path / "classes.csv"), label="tall")
    jensen.fit(labelled, "naive-bayes", run=path / "bayes", progress=False)
    options: dict[str, Any] = {"timesteps": 5, "size": "tiny", "batch_size": 20, "precision": "float32"}
    jensen.fit(str(path / "t.csv"), "diffusion", run=path / "chain", progress=False, steps=5, **options)
    return path


@pytest.fixture
def run(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.chdir(world)

    def command(*words: str) -> tuple[int, str, str]:
        code = main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def refused(result: tuple[int, str, str]) -> str:
    """The one line of an error, after checking its form."""
    code, out, err = result
    line = err.splitlines(keepends=True)[-1]
    assert code == 2
    assert out == ""
    assert line.startswith("jensen: ")
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.startswith("jensen: ")]) == 1
    return line


def one_object(out: str) -> dict[str, Any]:
    found = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert isinstance(found, dict)
    return found


# Words


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["-h"],
        *(
            [name, "--help"]
            for name in ("fit", "compare", "evaluate", "sample", "show", "noise", "report", "info", "models", "data")
        ),
    ],
)
def test_help_is_a_result(words: list[str], run: Any):
    code, out, err = run(*words)
    assert (code, err) == (0, "")
    assert "Usage: jensen" in out


def test_models_and_data_are_listed(run: Any):
    code, out, err = run("models")
    assert (code, err) == (0, "")
    assert all(f"{word}: " in out for word in MODELS)
    assert "--set timesteps=1000" in out
    assert set(one_object(run("models", "--json")[1])) == set(MODELS)
    code, out, err = run("models", "vae")
    assert (code, err) == (0, "")
    assert "--set posterior=diagonal  of diagonal, full, flow" in out
    assert "the share of the run in which the draws grow from 1 to that many" in out
    assert "--set batch_size=auto" in out
    assert "auto for half as many as a row has" in out
    assert one_object(run("models", "gan", "--json")[1])["gan"]["settings"]["batch_size"]["about"] == "rows a step."
    assert "--set lr=auto" in run("models", "gan")[1]
    assert "unknown model 'vea'; did you mean 'vae'?" in run("models", "vea")[2]
    assert "digits: " in run("data")[1]
    assert "digits" in one_object(run("data", "--json")[1])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["fit"], "Missing argument 'DATA'"),
        (["fit", "digits"], "Missing option"),
        (["fit", "digits", "-o", "x", "--nope"], "No such option"),
        (["fit", "digits", "-o", "x", "--steps", "many"], "--steps"),
        (["fit", "digits", "-o", "x", "-m", "bogus"], "unknown model 'bogus'; known models are "),
        (["fit", "digits", "-o", "x", "-m", "Difusion"], "did you mean 'diffusion'? known models are "),
        (["fit", "digits", "-o", "x", "--set", "timestep=5"], "did you mean 'timesteps'? it has "),
        (["fit", "digit", "-o", "x", "-m", "gaussian"], "did you mean 'digits'? give one of these words or the path"),
        (["sample", "chain", "-o", "x.npy", "--sampler", "dim"], "did you mean 'ddim'? known samplers are "),
        (
            ["fit", "digits", "-o", "x", "--set", "bogus=1"],
            "has no setting 'bogus'; it has adaptive, attention, batch_size, ",
        ),
        (["fit", "digits", "-o", "x", "--set", "steps=5"], "has no setting 'steps'"),
        (["fit", "digits", "-o", "x", "--set", "lr=fast"], "setting lr must be a finite number, got 'fast'"),
        (["fit", "digits", "-o", "x", "--set", "lr=NaN"], "setting lr must be a finite number, got nan"),
        (["fit", "digits", "-o", "x", "--set", "lr"], "--set takes name=value, got 'lr'"),
        (["fit", "digits", "-o", "x", "--budget", "5"], "got '5'"),
        (["fit", "digits", "-o", "x", "--budget", "5m", "--steps", "5"], "not both"),
        (["fit", "digits", "-o", "x", "--steps", "0"], "got 0"),
        (["fit", "digits", "-o", "x", "--seed", "-1"], "got -1"),
        (["fit", "digits", "-o", "x", "--seed", "9" * 30], "seed must be"),
        (["fit", "digits", "-o", "x", "-m", "gaussian", "--steps", "5"], "to convergence"),
        (["fit", "nowhere.npy", "-o", "x", "-m", "gaussian"], "'nowhere.npy'"),
        (["fit", "t.csv", "-o", "t.csv", "-m", "gaussian"], "'t.csv' is a file"),
        (["fit", "t.csv", "-o", ".", "-m", "gaussian"], "no jensen run"),
        (["fit", "t.csv", "-o", "table", "-m", "independent"], "model was 'gaussian', now 'independent'"),
        (["fit", "t.csv", "-o", "x" * 5000, "-m", "gaussian"], "File name too long"),
        (["fit", "t.csv", "-o", "x", "-m", "gaussian", "--size", "8by8"], "got '8by8'"),
        (["evaluate", "nowhere"], "no run at 'nowhere'"),
        (["fit", "holes.csv", "-o", "x", "-m", "gaussian"], "holes.csv', line 51: column 2 ('weight') is missing"),
        (["evaluate", "table", "holes.csv"], "holes.csv', line 51: column 2 ('weight') is missing"),
        (["evaluate", "table", "images.npy"], "the model was fitted to (2,); give data of that shape\n"),
        (["evaluate", "table", "--method", "vlb"], "got 'vlb'"),
        (["evaluate", "table", "--tolerance", "-1"], "got -1"),
        (["evaluate", "table", "--steps", "5"], "--steps is for diffusion models, and this run's model is 'gaussian'"),
        (["evaluate", "chain", "--steps", "0"], "got 0"),
        (["evaluate", "table", "-n", "13"], "-n, a number of rows to score, must be from 1 to 12, got 13"),
        (["evaluate", "table", "-n", "0"], "must be from 1 to 12, got 0"),
        (["evaluate", "table", "--every-step"], "--every-step is for diffusion models"),
        (["evaluate", "table", "-o", "x.txt"], "must be .csv, got 'x.txt'"),
        (["evaluate", "table", "-o", "t.csv/x.csv"], "cannot write"),
        (["sample", "table", "-o", "x.txt"], "got 'x.txt'"),
        (["sample", "table", "-o", "table"], "'table' is not empty"),
        (["sample", "table", "-o", "t.csv/x.npy"], "cannot write"),
        (["sample", "table", "-o", "x.npy", "-n", "0"], "got 0"),
        (["sample", "table", "-o", "x.npy", "-n", "-1"], "got -1"),
        (["sample", "table", "-o", "x.npy", "-n", "1000000000000"], "do not fit in memory"),
        (["sample", "table", "-o", "x.npy", "--context", "3"], "takes no context, got '3'"),
        (["sample", "bayes", "-o", "x.npy", "--context", "perhaps"], "unknown class 'perhaps'; classes are no, yes"),
        (
            ["fit", "t.csv", "-o", "x", "-m", "naive-bayes"],
            "these data have none; give a table's column of classes with --label",
        ),
        (["fit", "classes.csv", "-o", "x", "-m", "naive-bayes"], "'no' is not a number; "),
        (
            ["fit", "classes.csv", "-o", "x", "-m", "gaussian", "--label", "tal"],
            "no column 'tal'; did you mean 'tall'?",
        ),
        (
            ["fit", "images.npy", "-o", "x", "-m", "gaussian", "--label", "2"],
            "label is an option for tables, got label=2",
        ),
        (
            ["fit", "classes.csv", "-o", "x", "-m", "naive-bayes", "--label", "2", "--set", "family=poisson"],
            "does not suit real values",
        ),
        (["fit", "classes.csv", "-o", "bayes", "-m", "naive-bayes", "--label", "2"], "holds another run: "),
        (["evaluate", "bayes", "t.csv", "--label", "tall"], "no column 'tall'"),
        (["evaluate", "bayes", "classes.csv", "--label", "weight"], "is not a number"),
        (["sample", "table", "-o", "x.npy", "--sampler", "ddim"], "leave out --sampler"),
        (["sample", "chain", "-o", "x.npy", "--sampler", "bogus"], "unknown sampler 'bogus'"),
        (["sample", "chain", "-o", "x.npy", "--steps", "0"], "got 0"),
        (["sample", "pixels", "-o", "x.csv"], "(1, 4, 5)"),
        (["info", "nowhere"], "no run at"),
        (["report", "nowhere"], "no run at"),
        (["show", "nowhere.csv"], "'nowhere.csv'"),
    ],
)
def test_mistakes_are_one_line_and_code_2(words: list[str], message: str, run: Any, world: Path):
    before = sorted(str(path) for path in world.rglob("*"))
    assert message in refused(run(*words))
    assert [p for p in sorted(str(path) for path in world.rglob("*")) if p not in before] == []


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "chain", "--steps", "0"],
        ["evaluate", "chain", "--tolerance", "-1"],
        ["evaluate", "chain", "--method", "exact"],
        ["evaluate", "chain", "images.npy"],
        ["evaluate", "chain", "holes.csv"],
        ["sample", "chain", "-o", "x.npy", "--steps", "0"],
        ["sample", "chain", "-o", "x.npy", "-n", "0"],
        ["sample", "chain", "-o", "t.csv/x.npy"],
        ["sample", "chain", "-o", "t.csv/folder"],
        ["evaluate", "chain", "-o", "t.csv/x.csv"],
        ["show", "t.csv", "-o", "t.csv/x.png"],
        ["noise", "t.csv", "-o", "t.csv/x.png"],
    ],
)
def test_no_bar_is_shown_before_a_mistake_is_told(words: list[str], run: Any):
    code, out, err = run(*words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("words", [["evaluate", "chain"], ["sample", "chain"], ["show", "t.csv"], ["noise", "t.csv"]])
def test_a_place_that_cannot_be_written_is_told_first(words: list[str], run: Any, monkeypatch: pytest.MonkeyPatch):
    for module, name in ((fitting, "load"), (inputs, "load_split")):
        monkeypatch.setattr(module, name, None)
    suffix = ".csv" if words[0] == "evaluate" else ".png"
    assert "cannot write 't.csv/x" in refused(run(*words, "-o", f"t.csv/x{suffix}"))


def test_names_are_checked_before_any_work(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inputs, "load_split", None)
    assert "no setting 'bogus'" in refused(run("fit", "mnist", "-o", "x", "--set", "bogus=1"))


# Evaluate


def test_evaluate_says_one_line_a_person_can_quote(run: Any):
    code, out, _ = run("evaluate", "pixels")
    assert code == 0
    assert out.startswith("independent on ")
    assert "bits/dim" in out
    assert "(exact; 12 examples × 20 dims; ± 1 SE)" in out
    assert "nats" in run("evaluate", "table")[1]


def test_evaluate_as_json_is_one_object(run: Any):
    for words in (["table"], ["pixels"], ["chain"]):
        code, out, _ = run("evaluate", *words, "--json")
        found = one_object(out)
        assert code == 0
        assert set(found) == {"model", "data", "log_likelihood"}
        ll = found["log_likelihood"]
        assert ll["examples"] == 12
        assert (ll["bits_per_dim"] is None) == (ll["measure"] == "Lebesgue")
        terms = [term["mean_nats"] for term in ll["terms"].values()]
        assert not terms or sum(terms) == pytest.approx(ll["mean_nats"])


def test_evaluate_writes_a_row_an_example(run: Any, world: Path):
    for name, stderr in (("table", False), ("chain", True)):
        code, out, _ = run("evaluate", name, "-o", "new/scores.csv")
        lines = [line.split(",") for line in (world / "new/scores.csv").read_text().splitlines()]
        header = ["id", "value", "stderr", *(["repetitions"] if stderr else [])]
        assert (code, lines[0], len(lines)) == (0, header, 13)
        assert "scores: new/scores.csv" in out
        test = jensen.load_data(str(world / "t.csv")).test
        assert [int(row[0]) for row in lines[1:]] == test.id.tolist()
        assert all(bool(row[2]) == stderr for row in lines[1:])
        assert all(int(row[3]) >= 2 for row in lines[1:] if stderr)
        ll = jensen.load(world / name).log_likelihood(test)
        np.testing.assert_allclose([float(row[1]) for row in lines[1:]], ll.value.numpy(), rtol=1e-5)
        if stderr:
            np.testing.assert_allclose([float(row[2]) for row in lines[1:]], ll.stderr.numpy(), rtol=1e-3)


def test_what_is_scored_follows_the_data(run: Any, world: Path):
    """The run's own data: their test rows. A test part: that. Otherwise every row."""
    count = lambda *words: one_object(run("evaluate", "table", *words, "--json")[1])["log_likelihood"]["examples"]  # noqa: E731
    np.savetxt(world / "other.csv", ROWS[:30] + 0.5, delimiter=",")
    assert count() == count("t.csv") == 12
    assert count("parts.npz") == 20
    assert count("other.csv") == 30
    (world / "other.csv").unlink()


def test_some_rows_are_the_same_rows_for_every_model_and_score_as_in_company(run: Any, world: Path):
    """Whatever the seed; and not the first ones."""

    def scores(*words: str) -> dict[str, str]:
        assert run("evaluate", *words, "-o", "some.csv")[0] == 0
        lines = (world / "some.csv").read_text().splitlines()[1:]
        return {line.split(",")[0]: line.split(",")[1] for line in lines}

    whole, few = scores("table"), scores("table", "-n", "5", "--seed", "3")
    assert len(few) == 5
    assert few.items() <= whole.items()
    assert list(few) == list(scores("chain", "-n", "5", "--tolerance", "1"))
    assert list(few) != list(whole)[:5]
    rows = lambda *words: one_object(run("evaluate", *words, "--json")[1])["log_likelihood"]["rows"]  # noqa: E731
    assert rows("table", "-n", "5") == rows("chain", "-n", "5", "--tolerance", "1") != rows("table")


def test_the_runs_own_split_is_found_again(run: Any, world: Path):
    """By the run alone and by its data's path, for another split seed than 0."""
    split = jensen.load_data(str(world / "t.csv"), split_seed=3)
    jensen.fit(split, "independent", run=world / "third", progress=False)
    for data in ([], ["t.csv"]):
        assert run("evaluate", "third", *data, "-o", "third.csv")[0] == 0
        ids = np.loadtxt(world / "third.csv", delimiter=",", skiprows=1, usecols=0)
        assert ids.tolist() == split.test.id.tolist()


def test_declared_levels_hold_for_other_files(run: Any, world: Path):
    """int64 is no data without levels, and the run knows them."""
    np.save(world / "more.npy", np.random.default_rng(1).integers(0, 4, (15, 4, 5)))
    assert one_object(run("evaluate", "pixels", "more.npy", "--json")[1])["log_likelihood"]["examples"] == 15


def test_options_of_evaluate_reach_the_bound(run: Any):
    def of(*words: str) -> dict[str, Any]:
        return one_object(run("evaluate", "chain", *words, "--json")[1])["log_likelihood"]

    every = of("--every-step", "--tolerance", "10")
    assert every["diagnostics"]["network_calls_per_example"] == 2 * 5
    assert of("--every-step", "--tolerance", "0.01")["diagnostics"]["repetitions"] > 2
    assert of("--every-step", "--tolerance", "10", "--seed", "1")["mean_nats"] != every["mean_nats"]
    assert of("--every-step", "--steps", "3")["of"] == "ancestral, T = 3"
    coarse, fine = (of("--tolerance", t)["diagnostics"]["repetitions"] for t in ("10", "0.1"))
    assert coarse < fine


def test_terms_sum_to_the_headline(world: Path, capsys: pytest.CaptureFixture[str]):
    """In its unit and with its sign: bits/dim of a mass, nats of a density."""
    for model, rows in (("gaussian", jensen.load_data(str(world / "images.npy"), levels=4)), ("gaussian", ROWS)):
        pipeline = jensen.fit(rows, model, progress=False)
        ll = pipeline.log_likelihood(jensen.load_data(rows).test)
        headline = ll.mean if ll.bits_per_dim is None else ll.bits_per_dim
        printing.print_breakdown(summary(ll))
        (line,) = capsys.readouterr().out.splitlines()
        shown = [float(word.split()[-1]) for word in line.split(" (")[0].removeprefix("             = ").split(" + ")]
        assert len(shown) == len(ll.terms) == 2
        assert sum(shown) == pytest.approx(headline, abs=2e-4)


# Sample


def test_samples_come_in_every_form(run: Any, world: Path):
    truth = jensen.load(world / "table").sample(7, seed=3).numpy()
    for name in ("s.npy", "s.npz", "s.csv", "deep/down/s.npy"):
        code, out, _ = run("sample", "table", "-n", "7", "--seed", "3", "-o", name)
        assert (code, out) == (0, f"7 samples (exact draws; seed 3): {name}\n")
    np.testing.assert_array_equal(np.load(world / "s.npy"), truth)
    np.testing.assert_array_equal(np.load(world / "s.npz")["x"], truth)
    np.testing.assert_allclose(np.loadtxt(world / "s.csv", delimiter=",", skiprows=1), truth, rtol=1e-8)
    assert (world / "s.csv").read_text().startswith("height,weight\n")
    assert np.load(world / "s.npy").dtype == truth.dtype


def test_images_become_pictures(run: Any, world: Path):
    assert run("sample", "pixels", "-n", "5", "-o", "grid.png")[0] == 0
    assert (world / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert run("sample", "pixels", "-n", "5", "-o", "folder")[0] == 0
    assert len(list((world / "folder").glob("*.png"))) == 5


def test_a_sampler_is_named(run: Any, world: Path):
    code, out, _ = run("sample", "chain", "-n", "2", "-o", "d.npy", "--sampler", "ddim", "--steps", "3")
    assert code == 0
    assert "seed 0" in out
    assert torch.from_numpy(np.load(world / "d.npy")).isfinite().all()


def test_options_of_sample_reach_the_sampler(run: Any, world: Path):
    pipeline = jensen.load(world / "chain")
    words = ["--sampler", "ddim", "--steps", "3", "--set", "eta=0.5", "--grid", "karras", "--seed", "4"]
    code, out, _ = run("sample", "chain", "-n", "2", "-o", "e.npy", *words)
    how = "DDIM, η = 0.5, 3 steps, ending in x̂_0, levels by karras; seed 4"
    assert (code, out) == (0, f"2 samples ({how}): e.npy\n")
    wanted = pipeline.sample(2, seed=4, sampler=DDIM(0.5), steps=3, grid="karras")
    np.testing.assert_array_equal(np.load(world / "e.npy"), wanted)
    refused = {
        "the sampler dpm-2m has no setting 'eta'; it has none": ["--set", "eta=0.5"],
        "setting rounds must be a whole number, got 0.5": ["--sampler", "langevin", "--set", "rounds=0.5"],
        "the sampler ddim has no setting 'word'": ["--sampler", "ddim", "--set", "word=1"],
        "unknown sampler ''": ["--sampler", ""],
        "unknown grid 'quadratisch'; did you mean 'quadratic'": ["--grid", "quadratisch"],
        "unknown sampler 'dpm-2n'; did you mean 'dpm-2": ["--sampler", "dpm-2n"],
    }
    for said, words in refused.items():
        code, _, err = run("sample", "chain", "-o", "f.npy", *words)
        assert code == 2
        assert said in err
        assert "sampling" not in err, "refused before the bar"
    assert (
        "leave out --sampler, --steps, --grid and --set" in run("sample", "table", "-o", "f.npy", "--grid", "time")[2]
    )


# Info, show


def test_info_and_show(run: Any):
    code, out, err = run("info", "table")
    assert (code, err) == (0, "")
    assert 'model.word: "gaussian"' in out
    assert "state: finished" in out
    assert one_object(run("info", "table", "--json")[1])["finished"] is True
    assert run("show", "t.csv")[0] == 0
    assert one_object(run("show", "t.csv", "--json")[1])["rows"] == {"train": 42, "valid": 6, "test": 12}


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": 1, "data": []}',
        "[]",
        '{"schema": 1, "request": {}, "data": {}, "codec": {}, "model": {}, "versions": {}}',
    ],
)
def test_a_damaged_config_is_an_error_everywhere(content: str, run: Any, tmp_path: Path):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes(b"")
    for words in (["evaluate"], ["sample", "-o", "x.npy"], ["report"]):
        line = refused(run(words[0], str(tmp_path), *words[1:]))
        assert str(tmp_path) in line
        assert any(word in line for word in ("damaged", "must hold a JSON object"))


# The whole way


def test_fit_says_what_was_found_and_again_the_same(run: Any, world: Path):
    """On a path with blanks, quotes and letters of many tongues."""
    words = ["fit", "t.csv", "-m", "diffusion", "-o", "läufe/ein 'lauf' 中文", "--steps", "4", *TINY]
    code, out, err = run(*words)
    assert code == 0, err
    assert out.startswith("diffusion ")
    assert all(f"\n{control} " in out for control in ("independent", "gaussian"))
    folder = world / words[5]
    for name in ("config.json", "model.safetensors", "history.jsonl", "evaluation.json", "samples.png", "report.html"):
        assert (folder / name).is_file()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(*words)[:2] == (0, out)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert one_object(run(*words, "--json")[1])["model"] == "diffusion"
    (folder / "report.html").unlink()
    assert run(*words)[:2] == (0, out)
    assert (folder / "report.html").is_file()
    assert "steps was 4, now 5" in refused(run(*words[:7], "5", *TINY))


def test_a_fit_draws_its_samples_under_the_columns_names(run: Any, monkeypatch: pytest.MonkeyPatch):
    names: list[Any] = []
    monkeypatch.setattr(work, "save_grid", lambda *given, **options: names.append(options["names"]))
    assert run("fit", "t.csv", "-m", "gaussian", "-o", "named")[0] == 0
    assert names == [["height", "weight"]]


def test_options_of_fit_reach_the_fit_and_divergence_is_1(run: Any, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, Any] = {}

    def diverge(split: Any, model: str, **options: Any) -> None:
        seen.update(options, split=split, model=model)
        raise FitError("the loss has not been finite")

    monkeypatch.setattr("jensen.fitting.fit", diverge)
    data = ["--levels", "4", "--split-seed", "2", "--layout", "HW"]
    words = ["-m", "diffusion", "--steps", "9", "--seed", "7", "--overwrite", "--set", "lr=0.5"]
    code, out, err = run("fit", "images.npy", "-o", "never", *data, *words)
    assert (code, out, err) == (1, "", "jensen: the loss has not been finite\n")
    expected = jensen.load_data("images.npy", levels=4, split_seed=2)
    assert (seen["split"].fingerprint, seen["split"].space) == (expected.fingerprint, expected.space)
    assert {name: seen[name] for name in ("model", "steps", "seed", "overwrite", "lr", "budget")} == {
        "model": "diffusion",
        "steps": 9,
        "seed": 7,
        "overwrite": True,
        "lr": 0.5,
        "budget": None,
    }


def test_a_size_is_height_by_width(run: Any, tmp_path: Path):
    for number in range(10):
        Image.fromarray(np.full((6, 6), number, np.uint8)).save(tmp_path / f"{number}.png")
    assert one_object(run("show", str(tmp_path), "--size", "4x8", "--json")[1])["shape"] == [1, 4, 8]


def test_ctrl_c_is_130_and_says_how_to_go_on(run: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(work, "drawn", lambda *a: signal.raise_signal(signal.SIGINT))
    code, out, err = run("sample", "table", "-o", "never.npy")
    assert (code, out) == (130, "")
    assert "interrupted; finished models and checkpoints of those in training are kept" in err
    assert "anything else it begins anew" in err
    assert not Path("never.npy").exists()


@pytest.mark.parametrize(
    "code", ["import jensen; jensen.__all__", "from jensen.__main__ import main; main(['--help'])"]
)
def test_torch_waits_until_it_is_needed(code: str):
    check = f"import sys; {code}; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_leaves_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m jensen models | head -n 1", shell=True, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("diffusion: ")
    assert done.stderr == ""


@pytest.mark.parametrize("words", ["data", "data --json", "--help"])
def test_a_reader_that_was_never_there_ends_a_command_as_the_shell_has_it(words: str):
    command = f"{{ {sys.executable} -m jensen {words}; echo $? >&2; }} | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == "141\n"


def test_a_damaged_history_is_told(run: Any, world: Path):
    history = world / "chain/history.jsonl"
    good = history.read_text()
    assert "damaged" not in run("report", "chain")[2]
    history.write_text("{}\n" + good + "[" * 100_000 + "\n" + '{"step": "x"}\n' + '{"step": 3, "cut short')
    code, _, err = run("report", "chain")
    count = len(good.splitlines())
    assert code == 0
    assert f"'chain/history.jsonl': lines 1, {count + 2}, {count + 3} are damaged" in err
    assert Run("chain").history() == [json.loads(line) for line in good.splitlines()]
    history.write_text(good)


def test_info_says_what_is_wrong_with_a_run(run: Any, world: Path, tmp_path: Path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((world / "chain" / name).read_bytes())
    weights = tmp_path / "model.safetensors"
    good = weights.read_bytes()
    assert "state: finished\n" in run("info", str(tmp_path))[1]
    for damage in (good[:-8], good[:20], b""):
        weights.write_bytes(damage)
        code, out, _ = run("info", str(tmp_path))
        assert code == 0
        assert f"state: damaged: cannot read {str(weights)!r}: it is cut short, damaged or no safetensors file; " in out
        found = one_object(run("info", str(tmp_path), "--json")[1])
        assert found["finished"] is False
        assert "cut short" in found["problem"]
    weights.write_bytes((world / "table/model.safetensors").read_bytes())
    assert "damaged: " in run("info", str(tmp_path))[1]


# Classes


def test_evaluate_tells_the_classes(run: Any, world: Path):
    split = jensen.load_data(str(world / "classes.csv"), label="tall")
    model = jensen.load(world / "bayes")
    found = one_object(run("evaluate", "bayes", "--json")[1])
    right = (model.responsibilities(split.test).argmax(1) == split.test.context).double()
    assert found["classification"]["accuracy"] == pytest.approx(float(right.mean()))
    assert found["classification"]["rows"] == 12
    assert one_object(run("evaluate", "bayes", "classes.csv", "--json")[1])["classification"]["rows"] == 12
    assert f"classes      {int(right.sum())} of 12 rows right: accuracy " in run("evaluate", "bayes")[1]
    assert "classification" not in one_object(run("evaluate", "table", "--json")[1])
    assert run("evaluate", "bayes", "-o", "classes_scores.csv")[0] == 0
    lines = (world / "classes_scores.csv").read_text().splitlines()
    assert lines[0] == "id,value,stderr,component,p0,p1"
    shares = [[float(cell) for cell in line.split(",")[4:]] for line in lines[1:]]
    np.testing.assert_allclose(shares, model.responsibilities(split.test).numpy(), rtol=1e-5, atol=1e-12)


def test_rows_without_the_label_have_a_likelihood(run: Any, world: Path):
    """The same rows with one class alone, with a class the model does not know, and without their label."""
    for name, kind in (("one", "yes"), ("odd", "odd")):
        lines = "".join(f"{a},{kind},{b}\n" for a, b in ROWS[:12].tolist())
        (world / f"{name}.csv").write_text("height,tall,weight\n" + lines)
    (world / "bare.csv").write_text("height,weight\n" + "".join(f"{a},{b}\n" for a, b in ROWS[:12].tolist()))
    found = {name: run("evaluate", "bayes", f"{name}.csv", "--json") for name in ("one", "odd", "bare")}
    values = {name: one_object(out)["log_likelihood"]["mean_nats"] for name, (_, out, _) in found.items()}
    assert values["one"] == values["odd"] == values["bare"]
    classified = one_object(found["one"][1])["classification"]
    assert [c["rows"] for c in classified["by_class"]] == [0, 12]
    truth = jensen.load(world / "bayes").responsibilities(ROWS[:12])[:, 1]
    assert classified["log_loss_nats"] == pytest.approx(-float(truth.log().mean()))
    assert all("classification" not in one_object(found[name][1]) for name in ("odd", "bare"))
    assert "classes of the rows are left out: the class 'odd' is none of the model's: no, yes" in found["odd"][2]
    assert "is none of the model's" in refused(run("evaluate", "bayes", "odd.csv", "--label", "tall"))


def test_samples_of_a_class(run: Any, world: Path):
    code, out, _ = run("sample", "bayes", "-n", "40", "-o", "yes.csv", "--context", "yes")
    assert (code, out) == (0, "40 samples of class yes (exact draws; seed 0): yes.csv\n")
    truth = jensen.load(world / "bayes").sample(40, "yes", seed=0).numpy()
    np.testing.assert_allclose(np.loadtxt(world / "yes.csv", delimiter=",", skiprows=1), truth, rtol=1e-12)
    assert (world / "yes.csv").read_text().startswith("height,weight\n")


def test_the_same_command_with_a_label_finds_the_run(run: Any, world: Path):
    words = ["fit", "classes.csv", "-m", "naive-bayes", "--label", "tall", "-o", "again"]
    first, second = run(*words), run(*words)
    assert (first[0], second[0]) == (0, 0)
    assert first[1] == second[1]
    assert "finished already" in second[2]
    assert "\nclasses      " in first[1]
    text = (world / "classes.csv").read_text()
    (world / "again.csv").write_text(text)
    jensen.fit(jensen.load_data(world / "again.csv", label="tall"), "naive-bayes", run=world / "moved", progress=False)
    (world / "again.csv").write_text(text.replace("yes", "YES"))
    assert "the labels at" in refused(run("evaluate", "moved"))
    assert "classes was" in refused(run("fit", "again.csv", *words[2:-1], "moved"))


def test_compare_takes_a_label(run: Any):
    words = ["compare", "classes.csv", "-m", "naive-bayes", "--label", "tall", "-o", "with_label", "--json"]
    found = one_object(run(*words)[1])
    assert found["data"]["options"]["label"] == "tall"
    assert {m["model"] for m in found["models"]} == {"naive-bayes", "independent", "gaussian", "jittered"}


def test_what_was_done_to_other_images_is_told(run: Any, tmp_path: Path):
    for folder, shape, count in ("own", (4, 4), 20), ("other", (6, 5), 3):
        (tmp_path / folder).mkdir()
        for k in range(count):
            pixels = np.random.default_rng(k).integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{k}.png")
    assert run("fit", str(tmp_path / "own"), "-m", "independent", "--size", "4x4", "-o", str(tmp_path / "run"))[0] == 0
    code, out, err = run("evaluate", str(tmp_path / "run"), str(tmp_path / "other"))
    assert code == 0
    assert "3 examples × 16 dims" in out
    assert "note    images resized to 4x4 by Lanczos: 3" in err
