"""`vae` with classes: log p(x | y) against an integral over one latent. Seeds fixed; tests by chance at 10⁻⁴."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import jensen
from jensen.data.examples import Split
from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.evaluation.panels.codes import codes
from jensen.evaluation.story import gather
from jensen.models.model import ClassGiven
from jensen.models.pipeline import Pipeline
from jensen.models.vae import VAE, ClassVAE
from jensen.noise import Noise

F64 = torch.float64


def data(n: int = 400) -> Split:
    """Three bits, which agree in class 0 and alternate in class 1; a quarter are of class 1."""
    draw = np.random.default_rng(0)
    y = (draw.random(n) < 0.25).astype(int)
    first = draw.integers(0, 2, n)
    x = np.stack([first, np.where(y == 1, 1 - first, first), first], 1)
    x = np.where(draw.random(x.shape) < 0.1, 1 - x, x).astype(np.uint8)
    split = jensen.load_data(x, levels=2)
    codes = torch.from_numpy(y)
    parts = {p: replace(getattr(split, p), context=codes[getattr(split, p).id]) for p in ("train", "valid", "test")}
    return replace(split, **parts, class_names=("same", "other"))


@pytest.fixture(scope="module")
def fitted() -> tuple[Pipeline, Split]:
    split = data()
    run = jensen.fit(
        split, "vae", n_classes="auto", latent_dim=1, width=16, depth=1, steps=300, lr=1e-2, patience=0, progress=False
    )
    return run, split


def log_p(run: Pipeline, y: int) -> Tensor:
    """log p(x | y) of all eight rows by a grid over z."""
    model = run.model
    assert isinstance(model, VAE)
    z = torch.linspace(-10, 10, 4001, dtype=F64)[:, None]
    x = run.codec.encode(bits())
    context = torch.full((8,), y)
    with torch.no_grad():
        emitted = model.parts.given(context).emission(z[:, None].expand(-1, 8, -1)).log_prob(x)
    weight = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) + math.log(float(z[1, 0] - z[0, 0]))
    return (emitted + weight).logsumexp(0)


def bits() -> Tensor:
    return torch.tensor(list(itertools.product([0, 1], repeat=3)), dtype=torch.uint8)


@pytest.mark.parametrize("y", [0, 1])
def test_it_is_a_distribution_of_rows_for_every_class(fitted: tuple[Pipeline, Split], y: int):
    run, _ = fitted
    assert isinstance(run.model, ClassVAE)
    truth = log_p(run, y)
    assert float(truth.exp().sum()) == pytest.approx(1.0, abs=1e-5)
    found = run.log_likelihood(bits(), y, method="iwae", draws=5000)
    assert found.given == "p(x|y)"
    assert found.stderr is not None
    assert float(((found.value - truth).abs() / (found.stderr + 1e-5)).max()) < 4
    bound = run.log_likelihood(bits(), ["same", "other"][y], method="elbo")
    assert bound.stderr is not None
    assert bool((bound.value < truth + 4 * bound.stderr + 1e-5).all())


def test_the_class_matters_and_the_rows_own_are_used(fitted: tuple[Pipeline, Split]):
    run, split = fitted
    own = run.log_likelihood(split.test, method="iwae", draws=500)
    assert split.test.context is not None
    same = run.log_likelihood(split.test, split.test.context, method="iwae", draws=500)
    wrong = run.log_likelihood(split.test, 1 - split.test.context, method="iwae", draws=500)
    assert torch.equal(own.value, same.value)
    assert own.mean > wrong.mean + 0.5
    with pytest.raises(InputError, match=r"gives log p\(x \| y\) and needs the class of every row"):
        run.log_likelihood(bits())
    control = jensen.fit(split, "independent", progress=False).log_likelihood(split.test)
    with pytest.raises(ValueError, match="different given"):
        own - control


@pytest.mark.parametrize("y", [0, 1])
def test_samples_of_a_class_have_its_law(fitted: tuple[Pipeline, Split], y: int):
    run, _ = fitted
    drawn = run.sample(8000, y, seed=1)
    counts = torch.bincount((drawn.long() @ torch.tensor([4, 2, 1])), minlength=8).double()
    expected = 8000 * log_p(run, y).exp()
    assert stats.chi2.sf(float(((counts - expected).square() / expected).sum()), 7) > 1e-4
    assert torch.equal(run.sample(5, y, seed=1), drawn[:5])


def test_samples_without_a_class_have_classes_as_frequent_as_the_rows(fitted: tuple[Pipeline, Split]):
    run, split = fitted
    assert split.train.context is not None
    share = split.train.context.double().mean()
    model = run.model
    assert isinstance(model, ClassVAE)
    assert torch.allclose(model.frequencies, torch.stack([1 - share, share]))
    drawn = run.sample(8000, seed=2)
    counts = torch.bincount((drawn.long() @ torch.tensor([4, 2, 1])), minlength=8).double()
    expected = 8000 * ((1 - share) * log_p(run, 0).exp() + share * log_p(run, 1).exp())
    assert stats.chi2.sf(float(((counts - expected).square() / expected).sum()), 7) > 1e-4


def test_it_comes_back_from_a_file(fitted: tuple[Pipeline, Split], tmp_path):
    run, split = fitted
    run.save(tmp_path)
    again = jensen.load(tmp_path)
    assert isinstance(again.model, ClassGiven)
    assert again.config["model"]["options"]["n_classes"] == 2
    assert torch.equal(again.sample(6, 1, seed=3), run.sample(6, 1, seed=3))
    assert torch.equal(again.log_likelihood(split.test).value, run.log_likelihood(split.test).value)


def test_other_labels_are_another_run(tmp_path: Path):
    """The networks are told the classes, so a run on others is not the same."""
    split, fast = data(), {"latent_dim": 1, "steps": 3, "n_classes": "auto", "progress": False}
    jensen.fit(split, "vae", run=tmp_path, **fast)  # type: ignore[arg-type]
    assert split.train.context is not None
    other = replace(split, train=replace(split.train, context=1 - split.train.context))
    with pytest.raises(InputError, match="holds another run: classes was"):
        jensen.fit(other, "vae", run=tmp_path, **fast)  # type: ignore[arg-type]
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])["held_out"]
    assert f"{last['active_units']} of its numbers are active" in str(codes(gather(tmp_path, split, None)))
    plain = {**fast, "n_classes": None}
    jensen.fit(split, "vae", run=tmp_path / "plain", **plain)  # type: ignore[arg-type]
    jensen.fit(other, "vae", run=tmp_path / "plain", **plain)  # type: ignore[arg-type]


def test_what_does_not_go_together_is_refused(fitted: tuple[Pipeline, Split]):
    run, split = fitted
    with pytest.raises(InputError, match="n_classes is that of the data, 2, got 5; say auto"):
        jensen.fit(split, "vae", n_classes=5, steps=1, progress=False)
    with pytest.raises(InputError, match="n_classes is for data with classes, and these have none"):
        jensen.fit(bits().repeat(9, 1).numpy(), "vae", n_classes="auto", steps=1, progress=False)
    with pytest.raises(InputError, match="prior=vamp is a mixture over rows of no class"):
        VAE((3,), Levels(2, -1.0, 2.0), prior="vamp", n_classes=2)
    with pytest.raises(InputError, match="which is not offered; fit it without n_classes"):
        run.latents.encode(split.test)
    with pytest.raises(InputError, match=r"a comparison is of log p\(x\), and vae with n_classes"):
        jensen.compare(split, "vae", settings={"vae": {"n_classes": "auto"}})


def test_codes_rows_and_gaps_of_given_classes(fitted: tuple[Pipeline, Split]):
    """More rows than are looked at together, each by its own class; the gap closes on the integral."""
    run, _ = fitted
    model = run.model
    assert isinstance(model, VAE)
    x, y = run.codec.encode(bits()).repeat(12, 1), torch.arange(96) // 5 % 2
    codes = model.encode(x, y)
    assert torch.allclose(codes[70:71], model.encode(x[70:71], y[70:71]), atol=1e-6)
    assert not torch.allclose(codes[70:71], model.encode(x[70:71], 1 - y[70:71]), atol=1e-3)
    assert torch.allclose(model.decode(codes, y)[70:71], model.decode(codes[70:71], y[70:71]), atol=1e-6)
    gap = model.gap(x[:8], torch.zeros(8, dtype=torch.int64), draws=2000)
    assert torch.allclose(gap.log_p.value, log_p(run, 0), atol=0.03)
    other = model.gap(x[:8], torch.ones(8, dtype=torch.int64), steps=5, draws=2000)
    assert torch.allclose(other.log_p.value, log_p(run, 1), atol=0.05)
    pair = model.certified(40, temperatures=30, chains=4)
    assert -4 * pair.stderr < pair.gap < 0.2
    ids, noise = torch.arange(40), Noise(0, "certified")
    own = model.classes_to_draw(None, ids, noise)
    with torch.no_grad():
        z = model.parts.prior.draw(ids, noise.at("z"))
        drawn = model.emitted(z, own).draw(noise.at("x").uniform(ids, (3, 2)))
    number = (drawn > 0).long() @ torch.tensor([4, 2, 1])
    truth = torch.stack([log_p(run, 0), log_p(run, 1)])[own, number]
    assert float((pair.lower - truth).mean().abs()) < 0.05
    assert float((pair.upper - truth).mean().abs()) < 0.05


def test_the_class_is_told_wherever_the_number_is(fitted: tuple[Pipeline, Split]):
    run, split = fitted
    ll = run.log_likelihood(split.test)
    assert "log p(x | y), the class given" in str(ll)
    assert ll.of == "z ~ p(z), x ~ p(x | z, y)"
