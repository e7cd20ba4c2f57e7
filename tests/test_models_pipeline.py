"""Data keep their digits on the way to an exact score: law 25 far from 0, float32 data as their float64 copies."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen.data.examples import Examples, Split
from jensen.data.space import Real
from jensen.models.model import ClosedForm
from jensen.models.pipeline import Encoded, Pipeline

EXACT: dict[str, dict[str, Any]] = {
    "independent": {},
    "gaussian": {},
    "gmm": {"n_components": 2, "tolerance": 1e-10},
    "kde": {},
    "hmm": {"n_states": 2, "restarts": 1, "tolerance": 1e-10},
    "jittered": {"rows": 20},
    "naive-bayes": {},
    "naive-bayes mixture": {"family": "mixture"},
    "naive-bayes kde": {"family": "kde"},
}


def split_of(x: np.ndarray[Any, Any]) -> Split:
    """Two thirds to train, in two classes."""
    values, y = torch.from_numpy(x), torch.arange(len(x)) % 2
    parts = [Examples(values[i:j], torch.arange(i, j), y[i:j]) for i, j in ((0, 200), (200, 250), (250, 300))]
    return Split(*parts, Real())


def rows(seed: int = 0) -> np.ndarray[Any, Any]:
    """Rows of two classes, on a grid of 2⁻¹⁴: a shift by 2²⁷ and a scale of 2⁻¹⁰ round nothing in float64."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(300, 3)) + 3.0 * (np.arange(300) % 2)[:, None]
    return np.round(x * 2**14) / 2**14


def fitted(what: str, split: Split) -> Pipeline:
    return jensen.fit(split, what.split()[0], progress=False, **EXACT[what])


@pytest.mark.parametrize("what", EXACT)
def test_a_change_of_units_far_from_zero_moves_log_p_by_log_a(what: str):
    """Law 25 with b = 2²⁷ > 10⁸ and a = 2⁻¹⁰ < 10⁻³, where float32 has no digit of the data and float64 has five of a
    standard deviation: log p_Y(y) = log p_X(a y + b) + D log a.
    """
    a, b = 2.0**-10, 2.0**27 / 2.0**-10
    y = rows()
    near, far = split_of(y), split_of(a * (y + b))
    assert np.array_equal((far.train.x.numpy() - 2.0**27) / a, near.train.x.numpy())  # nothing was rounded
    one = fitted(what, near).log_likelihood(near.test).value
    other = fitted(what, far).log_likelihood(far.test).value + 3 * math.log(a)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-8)


def heavy() -> np.ndarray[Any, Any]:
    """Structure at 1 and a few values of 10⁸ in every column, all exact in float32."""
    x = rows(1).astype(np.float32)
    x[::50] += np.float32(2.0**27)
    return x


@pytest.mark.parametrize("what", EXACT)
def test_float32_data_are_scored_as_their_float64_copies(what: str):
    """To the bit, where the copies are encoded with the same codec; a mixture fits in float32 by choice, and so is fitted once."""
    single, double = split_of(heavy()), split_of(heavy().astype(np.float64))
    pipeline = fitted(what, single)
    mine, copies = pipeline.log_likelihood(single.test).value, pipeline.log_likelihood(double.test).value
    assert torch.equal(mine, copies)
    if what != "gmm":
        assert torch.equal(fitted(what, double).log_likelihood(double.test).value, mine)
    if pipeline.components is not None:
        assert torch.equal(pipeline.responsibilities(single.test), pipeline.responsibilities(double.test))


def test_a_score_sees_structure_below_the_digits_of_float32():
    """Two rows that differ by 1 beside outliers of 10⁸ are the same number in float32 standard deviations, and not to a kde
    with a bandwidth of 1.
    """
    x = heavy()[:, :1]
    pipeline = jensen.fit(split_of(x), "kde", progress=False)
    spread = float(pipeline.codec.scale)
    pipeline.model.bandwidths.fill_(0.1 / spread)
    near = float(split_of(x).train.x[1, 0])
    value = pipeline.log_likelihood(torch.tensor([[near], [near + 9.0]], dtype=torch.float32)).value
    away = split_of(x).train.x.double() - torch.tensor([near, near + 9.0], dtype=torch.float64)
    terms = -0.5 * (away / 0.1).square() - math.log(0.1) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(value, terms.logsumexp(0) - math.log(200), rtol=0, atol=1e-6)


def test_what_is_encoded_is_in_the_precision_of_the_model():
    single = split_of(rows().astype(np.float32))
    for word, scored, learned in (("kde", "float64", "float64"), ("gmm", "float64", "float32")):
        pipeline = fitted(word, single)
        assert isinstance(pipeline.model, ClosedForm)
        for fitting, dtype in ((False, scored), (True, learned)):
            encoded = pipeline.encoded(single.test, fitting=fitting)
            assert encoded.batch(slice(0, 2)).x.dtype == getattr(torch, dtype)
            assert encoded.rows.x.dtype == torch.float32  # the data stay as they are
    flow = jensen.fit(single, "flow", steps=1, layers=1, width=8, batch_size=8, progress=False)
    assert isinstance(flow.encoded(single.test), Encoded)
    assert flow.encoded(single.test).batch(slice(0, 2)).x.dtype == torch.float32
