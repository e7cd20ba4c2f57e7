"""The report's panel about a mixture: what EM said, where the components are, in the units of the data."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import jensen
from jensen.evaluation.panels.mixture import in_data_units, mixture
from jensen.evaluation.panels.run import model, training
from jensen.evaluation.story import gather

DRAW = np.random.default_rng(0)
ROWS = np.concatenate([DRAW.normal(size=(150, 2)) * [1, 50], DRAW.normal(size=(50, 2)) * [2, 20] + [30, 900]])


def story(tmp_path, data, word="gmm", **settings):
    split = jensen.load_data(data, levels=settings.pop("levels", None))
    jensen.fit(split, word, run=tmp_path / "run", progress=False, **settings)
    return gather(tmp_path / "run", split, None)


def test_ellipses_are_where_the_rows_are(tmp_path):
    """Two far clusters: means and covariances of each, in the units of the data (next to no prior: within 30 %)."""
    told = story(tmp_path, ROWS, n_components=2, prior_rows=0.001)
    means, covariances = in_data_units(told, told.pipeline.components)
    big, small = told.pipeline.components.weights.argsort(descending=True).tolist()
    truth = (
        (big, told.split.train.x[told.split.train.x[:, 0] < 15]),
        (small, told.split.train.x[told.split.train.x[:, 0] > 15]),
    )
    for k, rows in truth:
        torch.testing.assert_close(means[k], rows.mean(0), rtol=0.1, atol=10)
        ratio = covariances[k].diagonal().sqrt() / rows.std(0)
        assert float(ratio.min()) > 0.7
        assert float(ratio.max()) < 1.3
    text = mixture(told)
    assert "2 components, covariance full" in text
    assert "converged after" in text
    assert "DID NOT" not in text.upper()
    assert "100 % belong to one component" in text
    assert "Components over test rows" in text


def test_the_curve_stands_where_the_number_was_chosen(tmp_path):
    text = mixture(story(tmp_path, ROWS, restarts=1, max_components=4))
    assert "The number was chosen by mean log-likelihood of validation rows" in text


@pytest.mark.parametrize(("most", "how"), [(1000, "converged"), (1, "did NOT converge")])
def test_a_fit_by_em_is_no_closed_form(tmp_path, most, how):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    told = story(tmp_path, rows, n_components=2, restarts=1, max_iterations=most)
    iterations = told.config["fit"]["iterations"]
    assert f"fitted by EM, which {how} after {iterations} iteration{'s' if iterations > 1 else ''}." in str(
        training(told)
    )


def test_the_numbers_in_it_are_those_of_the_weights_file(tmp_path):
    told = story(tmp_path, np.random.default_rng(0).normal(size=(200, 2)), n_components=3)
    held = sum(tensor.size for tensor in load_file(tmp_path / "run" / "model.safetensors").values())
    assert held >= 3 * (1 + 2 + 4)
    assert f"{held} in the weights file" in str(model(told))


def test_not_converged_is_said(tmp_path):
    text = mixture(story(tmp_path, ROWS, n_components=4, restarts=1, max_iterations=1, tolerance=1e-12))
    assert "EM did NOT converge after 1 iteration." in text


def test_means_of_images_and_other_models(tmp_path):
    images = DRAW.integers(0, 5, (60, 4, 5)).astype(np.uint8)
    assert "Means of the components" in mixture(story(tmp_path / "a", images, n_components=2, levels=5, restarts=1))
    assert mixture(story(tmp_path / "b", ROWS, "gaussian")) == ""


def test_more_columns_are_a_table(tmp_path):
    text = mixture(story(tmp_path, DRAW.normal(size=(60, 3)), n_components=2, restarts=1))
    assert text.count("<tr>") == 3


@pytest.mark.parametrize(
    "fit", [None, {}, {"n_components": "x"}, {"n_components": 2, "iterations": 3, "restarts": 7, "curve": [1]}]
)
def test_a_damaged_record_of_the_fit_leaves_a_line(tmp_path, fit):
    told = story(tmp_path, ROWS, n_components=2, restarts=1)
    told.config["fit"] = fit
    assert "The components" in mixture(told)


def test_numbers_about_rows_and_components_are_those_of_the_model(tmp_path):
    """Four components on two clusters of 3 : 1: the table goes by weight; shares of test rows are counted by hand."""
    wide = np.concatenate([ROWS, DRAW.normal(size=(200, 1))], 1)
    told = story(tmp_path, wide, n_components=4, restarts=2)
    text, weights = mixture(told), told.pipeline.components.weights.sort(descending=True).values
    places = [text.index(f"{float(w):.4f}") for w in weights]
    assert places == sorted(places)
    counts = torch.bincount(told.pipeline.responsibilities(told.split.test).argmax(1), minlength=4)
    assert f"the largest cluster has {100 * float(counts.max()) / len(told.split.test):.0f} %" in text
    assert (" components are the likeliest of none" in text) == (int(counts.min()) == 0)
    ends = [start["penalised_nats_per_row"] for start in told.config["fit"]["restarts"]]
    assert f"The 2 starts ended within {abs(ends[0] - ends[1]):.2g} nats a row" in text


def test_a_component_that_no_row_is_likeliest_in_is_counted(tmp_path):
    """The heaviest of three equal components takes every row."""
    told = story(tmp_path, DRAW.normal(size=(60, 3)), n_components=3, restarts=1)
    model = told.pipeline.components
    model.means.copy_(model.means[:1].expand(3, -1).clone())
    model.spread_covariances.copy_(model.spread_covariances[:1].expand(3, -1, -1).clone())
    model.weights.copy_(torch.tensor([0.25, 0.5, 0.25]))
    text = mixture(told)
    assert "0 % belong to one component with a probability above 0.9; the largest cluster has 100 %." in text
    assert "2 components are the likeliest of none of them" in text


def test_one_component_is_one(tmp_path):
    told = story(tmp_path, DRAW.normal(size=(60, 3)), n_components=2, restarts=1)
    model = told.pipeline.components
    model.means.copy_(model.means[:1].expand(2, -1).clone())
    model.spread_covariances.copy_(model.spread_covariances[:1].expand(2, -1, -1).clone())
    model.weights.copy_(torch.tensor([0.75, 0.25]))
    told.config["fit"] = {"n_components": 1, "iterations": 1, "converged": True}
    text = mixture(told)
    assert "1 component, covariance full. EM converged after 1 iteration." in text
    assert " 1 component is the likeliest of none of them." in text


def test_bic_is_called_bic(tmp_path):
    assert "The number was chosen by −BIC/2n" in mixture(
        story(tmp_path, ROWS, restarts=1, max_components=2, criterion="bic")
    )
