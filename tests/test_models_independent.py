"""`independent`: its probabilities are Laplace's, its samples have them, and a missing cell is the marginal model."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models.independent import Independent

ROWS = np.random.default_rng(0).normal(size=(300, 3)) * [1.0, 2.0, 0.1] + [5.0, 0.0, -3.0]


def examples(x: torch.Tensor) -> Examples:
    return Examples(x, torch.arange(len(x)))


def test_histograms_add_one():
    model = Independent((2,), Levels(3))
    model.fit(examples(torch.tensor([[0.0, 2.0], [0.0, 1.0], [1.0, 2.0]])))
    value = model.log_likelihood(torch.tensor([[0.0, 0.0], [2.0, 2.0]])).value
    expected = [math.log(3 / 6) + math.log(1 / 6), math.log(1 / 6) + math.log(3 / 6)]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64))


def test_a_level_never_seen_is_possible():
    model = Independent((1,), Levels(256))
    model.fit(examples(torch.zeros(1000, 1)))
    assert float(model.log_likelihood(torch.tensor([[255.0]])).value) == pytest.approx(-math.log(1256))


def test_samples_have_the_models_frequencies():
    """χ² on 20,000 draws of a dimension with 5 levels, two dimensions, seed 0; failure rate 2e-4 together."""
    model = Independent((2,), Levels(5))
    model.fit(examples(torch.from_numpy(np.random.default_rng(1).binomial(4, [0.2, 0.7], (200, 2))).double()))
    draws = model.sample(20_000, seed=0).long()
    for dimension in range(2):
        p = (model.counts[dimension] + 1).double() / (model.counts[dimension].sum() + 5)
        seen = torch.bincount(draws[:, dimension], minlength=5)
        assert stats.chisquare(seen.numpy(), 20_000 * p.numpy()).pvalue > 1e-4


def test_real_samples_have_the_models_distribution():
    """Kolmogorov–Smirnov on 5,000 draws a dimension, seed 0; failure rate 3e-4 together."""
    model = Independent((3,), Real())
    model.fit(examples(torch.from_numpy(ROWS)))
    draws = model.sample(5000, seed=0)
    for d in range(3):
        law = stats.norm(float(model.mean[d]), float(model.variance[d].sqrt()))
        assert stats.kstest(draws[:, d].numpy(), law.cdf).pvalue > 1e-4


def test_real_values_are_scored_by_normals():
    pipeline = jensen.fit(ROWS, "independent", progress=False)
    train = jensen.load_data(ROWS).train.x.numpy()
    expected = stats.norm.logpdf(ROWS, train.mean(0), train.std(0)).sum(1)
    np.testing.assert_allclose(pipeline.log_likelihood(ROWS).value.numpy(), expected, rtol=1e-10)


def test_a_missing_cell_is_the_marginal_model():
    """Training and scoring with column 1 missing somewhere equals, for the others, a model that never had it."""
    holes = ROWS.copy()
    holes[::3, 1] = np.nan
    full, without = (
        jensen.fit(holes, "independent", progress=False),
        jensen.fit(ROWS[:, [0, 2]], "independent", progress=False),
    )
    rows = ROWS[:20].copy()
    rows[:, 1] = np.nan
    np.testing.assert_allclose(
        full.log_likelihood(rows).value.numpy(), without.log_likelihood(rows[:, [0, 2]]).value.numpy(), rtol=1e-12
    )


def test_missing_cells_do_not_move_the_rest():
    holes = ROWS.copy()
    holes[::3, 1] = np.nan
    train = jensen.load_data(holes).train.x.numpy()
    pipeline = jensen.fit(holes, "independent", progress=False)
    mean, variance = pipeline.codec.decode(pipeline.model.mean), pipeline.model.variance * pipeline.codec.scale.square()
    np.testing.assert_allclose(mean.numpy(), np.nanmean(train, 0))
    np.testing.assert_allclose(variance.numpy(), np.nanvar(train, 0))


@pytest.mark.parametrize("column", [1, 2])
def test_a_constant_or_empty_column_is_refused(column: int):
    rows = ROWS.copy()
    rows[:, column] = 7.0 if column == 1 else np.nan
    said = r"is constant in the training rows \(value 7\)" if column == 1 else "has no values"
    with pytest.raises(InputError, match=rf"column {column + 1} \(counted from 1\) {said}"):
        jensen.fit(rows, "independent", progress=False)


def test_a_table_too_large_is_refused():
    with pytest.raises(InputError, match="8192 dimensions × 65536 levels do not fit"):
        Independent((8192,), Levels(65536))


def test_change_of_units_is_exact():
    """Law 25."""
    one, other = (jensen.fit(x, "independent", progress=False) for x in (ROWS, 3.7 * ROWS + 11))
    difference = one.log_likelihood(ROWS).value - other.log_likelihood(3.7 * ROWS + 11).value
    np.testing.assert_allclose(difference.numpy(), 3 * math.log(3.7), rtol=1e-9)


def test_weights_of_levels_are_repeated_rows():
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    one, twice = (Independent((2,), Levels(3)) for _ in range(2))
    one.fit(Examples(x, torch.arange(3), weight=weight))
    twice.fit(Examples(x.repeat_interleave(weight.long(), 0), torch.arange(6)))
    assert torch.equal(one.counts, twice.counts)
