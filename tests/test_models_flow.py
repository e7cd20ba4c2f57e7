"""`flow`: begun as a normal, close to the truth after seconds, exact, sampled from its own density, resumed to the bit."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analytic import mixture_2d
from scipy import stats
from sklearn.covariance import LedoitWolf
from torch import Tensor

import jensen
from jensen import fitting
from jensen.config import built, skeleton
from jensen.data.examples import Examples
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.evaluation.panels import run
from jensen.models.flow import Flow
from jensen.training import loop

F64 = torch.float64
SMALL: dict[str, Any] = {"layers": 2, "width": 24, "depth": 1, "dropout": 0.0}


def randomised(flow: Flow, size: float = 0.3) -> Flow:
    """All trained weights random, seed 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            weight.copy_(size * torch.randn(weight.shape, generator=generator) / math.sqrt(weight[0].numel()))
    return flow


def correlated(rows: int, dims: int) -> np.ndarray[Any, Any]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(rows, dims)) @ draw.normal(size=(dims, dims)) + np.arange(dims)


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
@pytest.mark.parametrize("dims", [1, 4])
def test_before_the_first_step_it_is_the_shrunk_normal(kind: str, dims: int):
    """Against scipy's normal with scikit-learn's shrunk covariance, 1e-9."""
    x = correlated(60, dims)
    flow = Flow((dims,), Real(), kind=kind, **SMALL)  # type: ignore[arg-type]
    flow.initialise(Examples(torch.from_numpy(x), torch.arange(60)))
    expected = stats.multivariate_normal(x.mean(0), LedoitWolf().fit(x).covariance_).logpdf(x)
    torch.testing.assert_close(
        flow.log_likelihood(torch.from_numpy(x)).value, torch.from_numpy(expected), rtol=0, atol=1e-9
    )


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
@pytest.mark.parametrize("event", [(1,), (5,), (1, 3, 4)])
def test_the_density_is_that_of_the_change_of_variables(kind: str, event: tuple[int, ...]):
    """log p = log N(z) + log |det ∂z/∂x| with the whole Jacobian from autograd; networks in float32, so 1e-5."""
    flow = randomised(Flow(event, Real(), kind=kind, **SMALL)).eval()  # type: ignore[arg-type]
    x = 2 * torch.randn(5, *event, generator=torch.Generator().manual_seed(1), dtype=F64)
    value = flow.log_likelihood(x).value
    for row, found in zip(x, value, strict=True):
        flat = row.flatten()
        jacobian = torch.autograd.functional.jacobian(lambda r: flow.map(r[None])[0][0], flat)
        assert isinstance(jacobian, Tensor)
        z = flow.map(flat[None])[0][0].detach()
        expected = -0.5 * float(z.square().sum()) - 0.5 * len(z) * math.log(2 * math.pi)
        expected += float(torch.linalg.slogdet(jacobian).logabsdet)
        assert float(found) == pytest.approx(expected, abs=1e-5)


def test_it_integrates_to_one():
    """In the plane, where both kinds are one; networks in float32, trapezoid rule on [-9, 9]², 1e-3."""
    flow = randomised(Flow((2,), Real(), **SMALL))
    axis = torch.linspace(-9, 9, 301, dtype=F64)
    mass = flow.log_likelihood(torch.cartesian_prod(axis, axis)).value.exp().sum() * float(axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1, abs=1e-3)


def test_samples_follow_the_density():
    """4000 draws against the masses of 7 × 7 cells and the rest, by quadrature of the density: chi-square over the cells
    that expect at least 5. Seed 0, failure rate 1e-4.
    """
    flow = randomised(Flow((2,), Real(), **SMALL))
    edges, fine = torch.linspace(-3.5, 3.5, 8, dtype=F64), 40
    middle = -3.5 + (torch.arange(7 * fine, dtype=F64) + 0.5) / fine
    density = flow.log_likelihood(torch.cartesian_prod(middle, middle)).value.exp()
    mass = density.reshape(7, fine, 7, fine).sum((1, 3)).flatten() / fine**2
    draws = flow.sample(4000, seed=0)
    counts = torch.histogramdd(draws, [edges, edges]).hist.flatten()
    expected, found = (
        torch.cat([inside, (total - inside.sum())[None]]) for inside, total in ((4000 * mass, 4000), (counts, 4000))
    )
    kept = expected >= 5
    pool = [torch.cat([v[kept], v[~kept].sum()[None]]) if bool((~kept).any()) else v for v in (found, expected)]
    statistic = float(((pool[0] - pool[1]).square() / pool[1].clamp(min=1e-9)).sum())
    assert stats.chi2.sf(statistic, len(pool[0]) - 1) > 1e-4
    assert not torch.equal(draws, flow.sample(4000, seed=1))


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
def test_a_sample_is_undone_by_the_map(kind: str):
    """z of a sample are the normal draws it came from: to 1e-5, networks in float32."""
    flow = randomised(Flow((6,), Real(), kind=kind, **SMALL))  # type: ignore[arg-type]
    x = flow.sample(100, seed=3)
    with torch.no_grad():
        z, _ = flow.map(x)
        torch.testing.assert_close(flow.map.inverse(z), x, rtol=0, atol=1e-5)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4


def test_it_comes_close_to_a_known_mixture():
    """Three correlated components: 2000 rows, 150 steps; on 2000 others within 0.08 nats of the truth, and not above it by
    more than 3 standard errors of the paired difference. The normal it starts as is 0.3 nats away. Seed 0.
    """
    world, generator = mixture_2d(), torch.Generator().manual_seed(0)
    rows, others = world.sample(2000, generator), world.sample(2000, generator)
    pipeline = jensen.fit(rows, "flow", steps=150, progress=False, lr=5e-3, batch_size=128, **SMALL)
    gap = world.log_prob(others) - pipeline.log_likelihood(others).value
    error = float(gap.std()) / math.sqrt(len(gap))
    assert -3 * error < float(gap.mean()) < 0.08
    normal = world.log_prob(others) - jensen.fit(rows, "gaussian", progress=False).log_likelihood(others).value
    assert float(normal.mean()) > 0.3


def test_far_outliers_have_the_tail_of_the_normal_it_began_as():
    """Where all of W (x - μ) lies outside the bound, splines are the identity: log p and its gradient in closed form."""
    flow = randomised(Flow((3,), Real(), linear=False, **SMALL))
    x = torch.tensor([[1e4, -1e5, 2e6]], dtype=F64)
    expected = -0.5 * x.square().sum() - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_likelihood(x).value, expected[None], rtol=1e-12, atol=0)
    assert bool(flow.log_likelihood(torch.tensor([[1e15, 0.0, -3.0]])).value.isfinite().all())


@pytest.mark.parametrize("data", ["real", "levels"])
def test_a_run_cut_off_is_resumed_to_the_bit(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Dropout and fresh dequantisation noise included."""
    x: Any = correlated(60, 3).astype(np.float32)
    if data == "levels":
        x = np.random.default_rng(0).integers(0, 4, (60, 3)).astype(np.uint8)
    split = jensen.load_data(x, levels=4 if data == "levels" else None)
    settings: dict[str, Any] = {**SMALL, "dropout": 0.2, "steps": 14, "batch_size": 16, "progress": False}
    jensen.fit(split, "flow", run=tmp_path / "whole", **settings)
    asked = iter([False] * 6 + [True] * 9)

    @contextmanager
    def cut() -> Any:
        yield lambda: next(asked)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "held_back", cut)
        with pytest.raises(KeyboardInterrupt):
            jensen.fit(split, "flow", run=tmp_path / "cut", **settings)
    assert not (tmp_path / "cut/model.safetensors").exists()
    jensen.fit(split, "flow", run=tmp_path / "cut", **settings)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == other


def test_memory_is_bounded_and_pieces_of_a_batch_change_nothing(monkeypatch: pytest.MonkeyPatch):
    flow = randomised(Flow((4,), Real(), **SMALL))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    whole, drawn = flow.log_likelihood(x).value, flow.sample(20)
    flow._at_once = 7
    torch.testing.assert_close(flow.log_likelihood(x).value, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(flow.sample(20), drawn, rtol=0, atol=1e-4)


def test_settings_are_chosen_by_dimensions_and_rows():
    few, many = (jensen.load_data(correlated(n, 3)) for n in (60, 8000))
    images = jensen.load_data(np.random.default_rng(0).normal(size=(40, 1, 9, 9)))
    chosen = [Flow.resolve(split, Real(), {}) for split in (few, many, images)]
    assert [c["kind"] for c in chosen] == ["autoregressive", "autoregressive", "coupling"]
    assert chosen[0]["width"] < chosen[1]["width"]
    assert chosen[0]["dropout"] > chosen[1]["dropout"] == 0
    assert Flow.resolve(few, Real(), {"kind": "coupling", "width": 7, "dropout": None})["width"] == 7


@pytest.mark.parametrize(
    ("event", "settings", "message"),
    [
        ((3, 64, 64), {}, r"12288 dimensions is too large \(at most 4096\)"),
        ((2,), {"layers": 0}, "layers must be from 1 to 64, got 0"),
        ((2,), {"bins": 1}, "bins must be from 2 to 128, got 1"),
        ((2,), {"bound": 0.0}, "bound must be from 0.1 to 1000, got 0.0"),
        ((2,), {"width": 10**9}, "width must be from 1 to 4096, got 1000000000"),
        ((2,), {"depth": 17}, "depth must be from 0 to 16, got 17"),
        ((2,), {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ((4096,), {"layers": 64}, "a flow of 64 layers on 4096 dimensions .* at most 268,435,456"),
    ],
)
def test_what_cannot_be_is_refused(event: tuple[int, ...], settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Flow(event, Real(), **settings)


def test_a_config_is_weighed_before_memory_is_taken():
    """On the meta device a picture-sized flow has shapes and no numbers."""
    pipeline = jensen.fit(np.random.default_rng(0).normal(size=(40, 4)), "flow", steps=1, progress=False, **SMALL)
    config = {**pipeline.config, "data": {**pipeline.config["data"], "event_shape": [4]}}
    assert all(t.is_meta for t in skeleton(config).values())
    assert {n: t.shape for n, t in skeleton(config).items()} == {
        n: t.shape for n, t in pipeline.model.state_dict().items()
    }
    assert not any(p.is_meta for p in built(config).model.parameters())


def test_what_is_exact_is_not_called_a_bound_while_it_trains_nor_in_the_report():
    real, levels = correlated(40, 2), np.random.default_rng(0).integers(0, 4, (40, 2)).astype(np.uint8)
    metrics = {"held_out": -3.0, "loss": 1.0, "rows_per_second": 1.0}
    found = {}
    for name, x in (("real", real), ("levels", levels)):
        split = jensen.load_data(x, levels=4 if name == "levels" else None)
        pipeline = jensen.fit(split, "flow", steps=1, progress=False, **SMALL)
        found[name] = (fitting._behind_the_bar(pipeline)(metrics), *run._held_out_words(pipeline.model))
    assert "≥" not in found["real"][0]
    assert "held-out ≤ " in found["levels"][0]
    assert [words[1] for words in found.values()] == ["−log p", "bound on −log p"]
    assert not any("variance and emission" in words[3] for words in found.values())
