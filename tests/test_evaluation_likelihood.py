"""What evaluation.json says: the right rows, the right sign, the right steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import jensen
from jensen.data.examples import Split
from jensen.evaluation import drawing, likelihood
from jensen.evaluation.likelihood import evaluate_run, per_step, self_check
from jensen.likelihood import BITS
from jensen.models.ddpm import DDPM
from jensen.models.pipeline import Pipeline

ROWS = np.random.default_rng(0).normal(size=(120, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
TINY: dict[str, Any] = {"timesteps": 6, "size": "tiny", "batch_size": 20, "precision": "float32", "steps": 4}


@pytest.fixture(scope="module")
def split() -> Split:
    """30 rows of training and 24 of test, so that a check on at most 64 sees all of them."""
    whole = jensen.load_data(ROWS)
    return replace(whole, train=whole.train.take(torch.arange(30)))


@pytest.fixture(scope="module")
def chain(split: Split) -> Pipeline:
    return jensen.fit(split, "diffusion", progress=False, **TINY)


def test_everything_is_about_the_test_rows(chain: Pipeline, split: Split):
    ll = chain.log_likelihood(split.test, calls=None, repetitions=2)
    record = evaluate_run(chain, split, ll, chain.sample(5))
    assert set(record["controls"]) == set(record["differences"]) == {"independent", "gaussian"}
    for found in (record["log_likelihood"], *record["controls"].values()):
        assert found["rows"] == split.test.digest()
        assert found["examples"] == 24
    for word, difference in record["differences"].items():
        gain = record["log_likelihood"]["mean_nats"] - record["controls"][word]["mean_nats"]
        assert difference["mean_nats"] == pytest.approx(gain)
        control = jensen.fit(split, word, progress=False).log_likelihood(split.test)
        assert record["controls"][word]["mean_nats"] == pytest.approx(control.mean)


def test_differences_of_masses_are_also_in_bits_of_the_same_sign():
    split = jensen.load_data(np.clip(np.round(2 + ROWS), 0, 4).astype(np.uint8), levels=5)
    one, other = (jensen.fit(split, word, progress=False).log_likelihood(split.test) for word in likelihood.CONTROLS)
    found = likelihood.difference_dict(one - other)
    assert found["mean_bits_per_dim"] == pytest.approx(found["mean_nats"] * BITS / 2)
    assert found["stderr_bits_per_dim"] == pytest.approx(found["stderr_nats"] * BITS / 2)


def test_the_self_check_scores_test_training_and_own_rows(split: Split):
    """An exact model, all rows of both parts: the means are those of the parts."""
    pipeline = jensen.fit(split, "gaussian", progress=False)
    own = pipeline.sample(24, seed=5)
    found = self_check(pipeline, split, own, seed=5)
    for name, rows in (("test", split.test), ("samples", own)):
        assert found[name]["mean_nats"] == pytest.approx(pipeline.log_likelihood(rows).mean)
        assert found[name]["examples"] == 24
    train = pipeline.log_likelihood(split.train)
    by_id = dict(zip(split.train.id.tolist(), train.value.tolist(), strict=True))
    picked = split.train.take(likelihood.Noise(5, "self-check").at("train").permutation(30)[:24])
    assert found["train"]["mean_nats"] == pytest.approx(sum(by_id[i] for i in picked.id.tolist()) / 24)


def test_the_self_check_is_about_the_chain_that_was_drawn_from(
    chain: Pipeline, split: Split, monkeypatch: pytest.MonkeyPatch
):
    """Samples are drawn in the steps that the check scores with, here fewer than the chain has."""
    drawn: list[Any] = []
    sample = Pipeline.sample

    def watched(self: Pipeline, n: int, **options: Any) -> torch.Tensor:
        drawn.append(options.get("steps"))
        return sample(self, n, **options)

    monkeypatch.setattr(Pipeline, "sample", watched)
    monkeypatch.setattr(drawing, "MOST_STEPS", ((4096, 3),))
    found = self_check(chain, split, drawing.draw(chain).samples)
    assert drawn == [found["steps"]] == [3]
    assert found["of"] == found["samples"]["of"] == "ancestral, T = 3"


def test_a_drawing_keeps_the_way_to_its_first_rows(chain: Pipeline):
    """The frames end in what the samples are: the last x̂_0, decoded, is their mean, a scale of the emission away."""
    found = drawing.draw(chain)
    assert [frame.i for frame in found.frames] == sorted((f.i for f in found.frames), reverse=True)
    assert found.frames[-1].i == 1
    assert isinstance(chain.model, DDPM)
    scale = float(chain.model.reverse.emission.log_scale.exp())
    ends = chain.codec.encode(found.samples[: len(found.frames[-1].denoised)]) - found.frames[-1].denoised
    assert float(ends.square().mean().sqrt()) == pytest.approx(scale, rel=0.2)


@pytest.mark.parametrize("word", ["diffusion", "gaussian"])
def test_as_many_steps_of_drawing_are_told_as_were_announced(word: str, chain: Pipeline, split: Split):
    pipeline = chain if word == "diffusion" else jensen.fit(split, word, progress=False)
    announced, taken = list[int](), list[int]()
    drawing.draw(pipeline, announced.append, taken.append)
    assert len(announced) == 1
    assert announced[0] == sum(taken) > 0


def test_single_steps_sum_to_the_bound(chain: Pipeline, split: Split):
    """Six steps, each looked at: with the prior term they add up to the bound of the same rows, in the model's units;
    4.5 standard errors of both (failure rate 7e-6).
    """
    assert isinstance(chain.model, DDPM)
    found = per_step(chain, split.test)
    assert found is not None
    assert found["step"] == [1, 2, 3, 4, 5, 6]
    assert found["log_snr"] == chain.model.reverse.chain.log_snr.tolist()
    encoded = chain.encoded(split.test).batch(slice(None))
    bound = chain.model.log_likelihood(encoded.x, ids=encoded.id, calls=None, repetitions=100)
    _, costs = chain.model.cost_per_step(encoded.x, encoded.id)
    single = bound.terms["prior"] - costs.sum(0)
    assert bound.stderr is not None
    error = bound.stderr * np.sqrt(100 + 1)  # one draw of each step, against the mean of 100
    assert float(((single - bound.value).mean() / (error.square().sum().sqrt() / len(error))).abs()) < 4.5
    for name, step in (("reconstruction", slice(0, 1)), ("diffusion", slice(1, None))):
        torch.testing.assert_close(-costs[step].sum(0).mean(), bound.terms[name].mean(), rtol=0.5, atol=0.5)


def test_the_self_check_is_about_as_many_cells_of_samples_as_of_rows():
    """A mixture on rows with holes: samples lose the cells that test rows lack, so both numbers are about the same cells."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(400, 3)) + 5
    rows[draw.random(rows.shape) < 0.4] = np.nan
    split = jensen.load_data(rows)
    pipeline = jensen.fit(split, "gmm", n_components=1, progress=False)
    found = self_check(pipeline, split, pipeline.sample(64, seed=1))
    gap = found["samples"]["mean_nats"] - found["test"]["mean_nats"]
    assert abs(gap) < 4.5 * 2**0.5 * found["test"]["stderr_nats"]  # failure rate 7e-6, seeds 0 and 1
