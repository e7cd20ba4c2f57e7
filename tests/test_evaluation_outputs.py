"""Files a user asked for: each row's score stands beside its own id and name."""

import csv
from pathlib import Path

import torch

from jensen.data.examples import Examples
from jensen.evaluation.outputs import write_scores
from jensen.likelihood import LogLikelihood


def test_a_score_stands_beside_its_row(tmp_path: Path):
    value = torch.tensor([-1.5, -2.5, -3.5], dtype=torch.float64)
    ll = LogLikelihood(value, "estimate", "Lebesgue", "a test", "a test", (2,), stderr=-0.1 * value)
    rows = Examples(torch.zeros(3, 2), torch.tensor([7, 3, 5]), names=("g.png", 'c, "quoted".png', "e.png"))
    write_scores(tmp_path / "scores.csv", rows, ll)
    with (tmp_path / "scores.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["id", "file", "value", "stderr"]
    assert lines == [
        ["7", "g.png", "-1.5", "0.15"],
        ["3", 'c, "quoted".png', "-2.5", "0.25"],
        ["5", "e.png", "-3.5", "0.35"],
    ]


def test_components_of_a_row_of_probability_zero_are_left_empty(tmp_path: Path):
    value = torch.tensor([-1.0, -torch.inf], dtype=torch.float64)
    ll = LogLikelihood(value, "exact", "Lebesgue", "a test", "exact", (2,))
    rows = Examples(torch.zeros(2, 2), torch.arange(2))
    write_scores(tmp_path / "scores.csv", rows, ll, torch.tensor([[0.25, 0.75], [torch.nan, torch.nan]]))
    with (tmp_path / "scores.csv").open(newline="") as file:
        head, *lines = csv.reader(file)
    assert head == ["id", "value", "stderr", "component", "p0", "p1"]
    assert lines == [["0", "-1", "", "1", "0.25", "0.75"], ["1", "-inf", "", "", "", ""]]
