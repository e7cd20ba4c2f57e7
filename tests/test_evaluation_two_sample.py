"""Two-sample measures: closed forms, brute force, nulls and power. Seeds fixed; rates of chance beside each test."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import linalg, stats
from torch import Tensor

import jensen
from jensen.data.examples import Examples, Split
from jensen.data.space import Real
from jensen.distributions.divergence.permutations import labels
from jensen.distributions.divergence.samples import median_distance
from jensen.errors import InputError
from jensen.evaluation.two_sample import Measure, two_samples
from jensen.evaluation.two_sample.classifier import Waves, classifier
from jensen.evaluation.two_sample.extractor import Extractor, principal, scaled
from jensen.evaluation.two_sample.frechet import between_normals, frechet, kernel_distance
from jensen.evaluation.two_sample.gauge import Gauge, enough
from jensen.evaluation.two_sample.manifold import manifold, radii
from jensen.evaluation.two_sample.memory import Memory, copying, likelihood_gap, z_score
from jensen.evaluation.two_sample.network import labelled
from jensen.evaluation.two_sample.pairs import joint_error, pairs
from jensen.evaluation.two_sample.sliced import sliced
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise

F64 = torch.float64


def normal(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(n, d, dtype=F64, generator=torch.Generator().manual_seed(seed)) + shift


def uniform(p: list[float]) -> float:
    """The p-value of a Kolmogorov-Smirnov test that p-values on a grid of 1/(B + 1) are uniform."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, len(p)) / 40
    return float(stats.kstest(np.clip(np.array(p) + noise - 0.0125, 0, 1), "uniform").pvalue)


def measuring(name: str, d: int) -> Callable[[Tensor, Tensor, Tensor, int], list[Measure]]:
    """Measures of two samples, made ready with other rows of the real law."""
    reference = normal(300, d, 999)
    waves, width = Waves(reference), median_distance(reference)
    return {
        "classifier": lambda a, b, z, seed: [classifier(a, b, waves, z, seed)],
        "sliced": lambda a, b, z, seed: [sliced(a, b, z, seed)],
        "frechet": lambda a, b, z, seed: [frechet(a, b, z)],
        "pairs": lambda a, b, z, seed: pairs(a, b, width, z),
    }[name]


@pytest.mark.parametrize("name", ["classifier", "pairs", "sliced", "frechet"])
def test_p_values_of_one_law_are_uniform_and_a_shift_is_seen(name: str):
    """200 pairs of 40 rows: p uniform at 10⁻³, U statistics 0 in mean at 4 standard errors. A shift of 0.25 σ in each of 6 columns is
    seen in at least 8 of 10 pairs of 300, whose power is above 0.95 each: fewer with probability below 0.01.
    """
    measure = measuring(name, 3)
    same = [measure(normal(40, 3, 2 * i), normal(40, 3, 2 * i + 1), labels(40, 40, 39, i), i) for i in range(200)]
    for found in zip(*same, strict=True):
        assert uniform([m.p_value for m in found]) > 1e-3
        values = torch.tensor([m.value for m in found])
        if found[0].target is not None:
            assert abs(float(values.mean()) - found[0].target) < 4 * float(values.std()) / math.sqrt(200)
    measure = measuring(name, 6)
    moved = [
        measure(normal(300, 6, 2 * i), normal(300, 6, 2 * i + 1, 0.25), labels(300, 300, 39, i), i) for i in range(10)
    ]
    for found in zip(*moved, strict=True):
        assert sum(m.p_value < 0.05 for m in found) >= 8


@pytest.mark.parametrize("name", ["classifier", "pairs", "sliced", "frechet"])
def test_standard_errors_are_the_spread_over_repetitions(name: str):
    """100 pairs of 100 rows of two laws: root mean square of the errors over the standard deviation, which is known to 7 % itself."""
    measure = measuring(name, 3)
    repeated = [
        measure(normal(100, 3, 2 * i), normal(100, 3, 2 * i + 1, 0.5) * 1.2, labels(100, 100, 19, i), i)
        for i in range(100)
    ]
    for found in zip(*repeated, strict=True):
        errors, values = (torch.tensor([getattr(m, part) for m in found]) for part in ("stderr", "value"))
        assert 0.75 < float(errors.square().mean().sqrt() / values.std()) < 1.3, found[0].name


def test_errors_of_chance_are_taken_from_the_first_order_and_are_the_least():
    """√(first² - N²), and N where less is left; the first alone where none is permuted."""
    permuted = torch.tensor([9.0, -1.0, 1.0, 3.0, -2.0, 4.0], dtype=F64)
    chance = float(permuted[1:].var())
    assert joint_error(5.0, permuted) == pytest.approx(math.sqrt(25 - chance))
    assert joint_error(1.1 * math.sqrt(chance), permuted) == pytest.approx(math.sqrt(chance))
    assert joint_error(5.0, permuted[:1]) == 5.0


def test_a_classifiers_accuracy_is_that_of_the_best_one():
    """N(0, 1) against N(2, 1): the best classifier is right in Φ(1) of the cases; ½ where there is nothing to tell."""
    waves = Waves(normal(300, 1, 7))
    found = classifier(normal(3000, 1, 0), normal(3000, 1, 1, 2.0), waves, labels(3000, 3000, 0, 0))
    assert abs(found.value - stats.norm.cdf(1)) < 4 * found.stderr
    assert found.stderr == pytest.approx(math.sqrt(found.value * (1 - found.value) / 6000))
    waves, z = Waves(normal(300, 2, 7)), labels(200, 200, 0, 0)
    assert abs(
        np.mean([classifier(normal(200, 2, i), normal(200, 2, 900 + i), waves, z).value for i in range(60)]) - 0.5
    ) < 4 * 0.5 / math.sqrt(400 * 60)
    ring = torch.nn.functional.normalize(normal(800, 2, 5), dim=1) * 2
    assert classifier(normal(800, 2, 6), ring, waves, labels(800, 800, 0, 0)).value > 0.85, (
        "no line tells a ring from its middle"
    )


def test_pairs_are_those_of_brute_force_and_of_normals():
    """Sums written out; E|X - Y| of normals: N(0, 1) and N(1, 2²) at 4 standard errors; wide rows take their distances from products."""
    a, b, z = normal(12, 40, 0), normal(15, 40, 1, 0.3), labels(12, 15, 0, 0)
    far = [torch.cdist(x, y) for x, y in ((a, a), (b, b), (a, b))]
    near = [(-d.square() / 98).exp() for d in far]
    off = [(m.sum() - m.trace()) / (len(m) * (len(m) - 1)) for m in far[:2]]
    wanted = {
        "energy": 2 * far[2].mean() - far[0].mean() - far[1].mean(),
        "energy U": 2 * far[2].mean() - off[0] - off[1],
        "mmd": sum((m.sum() - m.trace()) / (len(m) * (len(m) - 1)) for m in near[:2]) - 2 * near[2].mean(),
    }
    assert {m.name: m.value for m in pairs(a, b, 7.0, z)} == pytest.approx(
        {k: float(v) for k, v in wanted.items()}, rel=1e-6
    )

    def apart(mean: float, sd: float) -> float:
        """E|N(mean, sd²)|."""
        return sd * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * sd**2)) + mean * math.erf(
            mean / (sd * math.sqrt(2))
        )

    truth = 2 * apart(1, math.sqrt(5)) - apart(0, math.sqrt(2)) - apart(0, math.sqrt(8))
    found = pairs(normal(1500, 1, 0), 1 + 2 * normal(1500, 1, 1), 1.0, labels(1500, 1500, 0, 0))[1]
    assert abs(found.value - truth) < 4 * found.stderr
    assert found.stderr < 0.1 * truth


def test_sliced_distance_of_a_shift_is_the_mean_projection():
    """Samples that are copies moved by v: W₁ along θ is |θᵀ v| exactly, with mean ‖v‖ E|θ₁| over directions."""
    x, z = normal(500, 3, 0), labels(500, 500, 0, 0)
    v = torch.tensor([0.3, -0.4, 1.2], dtype=F64)
    found = sliced(x, x + v, z).value
    assert abs(found / (float(v.norm()) * 0.5) - 1) < 0.2  # E|θ₁| = ½ in three dimensions; 64 directions
    assert sliced(x, x.flip(0), z).value == pytest.approx(0.0, abs=1e-12)
    line, z = normal(300, 1, 1), labels(300, 300, 0, 0)
    assert sliced(line, line + 0.7, z).value == pytest.approx(0.7)
    other = 2 * normal(200, 1, 2)
    wanted = stats.wasserstein_distance(line.flatten(), other.flatten())
    assert sliced(line, other, labels(300, 200, 0, 0)).value == pytest.approx(wanted)


def test_frechet_is_the_distance_of_the_normals():
    a, b = normal(400, 4, 0) @ normal(4, 4, 1), normal(300, 4, 2, 0.5)
    m1, m2, s1, s2 = a.mean(0), b.mean(0), a.T.cov(), b.T.cov()
    root = linalg.sqrtm((s1 @ s2).numpy()).real
    wanted = float((m1 - m2).square().sum() + (s1 + s2).trace()) - 2 * np.trace(root)
    assert frechet(a, b, labels(400, 300, 0, 0)).value == pytest.approx(wanted, rel=1e-8)
    assert between_normals(m1, s1, m1, s1) == pytest.approx(0.0, abs=1e-9)
    one = between_normals(
        torch.zeros(1, dtype=F64), torch.eye(1, dtype=F64), torch.ones(1, dtype=F64), 4 * torch.eye(1, dtype=F64)
    )
    assert one == pytest.approx(1 + 1)  # (μ₁ - μ₂)² + (σ₁ - σ₂)²
    assert "fewer rows than features" in frechet(normal(5, 9, 0), normal(30, 9, 1), labels(5, 30, 0, 0)).note


def test_kernel_distance_is_unbiased_and_sees_a_shift():
    """Brute force on one pair of blocks; mean 0 over 300 pairs of one law at 4 standard errors."""
    a, b = normal(40, 3, 0), normal(40, 3, 1, 0.3)
    k = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    blocks = []
    for x, y in ((a[:20], b[:20]), (a[20:], b[20:])):
        inside = sum(k(s[i], s[j]) for s in (x, y) for i in range(20) for j in range(20) if i != j) / (20 * 19)
        blocks.append(inside - 2 * sum(k(p, q) for p in x for q in y) / 400)
    assert kernel_distance(a, b).value == pytest.approx(np.mean(blocks), rel=1e-9)
    same = torch.tensor([kernel_distance(normal(60, 3, 2 * i), normal(60, 3, 2 * i + 1)).value for i in range(300)])
    assert abs(float(same.mean())) < 4 * float(same.std()) / math.sqrt(300)
    moved = [kernel_distance(normal(1000, 6, 2 * i), normal(1000, 6, 2 * i + 1, 0.25)) for i in range(10)]
    assert sum(m.value > 2 * m.stderr for m in moved) >= 9


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


def test_errors_of_balls_are_the_spread_over_repetitions():
    """60 pairs of 300 rows: within a factor of 1.6 of the standard deviation, which is known to 9 % itself."""
    found = [manifold(normal(300, 3, 2 * i), 1.2 * normal(300, 3, 2 * i + 1, 0.5)) for i in range(60)]
    for n, name in enumerate(("precision", "recall", "density", "coverage")):
        values, errors = (torch.tensor([getattr(f[n], part) for f in found]) for part in ("value", "stderr"))
        assert 0.6 < float(errors.square().mean().sqrt() / values.std()) < 1.6, name
    assert all(m.stderr is not None for m in manifold(normal(20, 2, 0), normal(20, 2, 1)))


def test_copies_are_seen_and_fresh_rows_are_not():
    train, test = normal(800, 4, 0), normal(300, 4, 1)
    memory = Memory(train, test)
    fresh = {m.name: m for m in memory.measures(normal(300, 4, 2))}
    assert abs(fresh["C_T"].value) < 4 * fresh["C_T"].stderr
    ratio = fresh["neighbour ratio"]
    assert abs(ratio.value - 1) < 4 * ratio.stderr
    copies = {m.name: m.value for m in memory.measures(train[:300] + 0.05 * normal(300, 4, 3))}
    assert copies["C_T"] < -6
    assert copies["neighbour ratio"] < 0.4
    far = {m.name: m.value for m in memory.measures(2 * normal(300, 4, 4))}
    assert far["C_T"] > 4
    assert {m.name: m.value for m in memory.measures(train[:300])}["neighbour ratio"] == 0
    same = [
        Memory(normal(400, 2, 3 * i), normal(150, 2, 3 * i + 1), i).measures(normal(150, 2, 3 * i + 2))
        for i in range(60)
    ]
    for n, middle in enumerate((1.0, 0.0)):
        values = torch.tensor([m[n].value for m in same])
        assert abs(float(values.mean()) - middle) < 4 * float(values.std()) / math.sqrt(60)
        errors = torch.tensor([m[n].stderr for m in same])
        assert 0.7 < float(errors.square().mean().sqrt() / values.std()) < 1.4
    none = copying(torch.ones(5), torch.ones(5), torch.zeros(5), torch.zeros(5))
    assert math.isnan(none[0])
    assert none[1] is None


def test_c_t_is_the_mean_of_z_scores_weighed_by_test_rows():
    """Two cells of 40 and 20 test rows, one too small to count."""
    drawn, test = normal(100, 1, 0).flatten(), normal(65, 1, 1, 0.4).flatten()
    a, b = torch.tensor([0] * 50 + [1] * 45 + [2] * 5), torch.tensor([0] * 40 + [1] * 20 + [2] * 5)
    z = [z_score(drawn[a == c], test[b == c]) for c in (0, 1)]
    value, error = copying(drawn, test, a, b)
    assert value == pytest.approx((40 * z[0] + 20 * z[1]) / 60)
    assert error == pytest.approx(math.hypot(40, 20) / 60)


def test_the_gap_of_likelihoods_has_the_error_of_different_rows():
    train, test = (
        LogLikelihood(
            normal(n, 1, n, shift).flatten(), "exact", "Lebesgue", "a normal", "exact", event_shape=(1,), rows=str(n)
        )
        for n, shift in ((80, 1.0), (50, 0.0))
    )
    found = likelihood_gap(train, test)
    assert found.value == pytest.approx(float(train.value.mean() - test.value.mean()))
    assert found.stderr == pytest.approx(math.sqrt(float(train.value.var() / 80 + test.value.var() / 50)))


def test_features_carry_their_name_and_what_they_are():
    x = normal(200, 5, 0) * torch.arange(1, 6)
    plain = scaled(x, False)
    pca = principal(x, plain, 2)
    assert pca.name == "pca-2"
    assert pca.digest == principal(x, plain, 2).digest != principal(x[:-1], plain, 2).digest
    values = torch.linalg.eigvalsh(x.T.cov()).flip(0)[:2]
    assert torch.allclose(pca(x).var(0) / values, (pca(x).var(0) / values)[:1].expand(2))
    assert float(pca(x).square().mean()) == pytest.approx(1.0)
    with pytest.raises(InputError, match=r"features odd must be finite numbers of shape \(3, d\)"):
        Extractor("odd", "0", lambda rows: rows.log())(-torch.ones(3, 2))
    assert torch.allclose(scaled(3 * x + 1, True)(3 * x + 1).std(0), torch.ones(5, dtype=F64))
    assert float(scaled(x, False)(x).square().mean()) == pytest.approx(1.0, abs=0.02)
    assert not torch.allclose(scaled(x, False)(x).std(0), torch.ones(5, dtype=F64), atol=0.1)


def test_features_of_labels_tell_classes_that_variance_does_not():
    """Two classes apart by 4 σ along one of five directions; the others vary 10 times as much and say nothing."""
    size = torch.tensor([1.0, 10, 10, 10, 10], dtype=F64)
    labels_of = [torch.arange(n) % 2 for n in (600, 200)]
    rows, fresh = (
        normal(len(y), 5, n) * size + torch.nn.functional.pad(4.0 * y[:, None].double(), (0, 4))
        for n, y in enumerate(labels_of)
    )
    vectors = scaled(rows, True)
    found = labelled(rows, labels_of[0], vectors, (fresh, labels_of[1]))
    share = float(found.name.split("labels, ")[1].split(" %")[0])
    assert share >= 94  # Φ(2) is 97.7 %; 200 rows
    assert found.digest != labelled(rows, labels_of[0], vectors, (fresh, labels_of[1]), seed=1).digest
    assert found(fresh).shape == (200, 64)
    apart = [
        float(torch.cdist(f[labels_of[1] == 0].mean(0)[None], f[labels_of[1] == 1].mean(0)[None]) / f.std(0).norm())
        for f in (found(fresh), principal(rows, vectors)(fresh))
    ]
    assert apart[0] > 1.5 * apart[1]


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
        InputError, match="from 20 rows to as many as the test rows and half of the training rows, 180, got 500"
    ):
        two_samples(run, split, rows=500)


def test_ceiling_rows_are_strangers_to_units_and_features():
    """Other ceiling rows change the ceiling and no unit, width or feature; half of the training rows are kept for these."""
    train, test = normal(60, 3, 0), normal(50, 3, 1)

    def gauge(x: Tensor) -> Gauge:
        parts = [Examples(part, torch.arange(len(part))) for part in (x, normal(20, 3, 2), test)]
        return Gauge(Split(*parts, Real()), enough(Split(*parts, Real()), None))

    first = gauge(train)
    assert first.count == 30
    moved = train.clone()
    moved[Noise(0, "two samples", "train").permutation(60)[:30]] += 100
    other = gauge(moved)
    assert (other.width, other.extractor.digest) == (first.width, first.extractor.digest)
    assert torch.equal(other.real, first.real)
    assert other.ceiling[1].value > 10 * first.ceiling[1].value
    weighed = Split(
        Examples(train, torch.arange(60), weight=torch.ones(60)), *[Examples(test, torch.arange(50))] * 2, Real()
    )
    with pytest.raises(InputError, match="count every row once, and these have weights"):
        enough(weighed, None)
    with pytest.raises(InputError, match="half of the training rows, 30, got 31"):
        parts = [Examples(part, torch.arange(len(part))) for part in (train, test, test)]
        enough(Split(*parts, Real()), 31)
    with pytest.raises(InputError, match="at least 20 test rows and 40 training rows, and there are 12 and 60"):
        enough(Split(parts[0], parts[1], parts[2].take(torch.arange(12)), Real()), None)
