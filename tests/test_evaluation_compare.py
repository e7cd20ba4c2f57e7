"""`jensen compare`: what it says is what the numbers allow, by hand; what is finished is not done again."""

import itertools
import json
import math
import shlex
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_evaluation_report import HOSTILE, read

import jensen
from jensen.__main__ import main
from jensen.errors import FitError, InputError
from jensen.evaluation.compare import attempts, comparison, meter, text
from jensen.evaluation.compare.attempts import Attempt, sampled
from jensen.evaluation.compare.page import _reading, command, page
from jensen.evaluation.compare.picture import _edge, _panels, picture
from jensen.evaluation.compare.plan import by_model, planned
from jensen.evaluation.compare.samples import Gauging
from jensen.evaluation.compare.table import Entry, table
from jensen.evaluation.compare.text import lines
from jensen.evaluation.figures import figure_png
from jensen.evaluation.verdict import clear, standard_errors_needed, verdict
from jensen.likelihood import Difference, LogLikelihood, plus_minus
from jensen.models import MODELS, pipeline
from jensen.models.model import ClosedForm, Model
from jensen.settings import parse

KINDS = ("exact", "lower bound", "upper bound", "estimate")
MIXED = np.random.default_rng(0).normal(size=(150, 2)) @ np.array([[2.0, 1.0], [0.0, 0.5]]) + 3
DATA = jensen.load_data(MIXED)
TINY: dict[str, Any] = {
    "timesteps": 3,
    "size": "tiny",
    "network": "mlp",
    "batch_size": 20,
    "precision": "float32",
    "patience": 0,
}
CHAIN: dict[str, Any] = {"steps": 2, "settings": {"diffusion": TINY}}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of chains to a coarse precision: they are only compared with themselves here."""
    monkeypatch.setattr(pipeline, "TOLERANCE", 100.0)


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two-sample measures, which have tests of their own (test_evaluation_compare_samples.py)."""
    monkeypatch.setattr(Gauging, "measured", lambda self, pipeline: {"problem": "not measured in this test"})


@pytest.fixture
def unpictured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty pictures and pages, for tests that do not look at them."""
    monkeypatch.setattr(comparison, "save_figure", lambda figure, path: path.write_bytes(b""))
    monkeypatch.setattr(comparison, "page", lambda record, folder: "")


def scores(
    values: Any, kind: str = "exact", measure: str = "Lebesgue", rows: str = "r", given: str = "p(x)"
) -> LogLikelihood:
    value = torch.tensor(values, dtype=torch.float64)
    return LogLikelihood(value, kind, measure, "a test", "exact", (2,), rows=rows, given=given)  # type: ignore[arg-type]


def entry(word: str, test: LogLikelihood | None, **more: Any) -> Entry:
    return Entry(word, (Attempt(word, 0, parameters=3, test=test, **more),))


def by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {row["model"]: row for row in rows}


@pytest.fixture(autouse=True)
def short_tables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables here have two or three rows, which is enough where no error bar is at stake."""
    monkeypatch.setattr("jensen.evaluation.verdict.LEAST_ROWS", 1)


# What may be said


def truths(kind: str, number: float) -> tuple[float, float]:
    """The values that log p may have, given what the number is."""
    low, high = -math.inf, math.inf
    return {"exact": (number, number), "lower bound": (number, high), "upper bound": (low, number)}.get(
        kind, (low, high)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("best_kind", KINDS)
def test_a_model_is_ranked_exactly_where_no_truth_could_turn_it_round(kind: Any, best_kind: Any):
    a, best = scores([-6.0, -5.0, -5.5], kind), scores([-1.0, -1.1, -0.9], best_kind)
    found = verdict(kind, best_kind, a - best, "other", 100)
    certain = truths(kind, a.mean)[1] < truths(best_kind, best.mean)[0]
    assert (found.code in ("worse", "worse by at least")) == certain
    assert (found.code == "worse") == (kind == best_kind == "exact")
    assert (found.code == "not ranked") == (not certain) == ("not ranked" in found.words)
    assert "other" in found.words


@pytest.mark.parametrize(
    ("kind", "best_kind", "words"),
    [
        ("exact", "exact", "worse than b"),
        ("exact", "lower bound", "worse than b by at least this"),
        ("lower bound", "exact", "its bound is worse than b's number; the model itself may be better: not ranked"),
        ("lower bound", "lower bound", "two bounds (the other is b's): not ranked, only the bounds are compared"),
    ],
)
def test_verdicts_are_in_plain_words(kind: Any, best_kind: Any, words: str):
    assert (
        words in verdict(kind, best_kind, scores([-6.0, -5.0], kind) - scores([-1.0, -1.0], best_kind), "b", 100).words
    )


@pytest.mark.parametrize(
    ("best_kind", "under", "over"),
    [("exact", "no clear difference", "worse"), ("lower bound", "not ranked", "worse by at least")],
)
def test_under_two_standard_errors_nothing_is_ranked(best_kind: Any, under: str, over: str):
    noise = torch.tensor([-1.0, 1.0] * 200).double()
    error = float(noise.std()) / 20
    for times, models, code in ((1.9, 2, under), (2.0, 2, over), (3.0, 8, under), (3.2, 8, over)):
        difference = Difference(noise - times * error, "", 2, False)
        assert verdict("exact", best_kind, difference, "b", 400, models).code == code
    one_row = Difference(torch.tensor([-3.0]).double(), "", 2, False)
    assert verdict("exact", best_kind, one_row, "b", 100).code == under


def test_equal_models_are_called_different_in_one_table_of_twenty():
    """6 equal models on 15 rows, 2,000 tables, seed 0: at most 5 % plus three standard errors of a share."""
    draws = torch.randn(2000, 6, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    needed = standard_errors_needed(15, 6)
    best = draws.mean(2).argmax(1)
    lead = draws - draws[torch.arange(2000), best][:, None]
    alarms = [any(clear(Difference(pair, "", 1, False), needed) for pair in table) for table in lead]
    assert 0.005 < sum(alarms) / 2000 < 0.065


def test_too_few_rows_are_not_ranked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jensen.evaluation.verdict.LEAST_ROWS", 10)
    difference = scores([-2.0, -2.1]) - scores([-1.0, -1.1])
    found = verdict("exact", "exact", difference, "b", 9)
    assert (found.code, found.words) == ("not ranked", "too few test rows to tell (9 of at least 10): not ranked")
    assert verdict("exact", "exact", difference, "b", 10).code == "worse"


def test_impossible_rows_are_worse_and_two_impossible_ones_are_nothing():
    impossible, other = scores([-math.inf, 0.0]), scores([-1.0, 0.0])
    assert verdict("exact", "exact", impossible - other, "b", 100).code == "worse"
    assert verdict("exact", "exact", impossible - impossible, "b", 100).code == "not ranked"
    rows = table([entry("gaussian", impossible), entry("jittered", scores([-math.inf, 1.0]))])
    json.dumps(rows, allow_nan=False)


def test_the_best_says_what_it_is_not_ranked_against():
    noise = [-9.0, 9.0, 0.0]
    rows = by_name(
        table(
            [
                entry("gaussian", scores([-1.0, -1.0, -1.0])),
                entry("jittered", scores([-1.1 + n for n in noise])),
                entry("independent", scores([-5.0, -5.0, -5.1])),
                entry("diffusion", scores([-6.0, -6.0, -6.1], "lower bound")),
            ]
        )
    )
    said = "the best number; no clear difference from jittered; not ranked against diffusion"
    assert rows["gaussian"]["verdict"] == {"code": "best", "words": said}
    alone = table([entry("gaussian", scores([-1.0, -2.0]))])
    assert alone[0]["verdict"]["code"] == "nothing to rank"
    two = table([entry("gaussian", scores([-1.0, -2.0])), entry("jittered", scores([-8.0, -9.1]))])
    assert two[0]["verdict"]["words"] == "best"


def test_an_upper_bound_is_not_the_best_of_anything_else():
    rows = table([entry("gaussian", scores([-1.0, -1.0], "upper bound")), entry("jittered", scores([-3.0, -3.0]))])
    assert [row["verdict"]["code"] for row in rows] == ["best", "not ranked"]
    assert rows[0]["model"] == "jittered"


@pytest.mark.parametrize("other", [{"measure": "counting"}, {"rows": "others"}, {"given": "p(x|y)"}])
def test_a_mass_is_never_ranked_against_a_density_nor_other_rows(other: dict[str, str]):
    """Two groups, each with its best and differences of its own, whatever the numbers are."""
    here = [entry("gaussian", scores([-1.0, -2.0])), entry("independent", scores([-5.0, -6.1]))]
    there = [entry("jittered", scores([-90.0, -80.0], **other)), entry("diffusion", scores([-99.0, -89.1], **other))]
    rows = by_name(table([*here, *there]))
    assert {word: row["verdict"]["code"] for word, row in rows.items()} == {
        "gaussian": "best",
        "independent": "worse",
        "jittered": "best",
        "diffusion": "worse",
    }
    assert rows["independent"]["difference"]["to"] == "gaussian"
    assert rows["diffusion"]["difference"]["to"] == "jittered"
    record = {"models": list(rows.values())}
    assert len(_panels(record["models"])) == len({row["log_likelihood"]["measure"] for row in rows.values()})
    assert figure_png(picture(record)).startswith(b"\x89PNG")


def masses(mean: float) -> LogLikelihood:
    return scores([mean - 0.5, mean + 0.5], measure="counting")


def test_the_spread_of_masses_is_in_bits_per_dimension():
    """Means of -2, -4 and -9 nats over 2 dimensions: in the table, in the terminal, and in the picture."""
    means = [-2.0, -4.0, -9.0]
    runs = tuple(Attempt("diffusion", seed, parameters=3, test=masses(m)) for seed, m in enumerate(means))
    rows = table([Entry("diffusion", runs), entry("gaussian", masses(-12.0), train=masses(-1.0))])
    first, bits = rows[0], 2 * math.log(2)
    assert first["spread"]["sd_bits_per_dim"] == pytest.approx(statistics.stdev(means) / bits)
    assert text.spread(first) == f"{statistics.stdev(means) / bits:.2g} (3 runs)"
    (axes,) = picture({"models": rows}).axes
    strokes = next(line for line in axes.get_lines() if line.get_markersize() == 10 and len(line.get_xdata()))
    assert list(strokes.get_xdata()) == pytest.approx([4.0 / bits, 9.0 / bits])
    gap = rows[1]["gap"]
    assert text.gap(rows[1]) == plus_minus(gap["mean_bits_per_dim"], gap["stderr_bits_per_dim"], sign=True)


# The numbers


@pytest.fixture(scope="module")
def found() -> jensen.Comparison:
    return jensen.compare(DATA, "gaussian", progress=False)


def test_the_controls_are_always_there_and_every_model_sees_the_same_rows(found: jensen.Comparison):
    assert {row["model"] for row in found.table} == {"gaussian", "independent", "jittered"}
    assert all(row["control"] for row in found.table)
    assert {row["log_likelihood"]["rows"] for row in found.table} == {DATA.test.digest()}
    assert [row["log_likelihood"]["mean_nats"] for row in found.table] == sorted(
        (row["log_likelihood"]["mean_nats"] for row in found.table), reverse=True
    )


def test_differences_and_gaps_are_those_computed_by_hand(found: jensen.Comparison):
    fits = {word: jensen.fit(DATA, word, progress=False) for word in ("gaussian", "independent")}
    test = {word: fit.log_likelihood(DATA.test).value for word, fit in fits.items()}
    train = {word: fit.log_likelihood(sampled(DATA)).value for word, fit in fits.items()}
    row = by_name(found.table)["independent"]
    d = (test["independent"] - test["gaussian"]).numpy()
    assert row["difference"]["to"] == "gaussian"
    assert row["difference"]["meaning"] == "exact difference"
    assert row["difference"]["mean_nats"] == pytest.approx(d.mean())
    assert row["difference"]["stderr_nats"] == pytest.approx(d.std(ddof=1) / math.sqrt(len(d)))
    gap, a, b = row["gap"], train["independent"].numpy(), test["independent"].numpy()
    error = math.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b))
    assert (gap["mean_nats"], gap["stderr_nats"]) == pytest.approx((a.mean() - b.mean(), error))
    assert gap["standard_errors"] == pytest.approx(gap["mean_nats"] / error)
    assert by_name(found.table)["gaussian"]["difference"] is None


def test_training_rows_of_the_gap_are_a_sample_as_large_as_the_test_rows():
    rows = sampled(DATA)
    assert len(rows) == len(DATA.test) == len(set(rows.id.tolist()))
    assert set(rows.id.tolist()) <= set(DATA.train.id.tolist())
    assert set(rows.id.tolist()) - set(DATA.train.id[: len(rows)].tolist())  # not the first ones
    many = replace(DATA, train=as_many(3000), test=as_many(2000))
    assert len(sampled(many)) == 1000


def as_many(n: int) -> Any:
    return jensen.Examples(torch.zeros(n, 2), torch.arange(n))


def test_jittered_copies_are_unmasked_and_the_gaussian_is_not():
    """Draws of a normal in 4 dimensions, seed 0: nothing but training rows is known to the memoriser."""
    rows = jensen.compare(np.random.default_rng(0).normal(size=(500, 4)), "gaussian", progress=False).table
    gaps = {row["model"]: row["gap"]["standard_errors"] for row in rows}
    assert gaps["jittered"] > 8
    assert abs(gaps["gaussian"]) < 3
    assert by_name(rows)["jittered"]["verdict"]["code"] == "worse"


def test_masses_come_with_bits():
    levels = jensen.load_data(np.random.default_rng(0).integers(0, 3, (90, 4)).astype(np.uint8), levels=3)
    rows = by_name(jensen.compare(levels, "gaussian", progress=False).table)
    row, nats_per_bit = rows["jittered"], 4 * math.log(2)
    for part in (row["difference"], row["gap"]):
        assert part["mean_bits_per_dim"] == pytest.approx(part["mean_nats"] / nats_per_bit)
        assert part["stderr_bits_per_dim"] == pytest.approx(part["stderr_nats"] / nats_per_bit)
    assert rows["gaussian"]["gap"]["meaning"].startswith("training rows − test rows of two lower bounds")
    assert by_name(rows["independent"]["seeds"] and list(rows.values()))["independent"]["difference"] is None


def test_the_spread_is_that_of_the_runs_and_stands_apart():
    found = jensen.compare(DATA, "diffusion", seeds=3, seed=4, progress=False, **CHAIN)
    row = by_name(found.table)["diffusion"]
    means = []
    for seed in (4, 5, 6):
        fit = jensen.fit(DATA, "diffusion", steps=2, seed=seed, progress=False, **TINY)
        means.append(fit.log_likelihood(DATA.test, seed=4).mean)
    assert [run["mean_nats"] for run in row["seeds"]] == pytest.approx(means)
    assert row["spread"] == {"sd_nats": pytest.approx(statistics.stdev(means)), "sd_bits_per_dim": None, "runs": 3}
    assert row["log_likelihood"]["mean_nats"] == pytest.approx(means[0])
    first = found.entries[0].first.test
    assert first is not None
    assert row["log_likelihood"]["stderr_nats"] == pytest.approx(first.total)
    for word in ("gaussian", "independent", "jittered"):
        closed = by_name(found.table)[word]
        assert (len(closed["seeds"]), closed["spread"]) == (1, None)
        assert closed["note"] == "closed form: the same for every seed, so fitted once"
    shown = "\n".join(lines(found.to_dict()))
    assert "(3 runs)" in shown
    assert "fitted once: " in shown


# What goes wrong with a model


class Silent(ClosedForm, Model):
    """A model that samples and has no likelihood."""

    summary, paper, seeded = "nothing", "none", False

    def fit(self, train: Any, *_: Any, **__: Any) -> None:
        pass

    def sample(self, n: int, context: Any = None, seed: int = 0, *, start: int = 0) -> torch.Tensor:
        return torch.zeros(n, *self.event_shape)


def test_a_model_without_likelihood_is_listed_with_what_it_has(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(MODELS, "silent", f"{__name__}:Silent")
    found = jensen.compare(DATA, "silent", progress=False)
    row = found.table[-1]
    assert (row["model"], row["parameters"], row["log_likelihood"], row["gap"]) == ("silent", 0, None, None)
    assert row["seconds"] >= 0
    assert row["problem"] == "silent has no likelihood"
    assert row["verdict"] == {"code": "nothing to rank", "words": "no number: not ranked"}
    assert "silent has no likelihood" in str(found)


@pytest.mark.parametrize(
    ("error", "told"),
    [(FitError("it diverged"), "it diverged"), (RuntimeError("out of\nmemory"), "RuntimeError: out of memory")],
)
def test_a_failure_costs_no_other_model_and_is_tried_again(
    error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "fit", failing(attempts.fit, "independent", error))
        row = by_name(jensen.compare(DATA, "gaussian", run=tmp_path / "c", progress=False).table)["independent"]
    assert (row["problem"], row["log_likelihood"], row["verdict"]["words"]) == (told, None, "failed: not ranked")
    assert told in (tmp_path / "c/compare.html").read_text()
    again = jensen.compare(DATA, "gaussian", run=tmp_path / "c", progress=False)
    assert by_name(again.table)["independent"]["problem"] is None


def failing(fit: Any, word: str, error: BaseException) -> Any:
    def fitted(split: Any, model: str, **options: Any) -> Any:
        if model == word:
            raise error
        return fit(split, model, **options)

    return fitted


# The folder


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """The words that were fitted, and how many rows were scored."""
    seen: dict[str, list[Any]] = {"fit": [], "score": []}
    fit, score = attempts.fit, attempts._score

    def fitted(split: Any, model: str, **options: Any) -> Any:
        seen["fit"].append((model, options["seed"]))
        return fit(split, model, **options)

    def scored(pipeline: Any, rows: Any, *more: Any) -> Any:
        seen["score"].append(len(rows))
        return score(pipeline, rows, *more)

    monkeypatch.setattr(attempts, "fit", fitted)
    monkeypatch.setattr(attempts, "_score", scored)
    return seen


def emptied(seen: dict[str, list[Any]]) -> None:
    for calls in seen.values():
        calls.clear()


def without_costs(found: jensen.Comparison) -> Any:
    """A comparison without what a clock or a meter says."""
    record = found.to_dict()
    for row in record["models"]:
        for part in (row, *row["seeds"]):
            for name in ("seconds", "peak_bytes", "resumed"):
                part.pop(name, None)
    return record


@pytest.mark.usefixtures("unpictured")
def test_what_is_finished_is_neither_fitted_nor_scored_again(tmp_path: Path, counted: dict[str, list[Any]]):
    first = jensen.compare(DATA, "diffusion", run=tmp_path / "c", seeds=2, progress=False, **CHAIN)
    closed = [("independent", 0), ("gaussian", 0), ("jittered", 0)]
    assert counted["fit"] == [("diffusion", 0), ("diffusion", 1), *closed]
    assert len(counted["score"]) == 10
    emptied(counted)
    again = jensen.compare(DATA, "diffusion", run=tmp_path / "c", seeds=2, progress=False, **CHAIN)
    assert counted == {"fit": [], "score": []}
    assert again.to_dict() == first.to_dict()
    assert json.loads((tmp_path / "c/compare.json").read_text()) == {"schema": 1, **first.to_dict()}
    assert (
        jensen.load(tmp_path / "c/runs/gaussian-0")
        .log_likelihood(DATA.test)
        .value.equal(found_test(again, "gaussian").value)
    )
    (tmp_path / "c/runs/gaussian-0/scores.safetensors").write_bytes(b"broken")
    (tmp_path / "c/runs/jittered-0/scores.safetensors").unlink()
    mended = jensen.compare(DATA, "diffusion", run=tmp_path / "c", seeds=2, progress=False, **CHAIN)
    assert (counted["fit"], len(counted["score"])) == ([], 4)
    assert mended.to_dict() == first.to_dict()


def found_test(found: jensen.Comparison, word: str) -> LogLikelihood:
    test = next(entry.test for entry in found.entries if entry.word == word)
    assert test is not None
    return test


@pytest.mark.usefixtures("unpictured")
def test_a_comparison_cut_off_goes_on_where_it_was(
    tmp_path: Path, counted: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patched:
        patched.setattr(attempts, "fit", failing(attempts.fit, "gaussian", KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            jensen.compare(DATA, "diffusion", run=tmp_path / "c", progress=False, **CHAIN)
    half = json.loads((tmp_path / "c/compare.json").read_text())
    assert half["finished"] is False
    assert {row["model"] for row in half["models"]} == {"diffusion", "independent"}
    assert not (tmp_path / "c/runs/lock").exists()
    emptied(counted)
    whole = jensen.compare(DATA, "diffusion", run=tmp_path / "c", progress=False, **CHAIN)
    assert [word for word, _ in counted["fit"]] == ["gaussian", "jittered"]
    clean = jensen.compare(DATA, "diffusion", run=tmp_path / "d", progress=False, **CHAIN)
    assert without_costs(whole) == without_costs(clean)
    memory = jensen.compare(DATA, "diffusion", progress=False, **CHAIN)
    assert without_costs(memory) == without_costs(clean)


@pytest.mark.usefixtures("unpictured")
def test_a_fit_that_was_cut_off_says_that_its_time_is_not_all(tmp_path: Path):
    run = tmp_path / "c/runs/diffusion-0"
    jensen.compare(DATA, "diffusion", run=tmp_path / "c", progress=False, **CHAIN)
    for name in ("model.safetensors", "entry.json"):
        (run / name).unlink()
    row = by_name(jensen.compare(DATA, "diffusion", run=tmp_path / "c", progress=False, **CHAIN).table)["diffusion"]
    assert row["resumed"] is True
    (run / "entry.json").unlink()  # killed between fit and score: the time is not known
    row = by_name(jensen.compare(DATA, "diffusion", run=tmp_path / "c", progress=False, **CHAIN).table)["diffusion"]
    assert (row["seconds"], row["peak_bytes"], row["resumed"]) == (None, None, False)


@pytest.mark.usefixtures("unpictured")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": "independent"}, r"models was \['gaussian', 'independent', 'jittered'\], now \['independent'"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"seeds": 2}, "seeds was 1, now 2"),
        ({"settings": {"jittered": {"scale": 0.2}}}, r"settings was \{\}, now \{'jittered': \{'scale': 0.2\}\}"),
        ({"data": MIXED + 1}, "data was "),
    ],
)
def test_other_options_are_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path):
    options = {"data": DATA, "models": "gaussian", "run": tmp_path / "c", "progress": False}
    jensen.compare(**options)
    before = (tmp_path / "c/compare.json").read_bytes()
    with pytest.raises(InputError, match=f"holds another comparison: {message}.*--overwrite"):
        jensen.compare(**{**options, **change})
    assert (tmp_path / "c/compare.json").read_bytes() == before
    assert jensen.compare(**{**options, **change}, overwrite=True).request != json.loads(before)["request"]


@pytest.mark.usefixtures("unpictured")
def test_overwriting_removes_what_was_there_and_nothing_else(tmp_path: Path):
    jensen.compare(DATA, "diffusion", run=tmp_path, progress=False, **CHAIN)
    (tmp_path / "runs/diffusion-0/mine.txt").write_text("kept")
    jensen.compare(DATA, "gaussian", run=tmp_path, overwrite=True, progress=False)
    assert [p.name for p in (tmp_path / "runs/diffusion-0").iterdir()] == ["mine.txt"]
    assert sorted(p.name for p in (tmp_path / "runs/gaussian-0").iterdir()) == [
        "config.json",
        "entry.json",
        "model.safetensors",
        "samples.json",
        "scores.safetensors",
    ]


@pytest.mark.usefixtures("unpictured")
def test_a_folder_with_other_things_is_refused(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds other things \('letter.txt', …\) and no comparison"):
            jensen.compare(DATA, "gaussian", run=tmp_path, overwrite=overwrite, progress=False)
    with pytest.raises(InputError, match=r"letter.txt"):
        jensen.compare(DATA, "gaussian", run=tmp_path / "letter.txt", progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    (tmp_path / "killed/runs").mkdir(parents=True)
    (tmp_path / "killed/runs/lock").touch()
    (tmp_path / "killed/.compare.json.123.json").touch()
    jensen.compare(DATA, "gaussian", run=tmp_path / "killed", progress=False)


@pytest.mark.usefixtures("unpictured")
def test_an_entry_of_another_model_is_not_believed(tmp_path: Path):
    """The record and scores of one run copied over another's: that one is scored again, from its own weights."""
    first = jensen.compare(DATA, "gaussian", run=tmp_path / "c", progress=False)
    for name in ("entry.json", "scores.safetensors"):
        right = (tmp_path / "c/runs/independent-0" / name).read_bytes()
        (tmp_path / "c/runs/gaussian-0" / name).write_bytes(right)
    again = jensen.compare(DATA, "gaussian", run=tmp_path / "c", progress=False)
    assert without_costs(again) == without_costs(first)


def test_every_seed_is_checked_before_any_work():
    last = 2**63 - 1
    assert planned("diffusion", seed=last).seeds_of("diffusion") == [last]
    with pytest.raises(InputError, match=f"seed must be a whole number from 0 to .*, got {2**63}"):
        planned("diffusion", seed=last, seeds=2)


# Words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-m", "bogus"], "unknown model 'bogus'"),
        (["-m", "gaussian,"], "words with commas between them"),
        (["-m", "gaussian,gaussian"], "names 'gaussian' twice"),
        (["-m", "gaussian", "--steps", "5"], "none of these models is trained"),
        (["-m", "diffusion", "--steps", "0"], "steps must be between 1 and 10^9, got 0"),
        (["-m", "diffusion", "--budget", "soon"], "got 'soon'"),
        (["-m", "diffusion", "--budget", "5m", "--steps", "5"], "not both"),
        (["-m", "diffusion", "--seeds", "0"], "seeds, the number of runs of each model, must be from 1 to 100, got 0"),
        (["-m", "diffusion", "--seed", "-1"], "got -1"),
        (["-m", "gaussian", "--set", "scale=1"], "model.name=value here, such as jittered.scale=0.2, got 'scale'"),
        (["-m", "gaussian", "--set", "jitered.scale=1"], "did you mean 'jittered'?"),
        (["-m", "gaussian", "--set", "jittered.width=1"], "model 'jittered' has no setting 'width'"),
        (["-m", "gaussian", "--set", "jittered.scale=wide"], "setting scale must be a finite number, got 'wide'"),
    ],
)
def test_bad_words_are_refused_before_any_work(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr("jensen.cli.inputs.load_data", lambda *a, **k: pytest.fail("data were read"))
    assert main(["compare", "digits", "-o", str(tmp_path / "never"), *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jensen: ")
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "never").exists()


def test_the_command_prints_a_table_or_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    np.savetxt("t.csv", MIXED, delimiter=",", header="a,b", comments="")
    words = [
        "compare",
        "t.csv",
        "-m",
        "jittered,gaussian",
        "-o",
        "c",
        "--set",
        "jittered.scale=0.25",
        "--split-seed",
        "2",
    ]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "[1/3] jittered, seed 0" in err
    assert "worse than gaussian" in out
    assert "page: c/compare.html" in out
    assert main([*words, "--json"]) == 0
    out = capsys.readouterr().out
    record = json.loads(out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert record["run"] == "c"
    assert record["request"]["settings"] == {"jittered": {"scale": 0.25}}
    assert sorted(path.name for path in Path("c").iterdir()) == ["compare.html", "compare.json", "compare.png", "runs"]
    assert main(["compare", "t.csv", "-m", "gaussian", "-o", "c"]) == 2
    assert "holds another comparison: data was" in capsys.readouterr().err


def test_the_command_on_the_page_is_the_command(tmp_path: Path):
    np.save(tmp_path / "a b.npy", np.random.default_rng(0).integers(0, 4, (60, 3)).astype(np.uint8))
    split = jensen.load_data(str(tmp_path / "a b.npy"), levels=4, split_seed=7)
    plan = planned("diffusion,gaussian", {"diffusion": {"timesteps": 9}}, steps=3, seeds=2, seed=5)
    record = {
        "request": plan.request(split),
        "data": {"source": str(tmp_path / "a b.npy"), "options": {"levels": 4, "split_seed": 7}},
    }
    assert command(record, Path("out")) == (
        f"jensen compare '{tmp_path}/a b.npy' -m diffusion -o out --steps 3 --seeds 2 --seed 5 "
        "--set diffusion.timesteps=9 --levels 4 --split-seed 7"
    )


def test_values_on_the_page_are_read_back_as_they_were():
    """`--set` of the command that is shown gives the settings that were asked for, whatever their type."""
    settings = {"diffusion": {"ema": True, "network": "mlp", "timesteps": 9, "lr": 1e-3, "budget": None}}
    record = {
        "request": {"models": ["diffusion"], "settings": settings, "budget": None, "steps": 1, "seeds": 1, "seed": 0},
        "data": {"source": "digits", "options": {}},
    }
    words = shlex.split(command(record, Path("out")))
    pairs = [value for flag, value in itertools.pairwise(words) if flag == "--set"]
    assert by_model(parse(pairs)) == settings


def test_all_options_that_load_the_data_again_are_kept():
    options = {"size": [2, 2], "levels": 4, "layout": "chw", "split_seed": 7}
    assert comparison._facts(replace(DATA, facts=options))["options"] == options
    assert comparison._facts(replace(DATA, facts={**options, "levels": None}))["options"].keys() == options.keys() - {
        "levels"
    }


def test_the_page_reads_a_gap_by_its_standard_errors():
    """Training rows 3 standard errors likelier, 1, and 3 less likely."""
    assert [_reading(errors, False).partition(":")[0] for errors in (3.0, 1.0, -1.0, -3.0)] == [
        "training rows are likelier",
        "no sign of memorising",
        "no sign of memorising",
        "test rows are likelier",
    ]
    assert _reading(-1.0, True) == "nothing to read: test rows are among the training rows"


def test_the_page_shows_the_numbers_and_escapes_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hostile = replace(DATA, facts={"source": f"/tmp/{HOSTILE[0]}{HOSTILE[1]}"})
    monkeypatch.setattr(attempts, "fit", failing(attempts.fit, "independent", InputError(HOSTILE[1])))
    found = jensen.compare(hostile, "gaussian", run=tmp_path / HOSTILE[0].replace("/", "_"), progress=False)
    shown = read(next(tmp_path.glob("*/compare.html")))
    assert not {"script", "img src=x"} & set(shown.tags)
    assert "<script>alert(1)</script>" in shown.text
    for row in found.table:
        assert row["verdict"]["words"] in shown.text
        if row["log_likelihood"]:
            assert row["log_likelihood"]["quote"].partition("  (")[0] in shown.text
    assert "What a jittered-copies generator shows" in shown.text
    assert shown.tags.count("picture") == 1


def test_a_page_with_nothing_to_show_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*a: Any, **k: Any) -> None:
        raise FitError("no")

    monkeypatch.setattr(attempts, "fit", fail)
    record = jensen.compare(DATA, "gaussian", progress=False).to_dict()
    assert "no model has a likelihood here" in page(record, tmp_path)
    assert figure_png(picture(record)).startswith(b"\x89PNG")


def test_a_model_far_off_does_not_press_the_others_together():
    assert _edge([(1.0, 0.1), (1.2, 0.1), (1.5, 0.1)]) == 1.5
    assert 1.2 < _edge([(1.0, 0.1), (9.0, 0.1), (1.2, 0.1)]) < 2.0
    assert _edge([(1.0, 0.1), (1.2, 0.1), (9.0, 0.1), (40.0, 0.1), (900.0, 3.0)]) < 2.0
    assert _edge([(1.0, 1.0), (1.1, 1.0), (9.0, 0.1)]) == 9.0  # within five times the error bars
    assert _edge([(1.0, 0.1)]) == 1.0


# The meter


def test_the_meter_sees_what_is_taken_and_given_back():
    with meter.metered() as cost:
        held = torch.ones(8 << 20)  # 32 MiB
        del held
    assert cost.seconds > 0
    if cost.peak_bytes is not None:
        assert 31 << 20 <= cost.peak_bytes < 48 << 20


def test_where_nothing_can_be_measured_the_peak_is_null(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(meter, "_CLEAR", tmp_path / "none")
    with meter.metered() as cost:
        pass
    assert cost.peak_bytes is None


def test_the_kernels_kilobytes_are_1024_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """3000 kB resident at first, 5000 kB at most."""
    monkeypatch.setattr(meter, "_CLEAR", tmp_path / "clear")
    monkeypatch.setattr(meter, "_STATUS", tmp_path / "status")
    (tmp_path / "clear").touch()
    (tmp_path / "status").write_text("VmHWM:\t    3000 kB\nVmRSS:\t    3000 kB\n")
    with meter.metered() as cost:
        (tmp_path / "status").write_text("VmHWM:\t    5000 kB\nVmRSS:\t    3100 kB\n")
    assert cost.peak_bytes == 2000 * 1024
    assert (tmp_path / "clear").read_text() == "5"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gmm": {"n_components": -1}}, "n_components must be at least 1, got -1"),
        ({"diffusion": {"lr": -1.0}}, "lr"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_any_work(settings: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        jensen.compare(DATA, list(settings), run=tmp_path / "c", settings=settings, progress=False)
    assert not (tmp_path / "c").exists()


def test_a_model_that_was_asked_for_and_failed_is_told_by_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The table is printed all the same; a control that fails is no failure of the command."""
    monkeypatch.chdir(tmp_path)
    np.savetxt("table.csv", DATA.all_rows().x.numpy(), delimiter=",")
    for word, code in (("gmm", 1), ("independent", 0)):
        with monkeypatch.context() as patched:
            patched.setattr(attempts, "fit", failing(attempts.fit, word, FitError("it burst")))
            assert main(["compare", "table.csv", "-m", "gmm", "-o", word]) == code
        out, err = capsys.readouterr()
        assert "it burst" in out
        assert ("gmm failed and could not be compared" in err) is (code == 1)


def test_test_rows_that_are_training_rows_are_told():
    """The same 40 rows three times over: whatever copies has an easy life, and the table says so."""
    rows = DATA.all_rows().x.numpy()[:40].repeat(3, axis=0)
    found = jensen.compare(rows, "gaussian", progress=False)
    copies = found.to_dict()["data"]["test_rows_in_train"]
    assert copies > 10
    assert f"note: {copies} of the 24 test rows are among the training rows" in str(found)


def test_other_classes_are_another_comparison(tmp_path):
    """The same rows under other labels: models of classes would learn something else."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 2)), draw.integers(0, 2, 60)

    def table(labels: np.ndarray) -> None:
        lines = [f"{a:.6g},{b:.6g},c{c}" for (a, b), c in zip(x, labels, strict=True)]
        (tmp_path / "t.csv").write_text("\n".join(["a,b,kind", *lines]) + "\n")

    for number, labels in enumerate((y, 1 - y)):
        table(labels)
        split = jensen.load_data(tmp_path / "t.csv", label="kind")
        if number == 0:
            jensen.compare(split, "naive-bayes", run=tmp_path / "c", progress=False)
            continue
        with pytest.raises(InputError, match="another"):
            jensen.compare(split, "naive-bayes", run=tmp_path / "c", progress=False)
