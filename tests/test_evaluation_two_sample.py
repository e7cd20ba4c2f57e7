"""Two-sample measures: closed forms, brute force, nulls and power. Seeds fixed; rates of chance beside each test."""

import math

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor

import jensen
from jensen.errors import InputError
from jensen.evaluation.two_sample import two_samples
from jensen.evaluation.two_sample.classifier import classifier
from jensen.evaluation.two_sample.extractor import Extractor, principal, scaled
from jensen.evaluation.two_sample.frechet import between_normals, frechet, kernel
from jensen.evaluation.two_sample.manifold import manifold, radii
from jensen.evaluation.two_sample.memory import copying, memory, z_score
from jensen.evaluation.two_sample.sliced import sliced

F64 = torch.float64


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)) + shift


def uniform(p: list[float]) -> float:
    """The p-value of a Kolmogorov-Smirnov test that p-values on a grid of 1/(B + 1) are uniform."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, len(p)) / 40
    return float(stats.kstest(np.clip(np.array(p) + noise - 0.0125, 0, 1), "uniform").pvalue)


@pytest.mark.parametrize("measure", [classifier, sliced])
def test_p_values_of_one_law_are_uniform_and_a_shift_is_seen(measure):
    """200 pairs of 60 rows; uniform at 10⁻³. A shift of 0.25 σ in each of 8 columns is seen by nearly all of 20 pairs of 400."""
    same = [measure(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1), permutations=39, seed=i) for i in range(200)]
    assert uniform([m.p_value for m in same]) > 1e-3
    moved = [
        measure(normal(400, 8, 2 * i), normal(400, 8, 2 * i + 1, 0.25), permutations=39, seed=i) for i in range(10)
    ]
    assert sum(m.p_value < 0.05 for m in moved) >= 8


def test_a_classifiers_accuracy_is_that_of_the_best_one():
    """N(0, 1) against N(2, 1): the best classifier is right in Φ(1) of the cases; ½ where there is nothing to tell."""
    found = classifier(normal(3000, 1, 0), normal(3000, 1, 1, 2.0), permutations=0)
    assert abs(found.value - stats.norm.cdf(1)) < 4 * found.stderr
    assert found.stderr == pytest.approx(math.sqrt(found.value * (1 - found.value) / 6000))
    assert abs(
        np.mean([classifier(normal(200, 2, i), normal(200, 2, 900 + i), permutations=0).value for i in range(60)]) - 0.5
    ) < 4 * 0.5 / math.sqrt(400 * 60)
    ring = torch.nn.functional.normalize(normal(800, 2, 5), dim=1) * 2
    assert classifier(normal(800, 2, 6), ring, permutations=0).value > 0.85, "no line tells a ring from its middle"


def test_sliced_distance_of_a_shift_is_the_mean_projection():
    """Samples that are copies moved by v: W₁ along θ is |θᵀ v| exactly, with mean ‖v‖ E|θ₁| over directions."""
    x = normal(500, 3, 0)
    v = torch.tensor([0.3, -0.4, 1.2], dtype=F64)
    found = sliced(x, x + v, permutations=0).value
    assert abs(found / (float(v.norm()) * 0.5) - 1) < 0.2  # E|θ₁| = ½ in three dimensions; 64 directions
    assert sliced(x, x.flip(0), permutations=0).value == pytest.approx(0.0, abs=1e-12)
    line = normal(300, 1, 1)
    assert sliced(line, line + 0.7, permutations=0).value == pytest.approx(0.7)


def test_frechet_is_the_distance_of_the_normals():
    a, b = normal(400, 4, 0) @ normal(4, 4, 1), normal(300, 4, 2, 0.5)
    m1, m2, s1, s2 = a.mean(0), b.mean(0), a.T.cov(), b.T.cov()
    root = linalg.sqrtm((s1 @ s2).numpy()).real
    wanted = float((m1 - m2).square().sum() + (s1 + s2).trace()) - 2 * np.trace(root)
    assert frechet(a, b).value == pytest.approx(wanted, rel=1e-8)
    assert between_normals(m1, s1, m1, s1) == pytest.approx(0.0, abs=1e-9)
    one = between_normals(
        torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64), torch.ones(1, dtype=F64), 4 * torch.eye(1, dtype=F64)
    )
    assert one == pytest.approx(1 + 1)  # (μ₁ - μ₂)² + (σ₁ - σ₂)²
    assert "fewer rows than features" in frechet(normal(5, 9, 0), normal(30, 9, 1)).note


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    """Brute force on one pair of blocks; mean 0 over 300 pairs of one law at 4 standard errors."""
    a, b = normal(40, 3, 0), normal(40, 3, 1, 0.3)
    k = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    blocks = []
    for x, y in ((a[:20], b[:20]), (a[20:], b[20:])):
        inside = sum(k(s[i], s[j]) for s in (x, y) for i in range(20) for j in range(20) if i != j) / (20 * 19)
        blocks.append(inside - 2 * sum(k(p, q) for p in x for q in y) / 400)
    assert kernel(a, b).value == pytest.approx(np.mean(blocks), rel=1e-9)
    same = torch.tensor([kernel(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1)).value for i in range(300)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / math.sqrt(300)
    moved = kernel(normal(500, 3, 0), normal(500, 3, 1, 0.6))
    assert moved.value > 4 * moved.stderr


def test_balls_are_those_of_brute_force():
    a, b = normal(30, 2, 0), normal(25, 2, 1, 0.4)
    apart = torch.cdist(a, a)
    assert torch.allclose(radii(a, 3), apart.sort(1).values[:, 3])  # 0 is itself
    found = {m.name: m.value for m in manifold(a, b, 3)}
    r, s = radii(a, 3), radii(b, 3)
    across = torch.cdist(a, b)
    inside = across < r[:, None]
    assert found["precision"] == pytest.approx(float(inside.any(0).double().mean()))
    assert found["coverage"] == pytest.approx(float(inside.any(1).double().mean()))
    assert found["density"] == pytest.approx(float(inside.double().sum(0).mean()) / 3)
    assert found["recall"] == pytest.approx(float((across < s).any(1).double().mean()))


def test_balls_of_one_law_and_of_two():
    one = {m.name: m for m in manifold(normal(1500, 2, 0), normal(1500, 2, 1))}
    assert abs(one["density"].value - 1) < 0.05
    assert abs(one["coverage"].value - (1 - 2**-5)) < 0.02
    far = {m.name: m.value for m in manifold(normal(200, 2, 0), normal(200, 2, 1, 50.0))}
    assert set(far.values()) == {0.0}
    x = normal(200, 2, 3)
    half = {m.name: m.value for m in manifold(x, x[x[:, 0] > 0].repeat(2, 1)[:100] + 1e-3)}
    assert half["precision"] > 0.99
    assert half["coverage"] < 0.75, "half of the data have no sample near them"


def test_the_rank_statistic_is_scipys():
    a, b = normal(40, 1, 0).flatten().round(decimals=1), normal(50, 1, 1, 0.3).flatten().round(decimals=1)
    u, p = stats.mannwhitneyu(a.numpy(), b.numpy(), method="asymptotic", use_continuity=False)
    assert 2 * stats.norm.sf(abs(z_score(a, b))) == pytest.approx(p)
    assert np.sign(z_score(a, b)) == np.sign(u - 40 * 50 / 2)


def test_copies_are_seen_and_fresh_rows_are_not():
    train, test = normal(800, 4, 0), normal(300, 4, 1)
    fresh = {m.name: m for m in memory(train, test, normal(300, 4, 2))}
    assert abs(fresh["C_T"].value) < 4
    ratio = fresh["neighbour ratio"]
    assert abs(ratio.value - 1) < 4 * ratio.stderr
    copies = {m.name: m.value for m in memory(train, test, train[:300] + 0.05 * normal(300, 4, 3))}
    assert copies["C_T"] < -6
    assert copies["neighbour ratio"] < 0.4
    far = {m.name: m.value for m in memory(train, test, 2 * normal(300, 4, 4))}
    assert far["C_T"] > 4
    same = torch.tensor(
        [
            memory(normal(300, 2, 3 * i), normal(80, 2, 3 * i + 1), normal(80, 2, 3 * i + 2), i)[1].value
            for i in range(40)
        ]
    )
    assert abs(float(same.mean())) < 4 * float(same.std()) / math.sqrt(40)
    assert math.isnan(copying(torch.ones(5), torch.ones(5), torch.zeros(5), torch.zeros(5)))


def test_features_carry_their_name_and_what_they_are():
    x = normal(200, 5, 0)
    pca = principal(x, 2)
    assert pca.name == "pca-2"
    assert pca.digest == principal(x, 2).digest != principal(x[:-1], 2).digest
    values = torch.linalg.eigvalsh(x.T.cov()).flip(0)[:2]
    assert torch.allclose(pca(x).var(0), values)
    with pytest.raises(InputError, match=r"features odd must be finite numbers of shape \(3, d\)"):
        Extractor("odd", "0", lambda rows: rows.log())(-torch.ones(3, 2))
    own, common = scaled(x * torch.arange(1, 6), True)(x), scaled(x, False)(x)
    assert own.shape == common.shape
    assert torch.allclose(scaled(3 * x + 1, True)(3 * x + 1).std(0), torch.ones(5, dtype=F64))
    assert float(common.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_a_table_stands_between_ceiling_and_floor():
    """A gmm on two clusters is as good as training rows, the controls are not."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(900, 2)) * 0.3 + draw.choice([-2, 2], size=(900, 1))
    split = jensen.load_data(x)
    run = jensen.fit(split, "gmm", n_components=2, progress=False)
    found = two_samples(run, split, seed=1)
    assert list(found.columns) == ["model", "train", "independent", "gaussian"]
    by = {name: {m.name: m for m in measures} for name, measures in found.columns.items()}
    for name in ("classifier", "energy", "mmd", "sliced wasserstein"):
        assert by["model"][name].p_value > 0.01
        assert by["train"][name].p_value > 0.01
    assert by["gaussian"]["classifier"].p_value < 0.05
    assert by["gaussian"]["energy"].p_value < 0.05
    assert by["model"]["precision"].value > by["gaussian"]["precision"].value + 0.2
    assert found.rows == 180
    text = "\n".join(found.lines())
    assert "train (ceiling)" in text
    assert "180 rows" in found.explained()
    assert found.to_dict()["measures"]["model"]["classifier"]["target"] == 0.5
    again = two_samples(run, split, seed=1)
    assert again.to_dict() == found.to_dict()
    few = two_samples(run, split, rows=30)
    assert few.caution is not None
    with pytest.raises(
        InputError, match="from 20 rows to as many as the test rows and the training rows, 180, got 500"
    ):
        two_samples(run, split, rows=500)
