"""Missing cells filled in and rows assigned to components, in data units and on the command line."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen.__main__ import main
from jensen.errors import InputError

MEAN, COVARIANCE = np.array([10.0, -200.0]), np.array([[4.0, 30.0], [30.0, 400.0]])
ROWS = np.random.default_rng(0).multivariate_normal(MEAN, COVARIANCE, 400)
HOLES = np.array([[12.0, np.nan], [np.nan, -230.0], [9.0, -210.0], [np.nan, np.nan]])


@pytest.fixture(scope="module")
def one() -> jensen.Pipeline:
    """One component: its conditional mean is linear regression on its own mean and covariance."""
    return jensen.fit(jensen.load_data(ROWS), "gmm", progress=False, n_components=1)


def moments(pipeline: jensen.Pipeline) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Mean and covariance of the component, in data units."""
    model: Any = pipeline.model
    scale = pipeline.codec.scale
    return pipeline.codec.decode(model.means)[0].numpy(), (model.covariances()[0] * scale[:, None] * scale).numpy()


def test_the_mean_is_the_regression_in_data_units(one: jensen.Pipeline):
    mean, cov = moments(one)
    filled = one.impute(HOLES).numpy()
    assert filled[0, 1] == pytest.approx(mean[1] + cov[0, 1] / cov[0, 0] * (12 - mean[0]))
    assert filled[1, 0] == pytest.approx(mean[0] + cov[0, 1] / cov[1, 1] * (-230 - mean[1]))
    np.testing.assert_allclose(filled[3], mean)
    seen = ~np.isnan(HOLES)
    assert (filled[seen] == HOLES[seen]).all(), "observed cells come back bit for bit"


def test_draws_have_the_conditional_law_and_do_not_depend_on_batches(one: jensen.Pipeline):
    """Mean and variance of 1000 draws of a cell: 4.5 standard errors, seed 1."""
    mean, cov = moments(one)
    draws = one.impute(HOLES, 1000, seed=1).numpy()
    assert draws.shape == (1000, 4, 2)
    expected = mean[1] + cov[0, 1] / cov[0, 0] * (12 - mean[0])
    variance = cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0]
    assert abs(draws[:, 0, 1].mean() - expected) < 4.5 * np.sqrt(variance / 1000)
    assert abs(draws[:, 0, 1].var() / variance - 1) < 4.5 * np.sqrt(2 / 1000)
    few = torch.from_numpy(HOLES)
    torch.testing.assert_close(one.impute(few, 3, seed=1), one.impute(few, 3, seed=1, batch_size=1), rtol=1e-12, atol=0)
    assert not torch.equal(one.impute(few, 3, seed=1)[:, 0], one.impute(few, 3, seed=2)[:, 0])


def test_a_conditional_is_in_data_units_and_by_name(one: jensen.Pipeline, tmp_path: Path):
    """p(b | a = 12) of one normal is linear regression, in the units of the columns that are left."""
    mean, cov = moments(one)
    given = one.conditional({0: 12.0})
    expected, variance = mean[1] + cov[0, 1] / cov[0, 0] * (12 - mean[0]), cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0]
    b = np.array([[-230.0], [-180.0]])
    truth = -0.5 * (b[:, 0] - expected) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(given.log_likelihood(b).value, truth, rtol=1e-10)
    draws = given.sample(4000, seed=0).numpy()
    assert abs(draws.mean() - expected) < 4.5 * np.sqrt(variance / 4000)
    table = tmp_path / "table.csv"
    table.write_text("a,b\n" + "\n".join(f"{a},{b}" for a, b in ROWS.tolist()))
    named = jensen.fit(jensen.load_data(table), "gmm", progress=False, n_components=1).conditional({"a": 12.0})
    assert named.config["data"]["facts"]["columns"] == ["b"]
    with pytest.raises(InputError, match=r"there is no column 'A'.*columns are b"):
        named.conditional({"A": 1.0})
    with pytest.raises(InputError, match=r"columns must be some but not all of 0 … 1, got \[0, 1\]"):
        one.conditional({0: 1.0, 1: 2.0})
    with pytest.raises(InputError, match="has no exact conditionals"):
        jensen.fit(jensen.load_data(ROWS), "gaussian", progress=False).conditional({0: 1.0})


def test_models_that_cannot_fill_say_so():
    split = jensen.load_data(ROWS)
    with pytest.raises(InputError, match="a 'gaussian' model of real values does not fill in missing cells; gmm does"):
        jensen.fit(split, "gaussian", progress=False).impute(ROWS)
    with pytest.raises(InputError, match="has no components"):
        jensen.fit(split, "gaussian", progress=False).responsibilities(ROWS)


def test_more_draws_than_fit_in_memory_are_refused(one: jensen.Pipeline, monkeypatch: pytest.MonkeyPatch):
    """8 cells fit 12 times into 100, not 13 times."""
    monkeypatch.setattr("jensen.models.pipeline.LARGEST_SAMPLE", 100)
    assert one.impute(HOLES, 12).shape == (12, 4, 2)
    with pytest.raises(InputError, match="13 draws of 4 rows do not fit in memory"):
        one.impute(HOLES, 13)


def test_components_of_levels_do_not_depend_on_batches_but_on_the_seed():
    """Two overlapping clusters, so that where in its cell a row is matters."""
    rows = np.random.default_rng(0).binomial(8, np.repeat([[0.3], [0.6]], 60, axis=0), (120, 2)).astype(np.uint8)
    pipeline = jensen.fit(jensen.load_data(rows, levels=9), "gmm", progress=False, n_components=2, restarts=1)
    whole = pipeline.responsibilities(rows[:30], seed=1)
    torch.testing.assert_close(pipeline.responsibilities(rows[:30], seed=1, batch_size=7), whole, rtol=0, atol=1e-12)
    assert not torch.allclose(pipeline.responsibilities(rows[:30], seed=2), whole)


def test_components_of_levels_follow_bayes_on_the_cells():
    """Two far clusters of levels: the one a row came from is certain; rows sum to one."""
    half = np.repeat([[2, 3], [12, 11]], 100, axis=0) + np.random.default_rng(0).integers(-1, 2, (200, 2))
    pipeline = jensen.fit(
        jensen.load_data(half.astype(np.uint8), levels=17), "gmm", progress=False, n_components=2, seed=1
    )
    found = pipeline.responsibilities(half.astype(np.uint8))
    torch.testing.assert_close(found.sum(1), torch.ones(200, dtype=torch.float64))
    assert float(found.max(1).values.min()) > 0.999
    labels = found.argmax(1)
    assert len(set(labels[:100].tolist())) == len(set(labels[100:].tolist())) == 1
    assert labels[0] != labels[100]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.savetxt("rows.csv", ROWS, delimiter=",", header="a,b", comments="", fmt="%.17g")
    Path("holes.csv").write_text("a,b\n12,\n,-230\n9,-210\n,\n")
    jensen.fit(jensen.load_data("rows.csv"), "gmm", run="run", progress=False, n_components=2)
    return tmp_path


def test_impute_on_the_command_line(world: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["impute", "run", "holes.csv", "-o", "full.csv"]) == 0
    assert "4 missing cells of 4 rows filled in (the mean): full.csv" in capsys.readouterr().out
    lines = list(csv.reader(Path("full.csv").read_text().splitlines()))
    assert lines[0] == ["a", "b"]
    found = np.array(lines[1:], float)
    np.testing.assert_allclose(found, jensen.load("run").impute(HOLES).numpy(), rtol=1e-8)
    assert main(["impute", "run", "holes.csv", "-o", "full.npy", "--draws", "3", "--seed", "4"]) == 0
    np.testing.assert_array_equal(np.load("full.npy"), jensen.load("run").impute(HOLES, 3, seed=4).numpy())
    assert main(["impute", "run", "holes.csv", "-o", "many.csv", "--draws", "3"]) == 2
    assert "got 3; use .npy or .npz for more" in capsys.readouterr().err
    assert not Path("many.csv").exists()


def test_a_few_rows_are_enough_to_score(world: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "run", "holes.csv", "-o", "scores.csv"]) == 0
    values = [float(line["value"]) for line in csv.DictReader(Path("scores.csv").read_text().splitlines())]
    np.testing.assert_allclose(values, jensen.load("run").log_likelihood(HOLES).value.numpy(), rtol=1e-8, atol=1e-12)
    assert main(["fit", "holes.csv", "-m", "gmm", "-o", "never"]) == 2
    assert "has 4 rows; at least 10 are needed" in capsys.readouterr().err


def test_scores_have_the_components(world: Path):
    assert main(["evaluate", "run", "rows.csv", "-o", "scores.csv"]) == 0
    lines = list(csv.DictReader(Path("scores.csv").read_text().splitlines()))
    test = jensen.load_data("rows.csv").test
    expected = jensen.load("run").responsibilities(test)
    assert [int(line["component"]) for line in lines] == expected.argmax(1).tolist()
    np.testing.assert_allclose([float(line["p1"]) for line in lines], expected[:, 1].numpy(), atol=1e-5)


def test_observed_cells_keep_every_digit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Long whole numbers and 17 digits come back as the same numbers."""
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    rows = np.stack([12345678900 + np.arange(40.0) * 7, draw.normal(size=40)], 1)
    lines = [f"{a:.0f},{b!r}" for a, b in rows.tolist()]
    Path("long.csv").write_text("id,value\n" + "\n".join([*lines, f"{rows[0, 0]:.0f},"]) + "\n")
    words = "long.csv -m gmm -o run --set n_components=1 --set prior_rows=1"
    assert main(["fit", *words.split()]) == 0
    assert main(["impute", "run", "long.csv", "-o", "full.csv"]) == 0
    np.testing.assert_array_equal(np.loadtxt("full.csv", delimiter=",", skiprows=1)[:40], rows)


def test_columns_in_another_order_are_refused(world: Path, capsys: pytest.CaptureFixture[str]):
    first, second = Path("rows.csv").read_text().splitlines()[0].split(",")
    rows = [line.split(",") for line in Path("rows.csv").read_text().splitlines()[1:]]
    Path("turned.csv").write_text("\n".join([f"{second},{first}", *(f"{b},{a}" for a, b in rows)]) + "\n")
    for words in (["impute", "run", "turned.csv", "-o", "x.csv"], ["evaluate", "run", "turned.csv"]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert f"column 1 of 'turned.csv' is {second!r}, and the model was fitted to {first!r} there" in said
    assert not Path("x.csv").exists()


def test_the_data_are_never_the_output(world: Path, capsys: pytest.CaptureFixture[str]):
    before = Path("rows.csv").read_bytes()
    for words in ("impute run rows.csv -o rows.csv", "evaluate run -o rows.csv", "sample run -o ./rows.csv"):
        assert main(words.split()) == 2
        assert "is the data's own file, which would be lost; choose another name" in capsys.readouterr().err
    assert Path("rows.csv").read_bytes() == before


@pytest.mark.parametrize("word", ["kde", "hmm"])
def test_cells_of_levels_are_filled_in_after_a_fit_to_complete_ones(word: str):
    """Columns that are equal but for one row in twenty: a missing cell is about what the other one is."""
    draw = np.random.default_rng(0)
    x = draw.integers(0, 5, (200, 1)).repeat(2, 1).astype(np.uint8)
    x[::20, 1] = 0
    model = jensen.fit(
        jensen.load_data(x, levels=5), word, progress=False, **({"n_states": 5} if word == "hmm" else {})
    )
    rows = np.array([[4.0, np.nan], [np.nan, 3.0], [2.0, 1.0]], dtype=np.float32)
    filled = model.impute(rows)
    assert filled.dtype == torch.float32
    assert float(filled[0, 1]) > 2.5
    assert 2 < float(filled[1, 0]) <= 4
    assert filled[2].tolist() == [2.0, 1.0]
    drawn = model.impute(rows, draws=3)
    assert bool((drawn == drawn.round()).all())


def test_a_saved_conditional_says_that_its_rows_are_those_of_no_file(tmp_path):
    from jensen.loading import reload_data

    model = jensen.fit(jensen.load_data(ROWS), "gmm", n_components=1, progress=False)
    model.conditional({0: 0.0}).save(tmp_path / "c")
    with pytest.raises(InputError, match="array in memory"):
        reload_data(jensen.load(tmp_path / "c").config)


def test_conditionals_of_levels_are_of_levels(tmp_path):
    x = np.random.default_rng(0).integers(0, 4, (100, 3)).astype(np.uint8)
    model = jensen.fit(jensen.load_data(x, levels=4), "kde", progress=False)
    given = model.conditional({0: 2})
    given.save(tmp_path / "c")
    every = torch.cartesian_prod(torch.arange(4), torch.arange(4)).to(torch.uint8)
    value = jensen.load(tmp_path / "c").log_likelihood(every).value
    assert float(value.exp().sum()) == pytest.approx(1.0, abs=1e-9)
    joint = model.log_likelihood(torch.cat([torch.full((16, 1), 2, dtype=torch.uint8), every], 1)).value
    torch.testing.assert_close(value, joint - joint.logsumexp(0), rtol=1e-9, atol=1e-9)
    for wrong in (300, 0.4):
        with pytest.raises(InputError, match="fitted to 4 levels"):
            model.conditional({0: wrong})
