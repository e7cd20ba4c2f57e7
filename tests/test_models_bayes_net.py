"""`bayes-net`: Laplace's histograms without edges, the best of all trees by itself, samples of its own law."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.estimation.bayes_counts import DirichletCategorical
from jensen.models.bayes_net import PSEUDO_COUNTS, BayesNet
from jensen.models.independent import Independent

F64 = torch.float64


def examples(x: np.ndarray) -> Examples:
    return Examples(torch.from_numpy(x).double(), torch.arange(len(x)))


def fitted(x: np.ndarray, k: int, **settings: object) -> BayesNet:
    model = BayesNet(x.shape[1:], Levels(k), **settings)
    model.fit(examples(x))
    return model


def every_row(k: int, dims: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(k), repeat=dims)), dtype=F64)


def tree_world(n: int, seed: int, dims: int = 6) -> np.ndarray:
    """Rows of the tree 0–3, 3–1, 3–5, 5–2, 2–4: a child is its parent's level with probability 0.8, else any of three."""
    draw, x = np.random.default_rng(seed), np.zeros((n, dims), dtype=np.int64)
    x[:, 0] = draw.integers(0, 3, n)
    for parent, child in ((0, 3), (3, 1), (3, 5), (5, 2), (2, 4)):
        x[:, child] = np.where(draw.random(n) < 0.8, x[:, parent], draw.integers(0, 3, n))
    return x


TRUE_TREE = {(0, 3), (1, 3), (3, 5), (2, 5), (2, 4)}


def undirected(model: BayesNet) -> set[tuple[int, int]]:
    return {(min(p, c), max(p, c)) for c, above in enumerate(model.dag.parents) for p in above}


def test_without_edges_it_is_the_control_independent():
    x = tree_world(80, 0)
    control = Independent((6,), Levels(3))
    control.fit(examples(x))
    ours = fitted(x, 3, edges="", pseudo_count=1.0).log_likelihood(torch.from_numpy(x)).value
    torch.testing.assert_close(ours, control.log_likelihood(torch.from_numpy(x)).value, rtol=1e-12, atol=1e-12)


def test_tables_are_posterior_predictives():
    """p(x_1 | x_0) is the Dirichlet's predictive from the rows with that x_0."""
    x, alpha = tree_world(60, 1)[:, [0, 3]], 0.4
    model = fitted(x, 3, edges="0>1", pseudo_count=alpha)
    rows = every_row(3, 2)
    for row, value in zip(rows, model.log_likelihood(rows).value, strict=True):
        prior = DirichletCategorical(torch.full((3,), alpha, dtype=F64))
        first = prior.update(x[:, 0].astype(float)).predictive().log_prob(row[0])
        second = prior.update(x[x[:, 0] == int(row[0]), 1].astype(float)).predictive().log_prob(row[1])
        assert float(value) == pytest.approx(float(first + second), abs=1e-12)


def test_all_rows_sum_to_one():
    rows = every_row(3, 6)
    for edges in (None, "0>2,1>2,2>3,0>4,3>5,4>5"):
        model = fitted(tree_world(50, 2), 3, edges=edges)
        assert float(model.log_likelihood(rows).value.exp().sum()) == pytest.approx(1, abs=1e-12)


def spanning_trees(dims: int) -> list[str]:
    """Edges of every tree on these columns, away from column 0."""
    found = []
    for edges in itertools.combinations(itertools.combinations(range(dims), 2), dims - 1):
        directed, reached = [], [0]
        for one in reached:
            for a, b in edges:
                other = {a: b, b: a}.get(one)
                if other is not None and other not in reached:
                    directed.append(f"{one}>{other}")
                    reached.append(other)
        if len(reached) == dims:
            found.append(",".join(directed))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_chow_liu_is_the_most_likely_of_all_trees(seed: int):
    """Unsmoothed, on the training rows: all 16 trees on 4 columns (Cayley: 4²)."""
    x = np.random.default_rng(seed).integers(0, 3, (40, 4))
    x[:, 2] = np.where(np.random.default_rng(seed + 9).random(40) < 0.5, x[:, 0], x[:, 2])
    trees = spanning_trees(4)
    assert len(set(trees)) == 16
    rows = torch.from_numpy(x)
    values = {t: fitted(x, 3, edges=t, pseudo_count=0.0).log_likelihood(rows).mean for t in trees}
    found = fitted(x, 3, pseudo_count=0.0)
    assert found.log_likelihood(rows).mean == pytest.approx(max(values.values()), abs=1e-12)
    assert sorted(values.values())[-1] > sorted(values.values())[0] + 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_a_true_tree_is_found_in_enough_rows(seed: int):
    """4,000 rows: neighbours share 0.61 nats, columns two edges apart 0.38, and each is found to about 0.012: the gap is more
    than ten standard errors, the failure rate below 1e-20. Seeds 0, 1, 2.
    """
    assert undirected(fitted(tree_world(4000, seed), 3)) == TRUE_TREE


def test_the_root_of_a_tree_does_not_matter():
    """Unsmoothed, any direction of the same edges gives the same probabilities."""
    x = tree_world(200, 3)
    rows = torch.from_numpy(x)
    one = fitted(x, 3, edges="0>3,3>1,3>5,5>2,2>4", pseudo_count=0.0).log_likelihood(rows).value
    other = fitted(x, 3, edges="4>2,2>5,5>3,3>1,3>0", pseudo_count=0.0).log_likelihood(rows).value
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_pseudo_count_is_the_one_of_largest_evidence():
    """Sparse tables want a small one, tables of noise a large one; what was chosen is in the config."""
    copies = np.repeat(np.random.default_rng(0).integers(0, 6, (200, 1)), 4, 1)
    noise = np.random.default_rng(0).integers(0, 6, (200, 4))
    small, large = (fitted(x, 6).resolved()["pseudo_count"] for x in (copies, noise))
    assert small < 0.05
    assert large == max(PSEUDO_COUNTS)
    assert BayesNet((4,), Levels(6), pseudo_count=0.2).resolved()["pseudo_count"] == 0.2


@pytest.mark.parametrize("edges", [None, "0>2,1>2,2>3"])
def test_samples_have_the_models_law(edges: str | None):
    """χ² of 20,000 draws over all 81 rows of 4 columns, seed 5; failure rate 2e-4 for the two."""
    x = tree_world(60, 4)[:, :4]
    model = fitted(x, 3, edges=edges, pseudo_count=0.5)
    rows = every_row(3, 4)
    expected = 20_000 * model.log_likelihood(rows).value.exp()
    place = (model.sample(20_000, seed=5) @ torch.tensor([27.0, 9.0, 3.0, 1.0], dtype=F64)).long()
    seen = torch.bincount(place, minlength=81).double()
    rare = expected < 5
    assert int(rare.sum()) < 40
    pairs = [torch.cat([t[~rare], t[rare].sum()[None]]) if rare.any() else t for t in (seen, expected)]
    assert stats.chisquare(pairs[0].numpy(), pairs[1].numpy()).pvalue > 1e-4


def test_what_was_never_seen_is_never_drawn():
    """Without smoothing."""
    x = np.array([[0, 2], [0, 2], [2, 0]])
    drawn = fitted(x, 4, edges="0>1", pseudo_count=0.0).sample(3000, seed=0)
    assert {tuple(row) for row in drawn.tolist()} == {(0.0, 2.0), (2.0, 0.0)}


def test_missing_cells_are_summed_over_in_units_of_the_space():
    """Levels -1, -0.5, …, 1, with NaN; marginals of a row of NaN are frequencies of samples (20,000 draws, five standard errors:
    failure rate 2e-5 over 30 cells).
    """
    space = Levels(5, -1.0, 0.5)
    codes = np.random.default_rng(6).integers(0, 5, (300, 1)) // np.array([[1, 2, 3]])
    model = BayesNet((3,), space)
    model.fit(examples(-1.0 + 0.5 * codes))
    rows = torch.tensor([[math.nan, 0.0, -1.0], [math.nan] * 3, [0.5, math.nan, math.nan]], dtype=F64)
    every = -1.0 + 0.5 * every_row(5, 3)
    log_p = model.log_likelihood(every).value
    agree = (rows[:, None].isnan() | (rows[:, None] == every)).all(-1)
    expected = torch.where(agree, log_p, -math.inf).logsumexp(1)
    torch.testing.assert_close(model.log_likelihood(rows).value, expected, rtol=1e-12, atol=1e-12)
    p = model.posterior(rows)[1]
    drawn = model.sample(20_000, seed=7)
    seen = torch.stack([(drawn == v).double().mean(0) for v in space.values()], 1)
    assert bool(((seen - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-4).all())


def test_images_keep_their_shape_in_posteriors():
    x = np.random.default_rng(0).integers(0, 3, (50, 1, 2, 2))
    model = fitted(x, 3)
    p = model.posterior(torch.full((2, 1, 2, 2), math.nan))
    assert p.shape == (2, 1, 2, 2, 3)
    torch.testing.assert_close(p.sum(-1), torch.ones(2, 1, 2, 2, dtype=F64))


def test_training_cells_that_are_missing_do_not_count():
    """Column 1 missing in some rows: the table of 0 is that of all rows, p(x_1 | x_0) that of the complete ones."""
    x = tree_world(120, 8)[:, [0, 3]].astype(float)
    x[::4, 1] = math.nan
    holes = fitted(x, 3, edges="0>1", pseudo_count=1.0)
    first = fitted(x[:, :1], 3, edges="", pseudo_count=1.0)
    second = fitted(x[~np.isnan(x[:, 1])], 3, edges="0>1", pseudo_count=1.0)
    rows = every_row(3, 2)
    given = second.log_likelihood(rows).value - fitted(x[~np.isnan(x[:, 1])][:, :1], 3, edges="", pseudo_count=1.0).log_likelihood(rows[:, :1]).value  # fmt: skip
    expected = first.log_likelihood(rows[:, :1]).value + given
    torch.testing.assert_close(holes.log_likelihood(rows).value, expected, rtol=1e-12, atol=1e-12)


def test_a_run_says_its_graph(tmp_path):
    """The tree that was found is in the config, and a loaded model is the same."""
    split = jensen.load_data(tree_world(300, 9).astype(np.uint8), levels=3)
    pipeline = jensen.fit(split, "bayes-net", progress=False, run=tmp_path / "run")
    options = pipeline.config["model"]["options"]
    assert {tuple(sorted(map(int, e.split(">")))) for e in options["edges"].split(",")} == undirected(pipeline.model)
    again = jensen.load(tmp_path / "run")
    assert again.model.dag == pipeline.model.dag
    assert torch.equal(again.log_likelihood(split.test).value, pipeline.log_likelihood(split.test).value)


def test_fitting_twice_is_fitting_once():
    """The second fit learns its own tree and pseudo-count."""
    model = fitted(tree_world(300, 0)[:, ::-1].copy(), 3)
    model.fit(examples(tree_world(300, 1)))
    assert model.resolved() == fitted(tree_world(300, 1), 3).resolved()


def test_what_does_not_fit_in_memory_or_time_is_refused():
    with pytest.raises(InputError, match=r"pairs of 784 columns × 256 levels are too many .*got 200704"):
        BayesNet((1, 28, 28), Levels(256))
    with pytest.raises(InputError, match=r"tables of 784 columns × 256 levels with up to 3 parents"):
        BayesNet((1, 28, 28), Levels(256), edges="0>3,1>3,2>3")
    with pytest.raises(InputError, match=r"pseudo_count must be from 0 to .*, got -1"):
        BayesNet((2,), Levels(3), pseudo_count=-1.0)
    with pytest.raises(InputError, match="cycle 0 > 1 > 0"):
        BayesNet((2,), Levels(3), edges="0>1,1>0")
    assert BayesNet((1, 28, 28), Levels(256), edges="0>1").log_likelihood(torch.zeros(1, 1, 28, 28)).mean < 0


def test_the_digits_are_better_explained_by_a_tree():
    """Columns that hang together: paired on 359 test rows, the tree gains more than ten standard errors over `independent`."""
    split = jensen.load_data("digits")
    tree, control = (
        jensen.fit(split, word, progress=False).log_likelihood(split.test) for word in ("bayes-net", "independent")
    )
    difference = tree - control
    assert difference.mean > 10 * difference.stderr
