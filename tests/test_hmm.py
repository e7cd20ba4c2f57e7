"""Hidden Markov models (ORACLES law 21): both recursions, Viterbi, posteriors and Baum–Welch against enumeration of all paths.

The enumeration uses nothing of `jensen.hmm`: it sums exp(log π + Σ log A + Σ log p(x_t | z_t)) over K^T paths, with densities
from scipy. Nothing here pastes a value of a run.
"""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.data.examples import Examples
from jensen.data.space import Levels
from jensen.errors import FitError, InputError
from jensen.hmm import em, lognormal, products
from jensen.hmm.chain import Chain, Passes
from jensen.hmm.em import Parameters, Problem
from jensen.hmm.layout import Layout, Steps, lengths
from jensen.hmm.levels import LevelEmission
from jensen.hmm.logarithms import LogPasses
from jensen.hmm.lognormal import log_normals
from jensen.hmm.markov import posterior, prior
from jensen.hmm.normal import NormalEmission
from jensen.hmm.recursion import ScaledPasses, passes
from jensen.hmm.scan import segments
from jensen.hmm.sequences import Sequences, at_once, over_blocks
from jensen.hmm.viterbi import viterbi
from jensen.mixture.ascent import Settings
from jensen.mixture.covariance import covariance_of
from jensen.mixture.parameters import Parameters as MixtureParameters
from jensen.mixture.prior import Prior

F64 = torch.float64
K, D, T = 3, 2, 6
EMISSIONS = ("diag", "full", "tied", "spherical", "mixture diag", "mixture full", "levels")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def simplex(*shape: int, seed: int = 0) -> Tensor:
    raw = torch.rand(*shape, generator=generator(seed), dtype=F64) + 0.05
    return raw / raw.sum(-1, keepdim=True)


def chain_of(states: int = K, seed: int = 1) -> Chain:
    return Chain(simplex(states, seed=seed), simplex(states, states, seed=seed + 1))


def emission_of(word: str) -> LevelEmission | NormalEmission:
    if word == "levels":
        return LevelEmission(simplex(K, D, 4, seed=3), Levels(4), 0.5)
    several, structure = (2 if word.startswith("mixture") else 1), word.rpartition(" ")[2]
    n, draw = K * several, generator(5)
    means = torch.randn(n, D, generator=draw, dtype=F64)
    root = torch.randn(n, D, D, generator=draw, dtype=F64) * 0.4 + 0.6 * torch.eye(D)
    matrices = root @ root.mT + 0.1 * torch.eye(D)
    spread = {
        "full": {"covariances": matrices},
        "tied": {"covariance": matrices[0]},
        "diag": {"variances": matrices.diagonal(dim1=1, dim2=2).clone()},
        "spherical": {"variances": matrices[:, :1, 0].clone()},
    }[structure]
    weights = simplex(K, several, seed=6).flatten()
    covariance = covariance_of(structure, D, 1)
    mode = torch.eye(D, dtype=F64) if covariance.correlations else torch.ones(D, dtype=F64)
    scale = Prior(0.7, 1.5, mode)
    return NormalEmission(MixtureParameters(weights, means, spread), covariance, K, scale, torch.zeros(D, dtype=F64))


def rows_of(word: str, count: int = 7, times: int = T, seed: int = 0, *, holes: bool = True) -> Tensor:
    """Steps `(T, B, D)`: the first row complete, others with cells, whole steps, ends and everything missing."""
    if word == "levels":
        x = torch.randint(4, (times, count, D), generator=generator(seed)).to(F64)
    else:
        x = 1.5 * torch.randn(times, count, D, generator=generator(seed), dtype=F64)
    if holes:
        x[1, 1, 0] = x[3, 1, 1] = math.nan
        x[2, 2] = math.nan
        x[0, 3] = math.nan
        x[times - 2 :, 4] = math.nan
        x[1:, 5] = math.nan
        x[:, 6] = math.nan
    return x


def cell_log_prob(emission: LevelEmission | NormalEmission, k: int, x: np.ndarray[Any, Any]) -> float:
    """log p of the observed cells of one step by scipy."""
    seen = ~np.isnan(x)
    if not seen.any():
        return 0.0
    if isinstance(emission, LevelEmission):
        return float(sum(math.log(emission.probabilities[k, j, int(x[j])]) for j in range(D) if seen[j]))
    several = emission.components
    own = range(k * several, (k + 1) * several)
    matrices = emission.covariance.matrices(emission.parameters.spread, emission.parameters.components).numpy()
    parts = [
        math.log(emission.parameters.weights[c])
        + stats.multivariate_normal.logpdf(
            x[seen], emission.parameters.means[c].numpy()[seen], matrices[c][np.ix_(seen, seen)]
        )
        for c in own
    ]
    return float(np.logaddexp.reduce(parts))


def every_path(chain: Chain, emission: LevelEmission | NormalEmission, x: Tensor) -> tuple[Any, Any]:
    """All paths of a sequence `(T, D)` up to its end, and log p(x, path)."""
    end = int(lengths(x[:, None])[0])
    table = np.array([[cell_log_prob(emission, k, step) for k in range(K)] for step in x[:end].numpy()])
    paths = np.array(list(itertools.product(range(K), repeat=end)))
    log_a, log_pi = np.log(chain.transitions.numpy()), np.log(chain.initial.numpy())
    joint = log_pi[paths[:, 0]] + table[np.arange(end), paths].sum(1)
    return paths, joint + log_a[paths[:, :-1], paths[:, 1:]].sum(1)


each_emission = pytest.mark.parametrize("word", EMISSIONS)
each_arithmetic = pytest.mark.parametrize("kind", [ScaledPasses, LogPasses])


@each_emission
@each_arithmetic
def test_both_recursions_are_the_sum_over_all_paths(word: str, kind: type[Passes]):
    """log p(x), p(z_t | x), Σ p(z_t, z_{t+1} | x) to 1e-12, with missing cells, missing steps, short and empty sequences."""
    chain, emission, x = chain_of(), emission_of(word), rows_of(word)
    weight = torch.arange(1, 8, dtype=F64)
    both = kind(chain, emission.log_prob(x), lengths(x))
    found, moves = both.posterior(), np.zeros((K, K))
    for b in range(6):
        paths, joint = every_path(chain, emission, x[:, b])
        value = np.logaddexp.reduce(joint)
        share = np.exp(joint - value)
        assert float(both.log_evidence[b]) == pytest.approx(value, rel=1e-12, abs=1e-12)
        for t in range(paths.shape[1]):
            marginal = [share[paths[:, t] == k].sum() for k in range(K)]
            np.testing.assert_allclose(found[t, :, b].numpy(), marginal, atol=1e-12)
            if t:
                np.add.at(moves, (paths[:, t - 1], paths[:, t]), float(weight[b]) * share)
    assert float(both.log_evidence[6]) == 0.0
    np.testing.assert_allclose(both.transitions(weight).numpy(), moves, atol=1e-11)


@each_emission
def test_the_backward_recursion_gives_the_same_likelihood(word: str):
    chain, emission, x = chain_of(), emission_of(word), rows_of(word)
    log_b = emission.log_prob(x)
    both = LogPasses(chain, log_b, lengths(x))
    backward = (chain.initial.log()[:, None] + log_b[0] + both.beta[0]).logsumexp(0)
    torch.testing.assert_close(backward, both.log_evidence, rtol=1e-12, atol=1e-12)


@each_emission
def test_viterbi_is_the_best_of_all_paths(word: str):
    chain, emission, x = chain_of(), emission_of(word), rows_of(word)
    found, value = viterbi(chain, emission.log_prob(x), lengths(x))
    for b in range(6):
        paths, joint = every_path(chain, emission, x[:, b])
        assert found[: paths.shape[1], b].tolist() == paths[joint.argmax()].tolist()
        assert bool((found[paths.shape[1] :, b] == -1).all())
        assert float(value[b]) == pytest.approx(joint.max(), rel=1e-12)
    assert found[:, 6].tolist() == [-1] * T


def test_a_path_does_not_know_what_would_follow_its_end():
    """States take turns, so a step more would end in the other one."""
    chain = Chain(torch.full((2,), 0.5, dtype=F64), torch.tensor([[0.01, 0.99], [0.99, 0.01]], dtype=F64))
    log_b = torch.zeros(5, 2, 1, dtype=F64)
    log_b[0, 0] = -5.0
    assert viterbi(chain, log_b, torch.tensor([3]))[0][:, 0].tolist() == [1, 0, 1, -1, -1]


def test_zeros_in_the_chain_are_exact():
    """Left to right: what cannot be left or reached gets probability 0, and a lone path its own likelihood."""
    chain = Chain(torch.tensor([1.0, 0, 0], dtype=F64), torch.tensor([[0.5, 0.5, 0], [0, 0, 1], [0, 0, 1]], dtype=F64))
    emission, x = emission_of("full"), rows_of("full")
    assert isinstance(passes(chain, emission.log_prob(x), lengths(x)), LogPasses)
    both = passes(chain, emission.log_prob(x), lengths(x))
    with np.errstate(divide="ignore"):
        for b in range(6):
            _, joint = every_path(chain, emission, x[:, b])
            assert float(both.log_evidence[b]) == pytest.approx(np.logaddexp.reduce(joint), rel=1e-12)
    paths, _ = viterbi(chain, emission.log_prob(x), lengths(x))
    assert paths[:, 0].tolist() == sorted(paths[:, 0].tolist())
    assert not bool(both.transitions(torch.ones(7, dtype=F64))[1, 0])


def test_a_transition_that_is_impossible_is_not_scaled_away():
    """State 1 cannot be left, and what follows is 1e-400 there: log p is that of starting in state 0."""
    chain = Chain(torch.tensor([0.5, 0.5], dtype=F64), torch.eye(2, dtype=F64))
    log_b = torch.tensor([[[-400.0], [0.0]], [[0.0], [-900.0]]], dtype=F64)
    both = passes(chain, log_b, torch.tensor([2]))
    assert float(both.log_evidence) == pytest.approx(math.log(0.5) - 400, rel=1e-14)
    assert float(both.posterior()[0, 0]) == pytest.approx(1)


def test_a_start_that_is_impossible_is_not_scaled_away():
    """π has a zero where b is 1e300 times larger: scaled arithmetic would answer with its floor."""
    chain = Chain(torch.tensor([1.0, 0.0], dtype=F64), simplex(2, 2))
    log_b = torch.tensor([[[-1000.0], [0.0]]], dtype=F64)
    assert float(passes(chain, log_b, torch.tensor([1])).log_evidence) == -1000.0


@pytest.mark.parametrize("size", [50.0, 2000.0])
def test_scaled_arithmetic_loses_nothing_where_emissions_differ_by_hundreds_of_nats(size: float):
    chain = chain_of(4)
    log_b = -size * torch.rand(40, 4, 50, generator=generator(2), dtype=F64) ** 4
    ends = torch.full((50,), 40)
    one, other = ScaledPasses(chain, log_b, ends), LogPasses(chain, log_b, ends)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=1e-13, atol=0)
    torch.testing.assert_close(one.posterior(), other.posterior(), rtol=0, atol=1e-11)
    weight = torch.ones(50, dtype=F64)
    torch.testing.assert_close(one.transitions(weight), other.transitions(weight), rtol=1e-11, atol=1e-11)


def test_a_transition_of_the_smallest_size_is_scaled_exactly():
    tiny = 1e-12
    chain = Chain(
        torch.tensor([1 - tiny, tiny], dtype=F64), torch.tensor([[1 - tiny, tiny], [tiny, 1 - tiny]], dtype=F64)
    )
    log_b = -300.0 * torch.rand(64, 2, 30, generator=generator(4), dtype=F64)
    log_b[:, :, :10] = torch.tensor([-240.0, 0.0], dtype=F64)[:, None]
    ends = torch.full((30,), 64)
    assert isinstance(passes(chain, log_b, ends), ScaledPasses)
    one, other = passes(chain, log_b, ends), LogPasses(chain, log_b, ends)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.posterior(), other.posterior(), rtol=0, atol=1e-10)


def test_steps_that_nothing_explains_make_a_row_impossible_and_leave_the_others_alone():
    """b is 0 in every state for 20 steps: log p is -∞, not NaN; the row beside it keeps its bits."""
    chain, log_b = chain_of(), -torch.rand(40, K, 50, generator=generator(2), dtype=F64)
    ends = torch.full((50,), 40)
    before = ScaledPasses(chain, log_b, ends).log_evidence
    log_b[5:25, :, 3] = -math.inf
    both = ScaledPasses(chain, log_b, ends)
    assert float(both.log_evidence[3]) == -math.inf
    others = torch.arange(50) != 3
    assert torch.equal(both.log_evidence[others], before[others])
    assert bool(both.posterior().isfinite().all())


@pytest.mark.parametrize("cells", [1, 100, 1 << 20])
def test_products_in_logarithms_come_in_pieces(cells: int, monkeypatch: pytest.MonkeyPatch):
    """The same recursions and paths however many numbers a sum may hold; no more than that, or one row, is held."""
    monkeypatch.setattr(products, "CELLS", cells)
    chain, emission, x = chain_of(), emission_of("full"), rows_of("full")
    log_b, ends, weight = emission.log_prob(x), lengths(x), torch.rand(7, generator=generator(), dtype=F64)
    one, other = LogPasses(chain, log_b, ends), ScaledPasses(chain, log_b, ends)
    torch.testing.assert_close(one.log_evidence, other.log_evidence, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(one.posterior(), other.posterior(), rtol=0, atol=1e-13)
    torch.testing.assert_close(one.transitions(weight), other.transitions(weight), rtol=1e-12, atol=1e-12)
    log_a, log_v = torch.randn(9, 5, generator=generator(3), dtype=F64), torch.randn(5, 4, generator=generator(4))
    held = [part.numel() for _, part in products.sums(log_a, log_v)]
    assert max(held) <= max(cells, log_v.numel())
    assert sum(held) == 9 * 5 * 4
    expected = (log_a.exp() @ log_v.double().exp()).log()
    torch.testing.assert_close(products.log_product(log_a, log_v.double()), expected, rtol=1e-13, atol=1e-13)
    values, places = products.max_product(log_a, log_v.double())
    every = log_a[:, :, None] + log_v
    torch.testing.assert_close(values, every.amax(1))
    assert torch.equal(places, torch.from_numpy(every.numpy().argmax(1)))


def test_the_lower_state_wins_a_tie():
    even = Chain(torch.full((K,), 1 / K, dtype=F64), torch.full((K, K), 1 / K, dtype=F64))
    assert not bool(viterbi(even, torch.zeros(5, K, 3, dtype=F64), torch.full((3,), 5))[0].any())


@pytest.mark.parametrize("size", [10.0, 15.9, 16.1, 1e5])
def test_expanded_squares_keep_their_digits(size: float):
    """log N by scipy, on both sides of `GENTLE` = 16²: means `size` standard deviations from their mean, rows near and far."""
    means = size * torch.tensor([[-1.0], [1.0]], dtype=F64) * torch.tensor([0.6, 0.8], dtype=F64) + 1000.0
    normals = covariance_of("diag", 2, 1).normals(means, {"variances": torch.ones(2, 2, dtype=F64)})
    x = means.repeat(40, 1).view(1, 80, 2) + 3 * torch.randn(1, 80, 2, generator=generator(), dtype=F64)
    x[0, 40, 0] = math.nan
    x[0, 41] = math.nan
    found = log_normals(normals, x)[0].numpy()
    assert lognormal.gentle((means - means.mean(0)).square()) == (size < 16)
    single = stats.norm.logpdf(x[0].numpy()[None], means.numpy()[:, None])
    expected = np.nan_to_num(single, nan=0.0).sum(2)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-12)
    assert not found[:, 41].any()


def test_an_infinite_value_is_impossible():
    for size in (1.0, 1e5):
        means = size * torch.tensor([[-1.0], [1.0]], dtype=F64)
        normals = covariance_of("diag", 1, 1).normals(means, {"variances": torch.ones(2, 1, dtype=F64)})
        x = torch.zeros(3, 40, 1, dtype=F64)
        x[1, 2], x[2, 3], x[0, 0] = math.inf, -math.inf, math.nan
        found = log_normals(normals, x)
        assert bool((found[1, :, 2] == -math.inf).all())
        assert bool((found[2, :, 3] == -math.inf).all())
        assert int(found.isinf().sum()) == 4


@pytest.mark.parametrize("times", [200, 1001, 1030])
@pytest.mark.parametrize("count", [1, 3])
def test_the_scan_is_the_recursion(times: int, count: int, monkeypatch: pytest.MonkeyPatch):
    """In segments and step by step: the same numbers, whatever is left over in the last segment; ends in any segment."""
    chain, emission = chain_of(), emission_of("full")
    x = rows_of("full", count, times, holes=False)
    x[times // 3 : times // 2, 0] = math.nan
    if count > 1:
        x[times // 2 :, 1] = math.nan
        x[3:, 2] = math.nan
    log_b, ends, weight = emission.log_prob(x), lengths(x), torch.rand(count, generator=generator(), dtype=F64)
    side_by_side = ScaledPasses(chain, log_b, ends)
    assert side_by_side.segments > 1
    monkeypatch.setattr("jensen.hmm.recursion.segments", lambda *shape: 1)
    by_step = ScaledPasses(chain, log_b, ends)
    assert by_step.segments == 1
    torch.testing.assert_close(side_by_side.log_evidence, by_step.log_evidence, rtol=1e-13, atol=1e-12)
    torch.testing.assert_close(side_by_side.posterior(), by_step.posterior(), rtol=0, atol=1e-12)
    torch.testing.assert_close(side_by_side.transitions(weight), by_step.transitions(weight), rtol=1e-11, atol=1e-11)


def test_a_long_sequence_keeps_its_digits():
    """10⁵ steps: log p by the scan against a forward recursion in long double (64-bit mantissa), to 1e-12 relative."""
    chain, times = chain_of(4), 100_000
    log_b = -20 * torch.rand(times, 4, 1, generator=generator(7), dtype=F64)
    both = passes(chain, log_b, torch.tensor([times]))
    assert segments(times, 4, 1) > 1
    a, b = chain.transitions.numpy().astype(np.longdouble), log_b[:, :, 0].numpy().astype(np.longdouble)
    b, state, total = np.exp(b), chain.initial.numpy().astype(np.longdouble), np.longdouble(0)
    for t in range(times):
        state = (state @ a if t else state) * b[t]
        size = state.sum()
        state, total = state / size, total + np.log(size)
    assert float(both.log_evidence[0]) == pytest.approx(float(total), rel=1e-12)
    found = both.posterior()
    assert bool(found.isfinite().all())
    np.testing.assert_allclose(found[-1, :, 0].numpy(), state.astype(float), atol=1e-12)
    expected = both.transitions(torch.ones(1, dtype=F64))
    assert float(expected.sum()) == pytest.approx(times - 1, rel=1e-12)
    torch.testing.assert_close(expected.sum(1), found[:-1, :, 0].sum(0), rtol=1e-11, atol=0)


def test_the_posterior_of_many_long_sequences_sums_to_one():
    """α and β share their factors, and nothing is normalised at the end: 4,000 steps, without the scan, to 1e-12."""
    chain = chain_of()
    log_b = -20 * torch.rand(4000, K, 400, generator=generator(7), dtype=F64)
    both = ScaledPasses(chain, log_b, torch.full((400,), 4000))
    assert both.segments == 1
    torch.testing.assert_close(both.posterior().sum(1), torch.ones(4000, 400, dtype=F64), rtol=0, atol=1e-12)


def test_long_sequences_come_one_at_a_time():
    """The last block is filled up to its size: a lone row is not scored beside rows of nothing."""
    assert at_once(10_000, 8) == 1
    assert at_once(100, 8) == 512
    assert all(at_once(times, 8) * times * 8 <= max(1 << 19, times * 8) for times in (1, 100, 2000, 9000, 10**6))


def test_a_lone_block_is_one_threads_work():
    """Also when it fails, torch's own number of threads is as before."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        assert list(over_blocks(lambda block: seen.append(torch.get_num_threads()), [0], 8)) == [None]
        assert list(over_blocks(lambda block: seen.append(torch.get_num_threads()), [0], 64)) == [None]
        assert list(over_blocks(lambda block: block + 1, range(7), 8)) == list(range(1, 8))
        with pytest.raises(ZeroDivisionError):
            list(over_blocks(lambda block: 1 / block, [0], 8))
        assert seen == [1, 2]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_masses_sum_to_one():
    """All 4³·² rows of three steps of two cells with four levels."""
    chain, emission = chain_of(), emission_of("levels")
    every = torch.tensor(list(itertools.product(range(4), repeat=6)), dtype=F64).view(-1, 3, 2).transpose(0, 1)
    p = passes(chain, emission.log_prob(every), lengths(every)).log_evidence.exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)


@each_emission
def test_a_shorter_sequence_is_one_that_ends_in_nan(word: str):
    """Likelihood, statistics and so the whole fit are those of the short array."""
    chain, emission, x = chain_of(), emission_of(word), rows_of(word, times=4, holes=False)
    longer = torch.cat([x, torch.full((5, *x.shape[1:]), math.nan, dtype=F64)])
    weight = torch.rand(7, generator=generator(), dtype=F64)
    one, other = (em.expectations(Parameters(chain, emission), em.Block(y, lengths(y), weight)) for y in (x, longer))
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-14)
    torch.testing.assert_close(one.initial, other.initial, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.transitions, other.transitions, rtol=1e-12, atol=0)
    a, b = (Parameters(chain, emission.maximise(f.emission)).emission.tensors() for f in (one, other))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-11, atol=1e-12)


def problem_of(word: str, counts: float = 0.8, *, count: int = 30, **settings: float) -> tuple[Problem, Parameters]:
    """Rows in which states follow each other in turn, with 15 % of cells missing; every fourth row is short."""
    x = rows_of(word, count, holes=False)
    turn = (torch.arange(T)[:, None] // 2 + torch.arange(count)) % K
    if word == "levels":
        x = torch.where(torch.rand(x.shape, generator=generator(7)) < 0.3, x, turn[:, :, None].to(F64))
    else:
        x = 0.4 * x + turn[:, :, None] * torch.tensor([3.0, -1.5], dtype=F64)
    x = torch.where(torch.rand(x.shape, generator=generator(8)) < 0.15, math.nan, x)
    x[3:, ::4] = math.nan
    rows = Examples(
        x.transpose(0, 1).contiguous(), torch.arange(count), weight=torch.rand(count, generator=generator(9)) + 0.5
    )
    sequences = Sequences(rows, Layout((T, D)), K)
    return Problem(sequences, counts, Settings(**{"tolerance": 1e-7, "max_iterations": 100, **settings})), Parameters(  # type: ignore[arg-type]
        chain_of(), emission_of(word)
    )


@each_emission
def test_every_step_rises_to_a_stationary_point(word: str):
    """Law 20, with weights, missing cells, short sequences and the prior: A never falls beyond rounding, and at the end the
    gradient of A over free parameters, by autograd, is 0 to 1e-4 a step.
    """
    problem, start = problem_of(word, tolerance=1e-10, max_iterations=600)
    found = problem.ascend(start)
    gains = np.diff(found.values)
    assert gains.min() > -2 * found.noise
    assert found.values[-1] > found.values[0] + 1e-3
    assert found.converged
    assert gradient(problem, found.parameters) < 1e-4


def gradient(problem: Problem, at: Parameters) -> float:
    """The largest derivative of A, by autograd through the recursion in logarithms."""
    free: list[Tensor] = []

    def leaf(tensor: Tensor) -> Tensor:
        free.append(tensor.clone().requires_grad_())
        return free[-1]

    chain = Chain(leaf(at.chain.initial.log()).softmax(0), leaf(at.chain.transitions.log()).softmax(1))
    emission: LevelEmission | NormalEmission
    if isinstance(at.emission, LevelEmission):
        emission = replace(at.emission, probabilities=leaf(at.emission.probabilities.log()).softmax(2))
    else:
        assert isinstance(at.emission, NormalEmission)
        own = at.emission.parameters
        weights = leaf(own.weights.log().view(K, -1)).softmax(1).flatten()
        raw = {name: leaf(t) for name, t in at.emission.covariance.unconstrained(own.spread).items()}
        spread = at.emission.covariance.constrained(raw)
        emission = replace(at.emission, parameters=MixtureParameters(weights, leaf(own.means), spread))
    total: Any = 0.0
    for block in problem.sequences.blocks():
        total = total + (block.weight * slow_evidence(chain, slow_log_b(emission, block.steps), block.lengths)).sum()
    total = total + problem.counts * (chain.initial.log().sum() + chain.transitions.log().sum())
    if isinstance(emission, LevelEmission):
        total = total + emission.pseudo * emission.probabilities.log().sum()
    else:
        assert emission.prior is not None
        if emission.components > 1:
            total = total + emission.prior.counts * emission.parameters.weights.log().sum()
        total = total + emission.covariance.log_prior(emission.density.normals, emission.prior)
    (total / problem.sequences.steps).backward()
    return max(float(f.grad.abs().max()) for f in free if f.grad is not None)


def slow_log_b(emission: LevelEmission | NormalEmission, steps: Tensor) -> Tensor:
    """log b step by step and cell by cell, differentiable, `(T, K, B)`."""
    out = []
    matrices = (
        None
        if isinstance(emission, LevelEmission)
        else emission.covariance.matrices(emission.parameters.spread, emission.parameters.components)
    )
    for x in steps.flatten(0, 1):
        seen = (~x.isnan()).nonzero()[:, 0]
        if len(seen) == 0:
            out.append(torch.zeros(K, dtype=F64))
        elif isinstance(emission, LevelEmission):
            out.append(emission.probabilities[:, seen, x[seen].long()].log().sum(1))
        else:
            assert matrices is not None
            law = torch.distributions.MultivariateNormal(
                emission.parameters.means[:, seen], matrices[:, seen][:, :, seen], validate_args=False
            )
            out.append((law.log_prob(x[seen]) + emission.parameters.weights.log()).view(K, -1).logsumexp(1))
    return torch.stack(out).view(*steps.shape[:2], K).transpose(1, 2)


def slow_evidence(chain: Chain, log_b: Tensor, ends: Tensor) -> Tensor:
    alpha = chain.initial.log()[:, None] + log_b[0]
    for t in range(1, len(log_b)):
        step = log_b[t] + (alpha[:, None] + chain.transitions.log()[:, :, None]).logsumexp(0)
        alpha = torch.where(ends > t, step, alpha)
    return alpha.logsumexp(0)


def test_without_a_prior_the_likelihood_itself_rises():
    problem, start = problem_of("levels", counts=0.0, max_iterations=40)
    assert isinstance(start.emission, LevelEmission)
    found = problem.ascend(Parameters(start.chain, replace(start.emission, pseudo=0.0)))
    assert np.diff(found.values).min() > -2 * found.noise
    assert found.value * problem.sequences.steps == pytest.approx(found.statistics.log_likelihood)


def test_a_fall_is_an_error(monkeypatch: pytest.MonkeyPatch):
    problem, start = problem_of("diag")
    monkeypatch.setattr(em, "_shares", lambda counts, before: before.flip(-1))
    with pytest.raises(FitError, match=r"fell by .* nats a step in iteration"):
        problem.ascend(start)


def test_blocks_add_up():
    """The same statistics whether sequences come at once or a few at a time, kept or read again."""
    problem, start = problem_of("mixture full")
    whole = problem.expect(start)
    problem.sequences.size, problem.sequences.kept = 7, None
    parts = problem.expect(start)
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-13)
    torch.testing.assert_close(parts.transitions, whole.transitions, rtol=1e-12, atol=0)
    one, other = (start.emission.maximise(f.emission).tensors() for f in (whole, parts))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-11, atol=1e-12)


@each_emission
def test_an_empty_sequence_teaches_nothing(word: str):
    chain, emission, x = chain_of(), emission_of(word), rows_of(word)
    one, other = (
        em.expectations(Parameters(chain, emission), em.Block(y, lengths(y), torch.ones(y.shape[1], dtype=F64)))
        for y in (x, x[:, :6])
    )
    torch.testing.assert_close(one.initial, other.initial, rtol=1e-12, atol=1e-13)
    assert float(one.initial.sum()) == pytest.approx(6)
    torch.testing.assert_close(one.transitions, other.transitions, rtol=1e-12, atol=1e-13)


def test_whole_weights_are_repeated_rows():
    chain, emission, x = chain_of(), emission_of("full"), rows_of("full")
    times = torch.tensor([2, 1, 3, 1, 0, 2, 1])
    again = x.repeat_interleave(times, 1)
    one = em.expectations(Parameters(chain, emission), em.Block(x, lengths(x), times.double()))
    other = em.expectations(Parameters(chain, emission), em.Block(again, lengths(again), torch.ones(10, dtype=F64)))
    torch.testing.assert_close(one.transitions, other.transitions, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(one.initial, other.initial, rtol=1e-12, atol=1e-13)
    assert one.log_likelihood == pytest.approx(other.log_likelihood, rel=1e-13)


@each_emission
def test_the_posterior_of_paths_is_bayes_rule(word: str):
    """log p(z | x) = log p(z) + log p(x | z) - log p(x) for every path."""
    chain, emission, x = chain_of(), emission_of(word), rows_of(word)[:, :4]
    log_b = emission.log_prob(x)
    both = passes(chain, log_b, lengths(x))
    law, before = posterior(chain, log_b, both), prior(chain, 4, T)
    for z in torch.tensor(list(itertools.product(range(K), repeat=T)))[::37]:
        paths = z.expand(4, -1)
        joint = before.log_prob(paths) + log_b.gather(1, paths.T[:, None])[:, 0].sum(0)
        torch.testing.assert_close(law.log_prob(paths), joint - both.log_evidence, rtol=1e-11, atol=1e-11)


def test_posterior_paths_have_the_posterior_law():
    """Frequencies of all 27 paths of 3 steps in 20,000 draws; chi-square p above 1e-4, seed 0: fails once in 10,000."""
    chain, emission, x = chain_of(), emission_of("full"), rows_of("full", times=3, holes=False)[:, :1]
    x[1] = math.nan
    log_b = emission.log_prob(x).expand(-1, -1, 2_000)
    law = posterior(chain, log_b, passes(chain, log_b, torch.full((2_000,), 3)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = law.sample([10]).flatten(0, 1)
    counts = np.bincount((drawn * torch.tensor([9, 3, 1])).sum(1).numpy(), minlength=27)
    _, joint = every_path(chain, emission, x[:, 0])
    expected = 20_000 * np.exp(joint - np.logaddexp.reduce(joint))
    assert stats.chisquare(counts, expected).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(5,), (5, 2), (1, 5, 2), (3, 5, 2)])
def test_layouts_go_there_and_back(shape: tuple[int, ...]):
    layout, x = Layout(shape), torch.randn(4, *shape, generator=generator())
    steps = layout.steps(x)
    assert steps.shape == (5, 4, layout.dims)
    assert torch.equal(layout.rows(steps), x)
    assert torch.equal(
        steps[3, 1].sort().values,
        (x[1].reshape(-1, 5, 2)[:, 3] if len(shape) > 1 else x[1, 3:4]).flatten().sort().values,
    )
    shift = torch.arange(layout.dims, dtype=torch.float32)
    assert torch.equal(layout.steps(x + layout.per_feature(shift)), steps + shift)


def test_steps_are_the_steps():
    x = rows_of("diag", times=4)
    rows = Examples(x.transpose(0, 1).contiguous(), torch.arange(7), weight=torch.arange(1.0, 8.0))
    whole = Steps(rows, Layout((4, D))).batch(slice(2, 27))
    assert torch.equal(whole.x.nan_to_num(9.0), x.transpose(0, 1).flatten(0, 1)[2:27].nan_to_num(9.0))
    assert whole.weight is not None
    assert whole.weight[10 - 2] == 0, "an empty step weighs nothing"
    assert whole.weight[4 - 2] == 2
    some = Steps(rows, Layout((4, D))).batch(torch.tensor([9, 0, 5]))
    assert torch.equal(some.x.nan_to_num(9.0), x.transpose(0, 1).flatten(0, 1)[[9, 0, 5]].nan_to_num(9.0))


def test_nothing_to_learn_from_is_refused():
    rows = Examples(torch.full((2, 3, 1), math.nan), torch.arange(2))
    with pytest.raises(InputError, match="no row with a weight above 0 has an observed value"):
        Sequences(rows, Layout((3, 1)), 2)
    rows = Examples(torch.tensor([[[1.0], [math.inf]]]), torch.arange(1))
    with pytest.raises(InputError, match="a value is infinite"):
        Sequences(rows, Layout((2, 1)), 2)
