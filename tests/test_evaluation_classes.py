"""The report's panel about classes: the numbers of the record, and a record that cannot be trusted."""

import pytest
import torch

import jensen
from jensen.evaluation.likelihood import evaluate_run
from jensen.evaluation.panels.classes import classes
from jensen.evaluation.panels.run import command
from jensen.evaluation.story import gather
from jensen.files import write_json


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    path, split = tmp_path_factory.mktemp("run") / "run", jensen.load_data("iris")
    model = jensen.fit(split, "naive-bayes", run=path, progress=False)
    write_json(path / "evaluation.json", evaluate_run(model, split, model.log_likelihood(split.test), model.sample(20)))
    return path


def test_the_panel_says_the_records_numbers(folder):
    split = jensen.load_data("iris")
    told = gather(folder, split, None)
    found, text = told.evaluation["classification"], classes(told)
    model = jensen.load(folder)
    right = int((model.responsibilities(split.test).argmax(1) == split.test.context).sum())
    assert f"{right / 30:.3f} (95 %: " in text
    assert f"calibration error {found['calibration_error']:.3f}, " in text
    assert "Reliability diagram" in text
    for name in ("setosa", "versicolor", "virginica"):
        assert name in text
    own = torch.bincount(split.test.context, minlength=3).tolist()
    assert [c["rows"] for c in found["by_class"]] == own


def test_a_model_of_no_classes_has_no_panel(tmp_path):
    jensen.fit("iris", "gaussian", run=tmp_path / "run", progress=False)
    assert classes(gather(tmp_path / "run", None, "not given")) == ""


@pytest.mark.parametrize(
    "record",
    [
        {"rows": "x"},
        {"bins": 7, "by_class": [1, {"rows": 0, "right": 0, "class": "<b>"}]},
        {"bins": [{"from": None}], "accuracy": float("nan"), "p_value": None},
    ],
)
def test_a_damaged_record_leaves_a_panel(folder, record):
    told = gather(folder, None, "not given")
    told.evaluation["classification"] = record
    text = classes(told)
    assert "The classes" in text
    assert "<b>" not in text


def test_the_command_names_the_label(tmp_path):
    rows = "\n".join(f"{i},{i * i % 7},{'ab'[i % 2]}" for i in range(60))
    (tmp_path / "t.csv").write_text(f"x,y,kind\n{rows}\n")
    jensen.fit(jensen.load_data(tmp_path / "t.csv", label="kind"), "naive-bayes", run=tmp_path / "run", progress=False)
    assert command(gather(tmp_path / "run", None, "")).endswith("--label kind")


def test_rows_of_which_nothing_is_known_are_told(folder):
    told = gather(folder, jensen.load_data("iris"), None)
    told.evaluation["classification"]["unknown"] = 3
    assert "3 rows impossible in every class left out" in classes(told)
