"""EM (ORACLES law 20): it rises at every step, ends where the gradient is 0, and says so only then; weights and float32.

Nothing here pastes a value of a run: each test compares with a law or with scikit-learn from the same start.
"""

import math
import warnings

import numpy as np
import pytest
import torch
from analytic import mixture_2d, mixture_3d
from sklearn.mixture import GaussianMixture as Peer
from torch import Tensor

from jensen.data.examples import Batch, Examples
from jensen.errors import FitError, InputError
from jensen.mixture import em, seeding, threads
from jensen.mixture.ascent import ROUNDING, Gains, Settings
from jensen.mixture.covariance import LEAST_NOISE, WHOLE_DIMS, WORDS, Covariance, Factors, covariance_of
from jensen.mixture.density import Density
from jensen.mixture.em import Problem, Run, log_prior, maximise
from jensen.mixture.kernels import ALLOWED, Features, Whitened, kernel_for, ladder
from jensen.mixture.normals import Dense
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import weakly
from jensen.mixture.rows import Chunk, Chunks, scale_of
from jensen.mixture.search import grown
from jensen.mixture.seeding import clusters, sample_rows
from jensen.mixture.stepwise import Stepwise
from jensen.mixture.unconstrained import Unconstrained
from jensen.mixture.view import Everything, OnlyDiagonal, Projected, Whole
from jensen.noise import Noise

F64 = torch.float64
X = mixture_3d().sample(400, torch.Generator().manual_seed(0))
PROJECTED = "factors through projections"  # what factors are beyond WHOLE_DIMS
each_structure = pytest.mark.parametrize("word", [*WORDS, PROJECTED])


def with_holes(x: Tensor, share: float = 0.2) -> Tensor:
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share
    return x.masked_fill(holes, math.nan)


def structure(word: str, dims: int) -> Covariance:
    return Factors(1, WHOLE_DIMS + 1) if word == PROJECTED else covariance_of(word, dims, 1)


def problem_of(
    x: Tensor,
    word: str = "full",
    components: int = 3,
    *,
    weight: Tensor | None = None,
    rows: float = 1.0,
    counts: float = 0.3,
    **settings: float,
) -> Problem:
    covariance = structure(word, x.shape[1])
    chunks = Chunks(Examples(x, torch.arange(len(x)), weight=weight))
    scale = scale_of(chunks)
    within = clusters(chunks, scale, components, Noise(0, "test")).within(covariance)
    prior = weakly(within, scale.variance, counts=counts, rows=rows)
    return Problem(chunks, scale, covariance, prior, Settings(**settings))


def start_of(problem: Problem, components: int = 3) -> Parameters:
    return clusters(problem.chunks, problem.scale, components, Noise(0, "test")).start(problem)


def penalised(problem: Problem, parameters: Parameters) -> float:
    """A, from the density's own code and the definition of the prior."""
    chunk = next(problem.chunks.passing(1 << 20))
    density, prior = Density(parameters, problem.covariance), problem.prior
    log_likelihood = (density.log_prob(chunk.x) * chunk.weight).sum()
    covariances = problem.covariance.matrices(parameters.spread, parameters.components)
    mode = torch.diag(prior.mode) if prior.mode.ndim == 1 else prior.mode
    each = covariances.logdet() + (torch.linalg.inv(covariances) @ mode).diagonal(dim1=1, dim2=2).sum(1)
    penalty = prior.counts * parameters.weights.log().sum()
    penalty = penalty - 0.5 * prior.rows * each[: problem.covariance.different(parameters.components)].sum()
    return float((log_likelihood + penalty) / chunk.weight.sum())


@each_structure
@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("weighted", [False, True], ids=["even", "weighted"])
def test_every_step_rises(word: str, holes: bool, weighted: bool):
    """Judged by the definition of the penalised log-likelihood, not by the driver's own numbers."""
    weight = torch.rand(len(X), generator=torch.Generator().manual_seed(2), dtype=F64) * 3 if weighted else None
    problem = problem_of(with_holes(X) if holes else X, word, weight=weight)
    now = start_of(problem)
    values = [penalised(problem, now)]
    for _ in range(12):
        statistics = problem.expect(now)[0]
        assert problem.value(statistics, now) == pytest.approx(values[-1], abs=1e-11)
        now = maximise(statistics, problem.covariance, problem.prior, now)
        values.append(penalised(problem, now))
    assert min(np.diff(values)) > -1e-12
    assert values[-1] > values[0] + 1e-3


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
def test_the_gradient_is_zero_where_it_ends(word: str, holes: bool):
    x = with_holes(X[:150]) if holes else X[:150]
    problem = problem_of(x, word, 2, rows=3.0, tolerance=1e-14, max_iterations=3000)
    end = problem.ascend(start_of(problem, 2))
    assert end.converged
    now = end.parameters
    for _ in range(200):  # the driver ends where gains vanish in rounding, which a gradient does not yet
        now = maximise(problem.expect(now)[0], problem.covariance, problem.prior, now)
    free = Unconstrained(now, problem.covariance)
    value = differentiable(free, problem, x)
    assert float(value.detach()) == pytest.approx(end.value, abs=1e-10)
    value.backward()
    if word == "factors":  # where a noise variance stands at its least, it would rather be smaller
        stands = now.spread["noise"] <= (1 + 1e-9) * LEAST_NOISE * problem.prior.mode
        gradient = free.raw["noise"].grad
        assert bool((gradient[stands] <= 1e-8).all())
        gradient[stands] = 0.0
    assert max(float(p.grad.abs().max()) for p in free.parameters()) < 1e-8


def differentiable(free: Unconstrained, problem: Problem, x: Tensor) -> Tensor:
    """A as a function of free parameters; rows with missing cells one pattern after the other."""
    weights, spread = free.logits.softmax(0), problem.covariance.constrained(dict(free.raw.items()))
    matrices, total = problem.covariance.matrices(spread, len(weights)), torch.zeros((), dtype=F64)
    for pattern in torch.unique(~x.isnan(), dim=0):
        rows = x[(x.isnan() != pattern).all(1)][:, pattern]
        joint = Dense(free.means[:, pattern], matrices[:, pattern][:, :, pattern]).log_prob(rows)
        total = total + (joint + weights.log()[:, None]).logsumexp(0).sum()
    penalty = problem.prior.counts * weights.log().sum()
    normals = problem.covariance.normals(free.means, spread)
    return (total + penalty + problem.covariance.log_prior(normals, problem.prior)) / len(x)


@pytest.mark.parametrize(("word", "tolerance"), [("full", 1e-5), ("tied", 1e-5), ("diag", 1e-6)])
def test_converged_means_little_is_left(word: str, tolerance: float):
    """After ten times as many iterations again, the gain is at most three times the tolerance."""
    problem = problem_of(X, word, tolerance=tolerance)
    end = problem.ascend(start_of(problem))
    assert end.converged
    assert 0 <= end.remaining <= tolerance
    on = problem_of(X, word, tolerance=0.0, max_iterations=10 * end.iterations).ascend(end.parameters)
    assert -1e-12 < on.value - end.value < 3 * tolerance


def test_a_small_step_is_not_convergence():
    """Gains of 1e-6 that shrink by a thousandth each have 1e-3 still to come; ones that grow promise nothing."""
    gains = Gains()
    left = [gains.saw(1e-6 * 0.999**i) for i in range(5)]
    assert left[:3] == [math.inf] * 3
    assert left[4] == pytest.approx(1e-6 * 0.999**5 / 0.001, rel=1e-6)
    assert Gains().saw(0.0) == math.inf
    grows = Gains()
    assert [grows.saw(1e-6 * 1.1**i) for i in range(5)][-1] == math.inf


def test_what_is_still_to_come_is_judged_by_the_slowest_of_three_steps():
    """Gains 1, 0.5, 0.45, 0.225: their largest ratio is 0.9, so nine times the last gain may be left."""
    gains = Gains()
    assert [gains.saw(gain) for gain in (1.0, 0.5, 0.45, 0.225)][-1] == pytest.approx(9 * 0.225)


def test_running_out_of_iterations_is_not_convergence():
    problem = problem_of(X, max_iterations=3)
    end = problem.ascend(start_of(problem))
    assert (end.converged, end.iterations) == (False, 3)
    assert end.remaining > problem.settings.tolerance


def test_a_fall_stops_the_fit(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of(X)
    start = start_of(problem)

    def spoiled(*given: object) -> Parameters:
        right = maximise(*given)  # type: ignore[arg-type]
        return Parameters(right.weights, right.means + 0.5, right.spread)

    monkeypatch.setattr(em, "maximise", spoiled)
    with pytest.raises(FitError, match=r"fell by .* nats a row in iteration 1, more than rounding explains"):
        problem.ascend(start)


def test_a_fall_in_fast_arithmetic_is_tried_again_in_safe_arithmetic(monkeypatch: pytest.MonkeyPatch):
    """A float32 kernel that is worse than it says: the fit falls back on float64, and ends where float64 ends."""
    x = X.float()
    reference = problem_of(x.double(), tolerance=1e-9)
    truth = reference.ascend(start_of(reference))

    class Liar(Features):
        def over(self, chunk):
            found = super().over(chunk)
            off = 0.01 * found.weight * (self.theta.dtype == torch.float32) * float(self.theta.sum())
            return em.replace(found, log_likelihood=found.log_likelihood - off)

    monkeypatch.setattr("jensen.mixture.kernels.Features", Liar)
    problem = problem_of(x, tolerance=1e-9)
    end = problem.ascend(start_of(problem))
    assert "float64" in end.kernel
    assert end.value == pytest.approx(truth.value, abs=1e-7)


@each_structure
@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
def test_weights_are_repeated_rows(word: str, holes: bool):
    x = with_holes(X[:90]) if holes else X[:90]
    count = torch.arange(90) % 4
    options = {"tolerance": 0.0, "max_iterations": 25}
    weighted = problem_of(x, word, weight=count.double(), **options)
    repeated = problem_of(x.repeat_interleave(count, 0), word, **options)
    start = start_of(repeated)
    one, other = weighted.ascend(start), repeated.ascend(start)
    np.testing.assert_allclose(one.values, other.values, rtol=0, atol=1e-11)
    torch.testing.assert_close(one.parameters.means, other.parameters.means, rtol=1e-9, atol=1e-9)


class Stream:
    """Rows that are made when they are asked for, and never more than a chunk of them."""

    def __init__(self, x: Tensor, copies: int) -> None:
        self.x, self.copies, self.most = x, copies, 0

    def __len__(self) -> int:
        return self.copies * len(self.x)

    def batch(self, indices: Tensor | slice) -> Batch:
        index = torch.arange(len(self))[indices]
        self.most = max(self.most, len(index))
        return Batch(self.x[index % len(self.x)], index)


@pytest.mark.parametrize("word", ["full", "diag", PROJECTED])
def test_a_stream_gives_the_answer_of_memory(word: str, monkeypatch: pytest.MonkeyPatch):
    """Rows too many to keep are read chunk by chunk; to rounding the same ascent."""
    x = with_holes(X)
    kept = problem_of(x, word, tolerance=0.0, max_iterations=10)
    start = start_of(kept)
    monkeypatch.setattr("jensen.mixture.rows.KEPT_CELLS", 100)
    rows = Stream(x, 60)
    chunks = Chunks(rows)
    scale = scale_of(chunks)
    torch.testing.assert_close(scale.mean, kept.scale.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(scale.variance, kept.scale.variance, rtol=1e-12, atol=1e-12)
    prior = em.replace(kept.prior, rows=60 * kept.prior.rows, counts=60 * kept.prior.counts)
    streamed = Problem(chunks, scale, kept.covariance, prior, kept.settings).ascend(start)
    np.testing.assert_allclose(streamed.values, kept.ascend(start).values, rtol=0, atol=1e-11)
    assert rows.most <= 16384 < len(rows)


@pytest.mark.parametrize("word", ["full", "tied", "diag", "spherical"])
def test_float32_far_from_the_origin(word: str):
    """scikit-learn issue 30382: mean 1e4, standard deviation 1, in float32. The truth is float64 on the same numbers."""
    x = (1e4 + mixture_2d().sample(2000, torch.Generator().manual_seed(3))).float()
    options = {"tolerance": 1e-7, "max_iterations": 500}
    exact = problem_of(x.double(), word, **options)
    start = start_of(exact)
    fast = problem_of(x, word, **options)
    assert fast.expect(start)[1].name == "features, float32"
    truth, end = exact.ascend(start), fast.ascend(start)
    assert end.converged
    assert end.value == pytest.approx(truth.value, abs=1e-6)
    torch.testing.assert_close(end.parameters.means, truth.parameters.means, rtol=0, atol=2e-3)
    assert float(problem_of(x).covariance.variances(end.parameters.spread, 3).min() if word == "full" else 1) > 0


def test_rounding_is_bounded_as_stated():
    """20 mixtures, narrow and far out: the float32 kernels' total is within the stated noise of float64's, and their
    moments give the same M-step.
    """
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        d, components = 2 + seed % 5, 1 + seed % 4
        means = torch.randn(components, d, generator=g, dtype=F64) * 10 ** (seed % 3 - 1)
        root = torch.randn(components, d, d, generator=g, dtype=F64) * 10 ** -(seed % 4 / 2)
        covariances = root @ root.mT + 1e-3 * torch.eye(d, dtype=F64)
        weights = torch.rand(components, generator=g, dtype=F64)
        truth = Parameters(weights / weights.sum(), means, {"covariances": covariances})
        density = Density(truth, covariance_of("full", d, 1))
        u, eps = torch.rand(3000, generator=g, dtype=F64), torch.randn(3000, d, generator=g, dtype=F64)
        x = density.normal(density.pick(u), eps).float()
        problem = problem_of(x, "full", components)
        exact = float(density.log_prob(x).mean())
        chunk = next(problem.chunks.passing())
        for kernel in (
            Features(truth, problem.covariance, problem.scale.mean, torch.float32),
            Whitened(truth, problem.covariance, torch.float32),
            Features(truth, problem.covariance, problem.scale.mean, F64),
            Whitened(truth, problem.covariance, F64),
        ):
            found = kernel.over(chunk).log_likelihood / len(x)
            assert abs(found - exact) <= problem.rounding(kernel) + ROUNDING * abs(exact), kernel.name


@pytest.mark.parametrize(
    ("sd", "name"),
    [(1.0, "features, float32"), (3e-3, "features, float64"), (1e-7, "whitened, float64")],
)
def test_narrow_components_get_safe_arithmetic(sd: float, name: str):
    """At 10 from the origin and this wide: the first kernel whose stated rounding is allowed."""
    means = torch.tensor([[10.0, 0.0], [-10.0, 0.0]], dtype=F64)
    spread = {"covariances": sd**2 * torch.eye(2, dtype=F64).expand(2, 2, 2)}
    narrow = Parameters(torch.tensor([0.5, 0.5], dtype=F64), means, spread)
    kernel, _ = kernel_for(narrow, covariance_of("full", 2, 1), Whole(), torch.zeros(2, dtype=F64), torch.float32)
    assert kernel.name == name
    assert kernel.rounding <= ALLOWED


def test_rounding_that_rows_share_is_added_back():
    """The coefficients' own rounding in float32, over 10 seeds: with the correction the total is at least three times
    closer to float64's, summed over seeds.
    """
    with_it = without = 0.0
    for seed in range(10):
        g = torch.Generator().manual_seed(seed)
        means = 3 * torch.randn(2, 3, generator=g, dtype=F64)
        covariances = torch.eye(3, dtype=F64) * (0.01 + 0.05 * torch.rand(2, 1, 1, generator=g, dtype=F64))
        truth = Parameters(torch.tensor([0.4, 0.6], dtype=F64), means, {"covariances": covariances})
        density = Density(truth, covariance_of("full", 3, 1))
        u, eps = torch.rand(20_000, generator=g, dtype=F64), torch.randn(20_000, 3, generator=g, dtype=F64)
        problem = problem_of(density.normal(density.pick(u), eps).float(), "full", 2)
        chunk = next(problem.chunks.views())
        kernel = Features(truth, problem.covariance, problem.scale.mean, torch.float32)
        exact = float(density.log_prob(chunk.x).sum())
        with_it += abs(kernel.over(chunk).log_likelihood - exact)
        kernel.left = torch.zeros_like(kernel.left)
        without += abs(kernel.over(chunk).log_likelihood - exact)
    assert 3 * with_it < without


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("word", ["full", "diag"])
def test_both_kernels_give_the_definition(d: int, word: str):
    """Odd and even d: the features hold each pair once."""
    g = torch.Generator().manual_seed(d)
    x = torch.randn(700, d, generator=g, dtype=F64)
    weight = torch.rand(700, generator=g, dtype=F64)
    problem = problem_of(x, word, 3, weight=weight)
    now = start_of(problem)
    chunk = next(problem.chunks.passing())
    joint = Density(now, problem.covariance).log_joint(x)
    r = joint.softmax(1) * weight[:, None]
    count, mean = r.sum(0), (r.T @ x) / r.sum(0)[:, None]
    scatter = torch.einsum("bk,bkd,bke->kde", r, x[:, None] - mean, x[:, None] - mean)
    scatter = scatter if word == "full" else scatter.diagonal(dim1=1, dim2=2)
    for kind, dtype in {(Features, F64), (Whitened, F64)} | set(ladder(problem.covariance, d, F64)):
        kernel = (
            kind(now, problem.covariance, problem.scale.mean, dtype)
            if kind is Features
            else kind(now, problem.covariance, dtype)
        )
        found = kernel.over(chunk)
        assert found.log_likelihood == pytest.approx(float((joint.logsumexp(1) * weight).sum()), rel=1e-12)
        torch.testing.assert_close(found.count, count, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(found.means(now.means), mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.scatter(), scatter, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("holes", [False, True], ids=["complete", "holes"])
@pytest.mark.parametrize("word", ["factors", PROJECTED])
@pytest.mark.parametrize("lasting", [False, True])
def test_low_rank_statistics_are_those_of_the_matrices(word: str, holes: bool, lasting: bool):
    """The E-step without a d × d matrix against the dense one of the same Σ_k, seen through the same view."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(300, 5, generator=g, dtype=F64) @ torch.randn(5, 5, generator=g, dtype=F64) + 3
    x = with_holes(x, 0.3) if holes else x
    weight = torch.rand(300, generator=g, dtype=F64)
    problem = problem_of(x, word, 3, weight=weight)
    problem.covariance.rank = 2
    now = start_of(problem)
    found, kernel, _ = problem.expect(now, lasting=lasting)
    assert kernel.name == "factored, float64"
    dense = problem_of(x, "full", 3, weight=weight)
    matrices = problem.covariance.matrices(now.spread, 3)
    truth = dense.expect(Parameters(now.weights, now.means, {"covariances": matrices}))[0]
    assert found.log_likelihood == pytest.approx(truth.log_likelihood, rel=1e-12)
    torch.testing.assert_close(found.count, truth.count, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.means(now.means), truth.means(now.means), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.scatter(), found.view.of(truth.scatter()), rtol=1e-9, atol=1e-9)


def test_projections_end_where_whole_matrices_end():
    """Two ways to maximise factors, one maximum: 200 steps of each, three clusters in 6 dimensions, two factors."""
    g = torch.Generator().manual_seed(3)
    z, k = torch.randn(900, 2, generator=g, dtype=F64), torch.arange(900) % 3
    loadings, means = torch.randn(3, 6, 2, generator=g, dtype=F64), 4 * torch.randn(3, 6, generator=g, dtype=F64)
    x = means[k] + (loadings[k] @ z[:, :, None])[:, :, 0] + 0.5 * torch.randn(900, 6, generator=g, dtype=F64)
    ends = []
    for word in ("factors", PROJECTED):
        problem = problem_of(x, word, 3, tolerance=1e-10)
        problem.covariance.rank = 2
        ends.append(problem.ascend(start_of(problem)))
    assert all(end.converged for end in ends)
    assert ends[1].value == pytest.approx(ends[0].value, abs=1e-7)


def test_a_view_is_linear_and_picks():
    """What is kept of a sum is the sum of what is kept; a matrix and the rows it is the moment of give the same."""
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 9, 3, generator=g, dtype=F64)
    for view in (Whole(), OnlyDiagonal(), Projected(torch.randn(4, 3, 2, generator=g, dtype=F64)), Everything(4, 3)):
        seen = view.gram(rows, rows)
        for k in range(4):
            matrix = rows[k].T @ rows[k]
            torch.testing.assert_close(view.pick(torch.tensor([k])).of(matrix).reshape(seen[k].shape), seen[k])
        left, right = rows[:, 0], rows[:, 1]
        both = view.outer(left, right) + view.outer(right, left)
        torch.testing.assert_close(both, view.gram(rows[:, :2], rows[:, [1, 0]]))
        diagonal = torch.rand(3, generator=g, dtype=F64)
        torch.testing.assert_close(view.of(diagonal), view.of(torch.diag(diagonal)))
    assert not Projected(rows).same(Projected(rows + 1))


def test_statistics_add_and_move():
    """Halves sum to the whole; another centre changes neither means nor scatter."""
    problem = problem_of(with_holes(X))
    now = start_of(problem)
    whole = problem.expect(now)[0]
    halves = [problem_of(with_holes(X)[part]).expect(now)[0] for part in (slice(0, 170), slice(170, 400))]
    joined = halves[0] + halves[1]
    torch.testing.assert_close(joined.means(now.means), whole.means(now.means), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(joined.scatter(), whole.scatter(), rtol=1e-9, atol=1e-9)
    moved = whole.about(now.means + 1)
    torch.testing.assert_close(moved.scatter(), whole.scatter(), rtol=1e-9, atol=1e-9)
    assert joined.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)


@pytest.mark.parametrize("word", ["full", "tied", "diag", "spherical"])
def test_scikit_learn_agrees_from_the_same_start(word: str):
    """30 iterations of maximum likelihood on both sides; their 1e-6 on variances is the tolerance that is stated."""
    problem = problem_of(X, word, rows=0.0, counts=0.0, tolerance=0.0, max_iterations=30)
    start = start_of(problem)
    ours = problem.ascend(start)
    precisions = torch.linalg.inv(problem.covariance.matrices(start.spread, 3)).numpy()
    theirs = {
        "full": precisions,
        "tied": precisions[0],
        "diag": np.diagonal(precisions, axis1=1, axis2=2),
        "spherical": precisions[:, 0, 0],
    }[word]
    peer = Peer(
        3,
        covariance_type=word,
        tol=0,
        max_iter=30,
        reg_covar=0,
        weights_init=start.weights.numpy(),
        means_init=start.means.numpy(),
        precisions_init=theirs,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer.fit(X.numpy())
    np.testing.assert_allclose(ours.parameters.means.numpy(), peer.means_, atol=1e-8)
    np.testing.assert_allclose(ours.parameters.weights.numpy(), peer.weights_, atol=1e-9)
    assert ours.value == pytest.approx(peer.score(X.numpy()), abs=1e-10)


def test_no_component_collapses():
    """Fewer rows than dimensions in each component, and repeated rows: finite, positive definite, converged."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(24, 8, generator=g, dtype=F64)
    x = torch.cat([x, x[:1].expand(6, -1)])
    for word in ("full", "diag", "spherical", "factors"):
        problem = problem_of(x, word, 6, rows=1.0)
        end = problem.ascend(start_of(problem, 6))
        assert end.converged
        assert float(problem.covariance.matrices(end.parameters.spread, 6).logdet().min()) > -60
    with pytest.raises(FitError, match=r"covariance of component \d is not positive definite; give prior_rows above 0"):
        collapsing = problem_of(x, "full", 6, rows=0.0)
        collapsing.ascend(start_of(collapsing, 6))


def test_a_dead_component_is_moved():
    """A component that starts out of sight holds no row; moved to the least likely one it gains, and the log says so."""
    from jensen.mixture.rows import Chunks
    from jensen.mixture.selection import Task, fitted

    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(200, 2, generator=g, dtype=F64), torch.randn(200, 2, generator=g, dtype=F64) + 8])
    problem = problem_of(x, "full", 2)
    start = Parameters(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[4.0, 4.0], [1e4, 1e4]], dtype=F64),
        {"covariances": 20 * torch.eye(2, dtype=F64).expand(2, 2, 2)},
    )
    lines: list[str] = []
    chunks = Chunks(Examples(x, torch.arange(400)))
    task = Task(chunks, scale_of(chunks), problem.covariance, Settings(), 0.5, 1.0, 1, 0, lines.append, lambda *_: None)
    alone = problem.ascend(start)
    found = fitted(task, 2, start)
    assert found.ascent.value > alone.value + 0.5
    assert found.report["reseeded"] >= 1
    assert any("component 1 was dead" in line and "better, kept" in line for line in lines)


def test_factor_analysis_of_one_component_is_its_maximum():
    """K = 1, no prior: Lawley's condition diag(Σ) = diag(S), and a likelihood no less than probabilistic PCA's."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=g, dtype=F64) @ torch.tensor([[1.0, -2.0, 0.5, 1.0]], dtype=F64)
    x = x + torch.randn(500, 4, generator=g, dtype=F64) * torch.tensor([0.5, 1.0, 0.7, 0.3], dtype=F64)
    problem = problem_of(x, "factors", 1, rows=0.0, counts=0.0, tolerance=1e-13, max_iterations=2000)
    end = problem.ascend(start_of(problem, 1))
    covariance = problem.covariance.matrices(end.parameters.spread, 1)[0]
    sample = x.T.cov(correction=0)
    torch.testing.assert_close(covariance.diagonal(), sample.diagonal(), rtol=1e-6, atol=1e-6)
    inverse = torch.linalg.inv(covariance)
    residual = inverse @ (covariance - sample) @ inverse @ end.parameters.spread["loadings"][0]
    assert float(residual.abs().max()) < 1e-6


def test_stepwise_is_em_on_one_batch_and_close_to_it_over_many():
    problem = problem_of(X)
    start = start_of(problem)
    one = Stepwise(start, problem.covariance, problem.scale, problem.prior)
    one.step(problem.chunks)
    em_step = maximise(problem.expect(start)[0], problem.covariance, problem.prior, start)
    torch.testing.assert_close(one.parameters.means, em_step.means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        one.parameters.spread["covariances"], em_step.spread["covariances"], rtol=1e-9, atol=1e-9
    )
    world = mixture_2d()
    x = world.sample(6000, torch.Generator().manual_seed(5))
    whole = problem_of(x, tolerance=1e-8)
    begin = start_of(whole)
    end = whole.ascend(begin)
    follower = Stepwise(begin, whole.covariance, whole.scale, whole.prior)
    for _ in range(3):
        for rows in x.split(200):
            follower.step(problem_of(rows).chunks)
    assert whole.value(whole.expect(follower.parameters)[0], follower.parameters) > end.value - 5e-3


@pytest.mark.parametrize(
    ("x", "weight", "message"),
    [
        (torch.tensor([[1.0, math.inf], [0.0, 1.0]]), None, "infinite"),
        (torch.tensor([[1.0, 5.0], [0.0, 5.0]]), None, r"column 2 \(counted from 1\) is constant .* \(value 5\)"),
        (torch.tensor([[1.0, math.nan], [0.0, math.nan]]), None, r"column 2 \(counted from 1\) has no values"),
        (torch.tensor([[1.0], [0.0]]), torch.tensor([1.0, -1.0]), "weights must be finite and at least 0"),
        (torch.zeros(0, 2), None, "no rows to fit"),
    ],
)
def test_what_cannot_be_fitted_is_refused(x: Tensor, weight: Tensor | None, message: str):
    with pytest.raises(InputError, match=message):
        scale_of(Chunks(Examples(x, torch.arange(len(x)), weight=weight)))


def test_the_penalty_is_the_prior_of_the_docstring():
    problem = problem_of(X, rows=2.0, counts=0.7)
    now = start_of(problem)
    assert log_prior(now, problem.covariance, problem.prior) == pytest.approx(
        len(X) * (penalised(problem, now) - float(Density(now, problem.covariance).log_prob(X).mean())), rel=1e-9
    )


def test_an_ascent_reports_itself():
    problem = problem_of(X, "diag")
    end: Run = problem.ascend(start_of(problem))
    assert end.iterations == len(end.values) - 1
    assert end.value == end.values[-1]
    assert "features" in end.kernel


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("rank", [2, 4])
def test_free_parameters_are_the_directions_a_covariance_can_move_in(word: str, rank: int):
    """The rank of the Jacobian of all Σ_k in the unconstrained tensors: two components in 5 dimensions, seed 0. With rank
    4 there are more loadings than a matrix has numbers.
    """
    covariance, g = covariance_of(word, 5, rank), torch.Generator().manual_seed(0)
    raw = {name: torch.randn(shape, generator=g, dtype=F64) for name, shape in covariance.shapes(2, 5).items()}

    def matrices(*tensors: Tensor) -> Tensor:
        return covariance.matrices(covariance.constrained(dict(zip(raw, tensors, strict=True))), 2)

    parts = torch.autograd.functional.jacobian(matrices, tuple(raw.values()))
    jacobian = torch.cat([part.reshape(2 * 5 * 5, -1) for part in parts], 1)
    assert int(torch.linalg.matrix_rank(jacobian)) == covariance.free(2, 5)


def test_the_least_noise_is_each_columns_own():
    """Two columns that are one and the same leave no noise; in other units the same fit, least noise and all."""
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    x[:, 2] = x[:, 1]
    scale, found = torch.tensor([0.01, 1.0, 30.0], dtype=F64), []
    for units in (torch.ones(3, dtype=F64), scale):
        problem = problem_of(x * units, "factors", 1, rows=0.0, counts=0.0, tolerance=1e-5)
        noise = problem.ascend(start_of(problem, 1)).parameters.spread["noise"][0]
        assert float((noise / (LEAST_NOISE * problem.prior.mode)).min()) == pytest.approx(1)
        found.append(noise)
    torch.testing.assert_close(found[1], found[0] * scale**2, rtol=1e-3, atol=0)


def three_of_which_one_is_out_of_sight(weight: float) -> tuple[Problem, Run]:
    """A large cluster, a small one, and a component that no row of this weight belongs to."""
    x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    x[200:] += 20
    x[17] = torch.tensor([-30.0, math.nan])
    start = Parameters(
        torch.tensor([0.4, 0.3, 0.3], dtype=F64),
        torch.tensor([[0.0, 0.0], [1e5, 1e5], [20.0, 20.0]], dtype=F64),
        {"covariances": torch.eye(2, dtype=F64).expand(3, 2, 2)},
    )
    problem = problem_of(x, weight=torch.full((300,), weight, dtype=F64), rows=weight, counts=0.0, max_iterations=1)
    return problem, problem.ascend(start)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1e3])
def test_a_dead_component_gets_the_least_likely_row_and_half_of_the_fullest(weight: float):
    """Whatever rows weigh. The row's missing cell stands at the mean of the data; the other components stay."""
    problem, end = three_of_which_one_is_out_of_sight(weight)
    moved = em.reseeded(end, problem, problem.chunks.at(torch.arange(300)))
    assert moved is not None
    start, dead = moved
    assert dead == 1
    torch.testing.assert_close(start.means[1], torch.stack([torch.tensor(-30.0, dtype=F64), problem.scale.mean[1]]))
    count = end.statistics.count
    shares = torch.stack([0.5 * count[0], 0.5 * count[0], count[2]])
    torch.testing.assert_close(start.weights, shares / shares.sum(), rtol=1e-9, atol=0)
    now = maximise(end.statistics, problem.covariance, problem.prior, end.parameters)
    torch.testing.assert_close(start.means[[0, 2]], now.means[[0, 2]], rtol=1e-9, atol=1e-9)
    alive = em.replace(end, statistics=em.replace(end.statistics, count=count.clamp(min=2 * weight)))
    assert em.reseeded(alive, problem, problem.chunks.at(torch.arange(300))) is None


@pytest.mark.parametrize("word", ["full", "diag"])
def test_float32_statistics_are_about_the_origin_that_was_subtracted(word: str):
    """At 1e4 + 3e-4, which float32 rounds by 3e-4: means and scatter agree with float64's on the same rows to 3e-5."""
    origin = torch.full((2,), 1e4 + 3e-4, dtype=F64)
    x = (origin + torch.randn(1000, 2, generator=torch.Generator().manual_seed(0), dtype=F64)).float()
    covariance = covariance_of(word, 2, 1)
    spread = {
        "full": {"covariances": torch.eye(2, dtype=F64)[None]},
        "diag": {"variances": torch.ones(1, 2, dtype=F64)},
    }
    one = Parameters(torch.ones(1, dtype=F64), origin[None], spread[word])
    found = Features(one, covariance, origin, torch.float32).over(Chunk(x, torch.ones(1000)))
    torch.testing.assert_close(found.means(one.means)[0], x.double().mean(0), rtol=0, atol=3e-5)


@pytest.mark.parametrize("correlated", [True, False])
def test_the_priors_covariance_is_that_inside_clusters(correlated: bool):
    """Two clusters a thousand apart: the pooled, unbiased covariance about their own means (1 % softened, plus a millionth
    of the variance of all rows), however far apart they are; weights count as repeated rows.
    """
    g = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(n, 2, generator=g, dtype=F64) @ torch.tensor([[2.0, 0.3], [0.0, 1.0]], dtype=F64) for n in (60, 90)
    ]
    x = torch.cat([parts[0] + 1000, parts[1]])
    count = torch.randint(1, 3, (150,), generator=g)
    problem = problem_of(x, "full" if correlated else "diag", 2, weight=count.double())
    repeated = [part.repeat_interleave(c, 0) for part, c in zip(parts, count.split([60, 90]), strict=True)]
    pooled = sum((part - part.mean(0)).T @ (part - part.mean(0)) for part in repeated) / (int(count.sum()) - 2)
    floor = torch.diag(1e-6 * problem.scale.variance)
    if correlated:
        softened = 0.99 * pooled + 0.01 * torch.diag(pooled.diagonal()) + floor
        torch.testing.assert_close(problem.prior.mode, softened, rtol=1e-9, atol=1e-9)
    else:
        torch.testing.assert_close(problem.prior.mode, (pooled + floor).diagonal(), rtol=1e-9, atol=1e-9)


def test_the_prior_takes_its_variances_from_observed_cells():
    """One cluster: a variance is that of the cells that are there, over their number less one."""
    x = with_holes(X)
    prior = problem_of(x, "diag", 1).prior
    for j in range(3):
        seen = x[:, j][~x[:, j].isnan()]
        assert float(prior.mode[j]) == pytest.approx(float(seen.var()), rel=1e-5)


def test_small_clusters_far_apart_are_not_widened():
    """Five clusters of sd 1, some hundred apart, 30 rows each, with the default weight d/2 of the prior: held-out rows cost
    at most 0.6 nats more than under the truth (the covariance of all rows as the prior's cost more than 6).
    """
    g = torch.Generator().manual_seed(1)
    centres = 100 * torch.randn(5, 4, generator=g, dtype=F64)
    rows = [centres.repeat_interleave(n, 0) + torch.randn(5 * n, 4, generator=g, dtype=F64) for n in (30, 200)]
    problem = problem_of(rows[0], "full", 5, rows=2.0, counts=1.0)
    end = problem.ascend(start_of(problem, 5)).parameters
    truth = Parameters(
        torch.full((5,), 0.2, dtype=F64), centres, {"covariances": torch.eye(4, dtype=F64).expand(5, 4, 4)}
    )
    cost = [float(Density(p, problem.covariance).log_prob(rows[1]).mean()) for p in (truth, end)]
    assert cost[0] - cost[1] < 0.6


def test_a_component_that_narrows_in_one_step_is_fitted_in_float32():
    """Half of the rows within 1e-4 of a point, started wide: the scatter of the first step is lost in float32, and the fit
    goes on in arithmetic that keeps it; it ends where float64 ends.
    """
    g = torch.Generator().manual_seed(0)
    spot = torch.tensor([3.3, 3.7], dtype=F64) + 1e-4 * torch.randn(3000, 2, generator=g, dtype=F64)
    x = torch.cat([torch.randn(3000, 2, generator=g, dtype=F64), spot]).float()
    start = Parameters(
        torch.tensor([0.5, 0.5], dtype=F64),
        torch.tensor([[0.0, 0.0], [3.0, 3.0]], dtype=F64),
        {"covariances": 0.5 * torch.eye(2, dtype=F64).expand(2, 2, 2)},
    )
    ends = [problem_of(rows, "full", 2, rows=1e-4).ascend(start) for rows in (x, x.double())]
    assert all(end.converged for end in ends)
    assert ends[0].value == pytest.approx(ends[1].value, abs=1e-3)


def test_a_centre_is_drawn_by_its_squared_distance_and_the_better_of_two_is_taken():
    """Rows 0, 1 and 10 of weights 10^9, 100 and 1: after 0 either is drawn half of the time, and 1 lowers the total more,
    so 10 is taken only where both draws say so. 300 seeds, 4.5 standard errors.
    """
    rows, weight = torch.tensor([[0.0], [1.0], [10.0]], dtype=F64), torch.tensor([1e9, 100.0, 1.0], dtype=F64)
    taken = torch.stack([seeding._plus_plus(rows, weight, 2, Noise(seed, "test"))[:, 0] for seed in range(300)])
    assert set(taken[:, 0].tolist()) == {0.0}
    assert set(taken[:, 1].tolist()) == {1.0, 10.0}
    assert abs(float((taken[:, 1] == 10).double().mean()) - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / 300)


def test_a_start_from_a_sample_weighs_as_much_as_all_rows(monkeypatch: pytest.MonkeyPatch):
    """One component: 100 of 400 rows count as 400 beside the 400 rows of the prior."""
    monkeypatch.setattr(seeding, "SAMPLE", 100)
    problem, noise = problem_of(X, components=1, rows=400.0), Noise(0, "test")
    sample = sample_rows(problem.chunks, 100, noise.at("rows")).x
    expected = (400 * sample.T.cov(correction=0) + 400 * problem.prior.mode) / 800
    start = clusters(problem.chunks, problem.scale, 1, noise).start(problem)
    torch.testing.assert_close(start.spread["covariances"][0], expected)


def test_a_sample_of_very_many_rows_is_from_all_over(monkeypatch: pytest.MonkeyPatch):
    """Rows that are too many to be permuted: different ones, none twice, in both halves (seed 0)."""
    monkeypatch.setattr(seeding, "ALL_POSITIONS", 10)
    problem = problem_of(torch.stack([torch.arange(1000.0), torch.randn(1000)], 1))
    number = sample_rows(problem.chunks, 50, Noise(0, "test")).x[:, 0]
    assert 40 < len(set(number.tolist())) == len(number) <= 50
    assert 10 < int((number < 500).sum()) < 40


@pytest.mark.parametrize("exponent", [1.0, 0.7])
def test_stepwise_weighs_batches_as_it_says(exponent: float):
    """One component, five batches of 80 rows: batch t has weight γ_t ∏_{s>t} (1 - γ_s), the same for all where γ_t = 1/t;
    the prior counts beside all 400 rows.
    """
    batches = X.split(80)
    first = problem_of(batches[0], components=1, rows=50.0)
    follower = Stepwise(start_of(first, 1), first.covariance, first.scale, first.prior)
    for rows in batches:
        follower.step(problem_of(rows, components=1).chunks, exponent)
    share = torch.zeros(5, dtype=F64)
    for t in range(5):
        rate = (t + 1) ** -exponent
        share *= 1 - rate
        share[t] = rate
    if exponent == 1:
        torch.testing.assert_close(share, torch.full((5,), 0.2, dtype=F64))
    weight = share.repeat_interleave(80)[:, None] * 5
    mean = (weight * X).mean(0)
    scatter = (weight * (X - mean)).T @ (X - mean)
    torch.testing.assert_close(follower.parameters.means[0], mean)
    torch.testing.assert_close(follower.parameters.spread["covariances"][0], (scatter + 50 * first.prior.mode) / 450)


def test_threads_take_every_row_once_and_are_put_back(monkeypatch: pytest.MonkeyPatch):
    """Three threads, 200 rows: their slices in order are the rows, each on a thread of single-threaded arithmetic."""
    monkeypatch.setattr(threads, "FEWEST", 50)
    inside: list[int] = []

    def counted(chunk):
        inside.append(torch.get_num_threads())
        return chunk

    before, chunk = torch.get_num_threads(), Chunk(X[:200], torch.ones(200, dtype=F64))
    torch.set_num_threads(3)
    try:
        parts = threads.side_by_side(counted, chunk)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert inside == [1, 1, 1]
    assert torch.equal(torch.cat([part.x for part in parts]), X[:200])


def test_a_number_grows_until_two_in_a_row_are_no_better():
    """1, 2, 3, 4, 6, 8, …: values that rise to 3 and once more at 6, which one bad number between does not hide."""
    values = {1: 0.0, 2: 1.0, 3: 3.0, 4: 2.0, 6: 4.0, 8: 4.0, 12: 3.0, 16: 9.0}
    best, curve = grown(100, lambda number: (values[number], f"kept {number}"))
    assert best == "kept 6"
    assert curve == [(n, values[n]) for n in (1, 2, 3, 4, 6, 8, 12)]
    assert grown(1, lambda number: (0.0, number)) == (1, [(1, 0.0)])
