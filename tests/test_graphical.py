"""Graphs, tables and sums over missing cells, against enumeration of every row and every tree.

`brute` knows p(x) only as a product of tables that it reads cell by cell; nothing of messages, elimination or layout.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import special

from jensen.errors import InputError
from jensen.graphical import inference
from jensen.graphical.chow_liu import information, mutual_information, spanning_tree
from jensen.graphical.dag import dag_of, parsed
from jensen.graphical.tables import Tables

F64 = torch.float64
GRAPHS = {
    "chain": "0>1,1>2,2>3",
    "star": "2>0,2>1,2>3",
    "tree against the order": "3>1,1>0,3>2",
    "forest": "0>3",
    "nothing": "",
    "collider": "0>2,1>2,2>3",
    "diamond": "0>1,0>2,1>3,2>3",
    "everything": "0>1,0>2,1>2,0>3,1>3,2>3",
}
FORESTS = ("chain", "star", "tree against the order", "forest", "nothing")
K, D = 3, 4
each_graph = pytest.mark.parametrize("name", GRAPHS)


def world(name: str, seed: int = 0) -> tuple[Tables, torch.Tensor]:
    """Random tables of a graph."""
    tables = Tables(parsed(GRAPHS[name], D), K)
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(tables.cells // K, K)))
    return tables, logits.log_softmax(1).flatten()


def every_row() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(K), repeat=D)))


def brute(name: str, flat: torch.Tensor) -> torch.Tensor:
    """log p of every row, cell by cell: tables lie one after the other, the column's own level moves fastest."""
    parents = {child: [] for child in range(D)}
    for word in GRAPHS[name].split(",") if GRAPHS[name] else []:
        parents[int(word[2])].append(int(word[0]))
    out = []
    for row in itertools.product(range(K), repeat=D):
        total, start = 0.0, 0
        for child in range(D):
            place = 0
            for column in [*sorted(parents[child]), child]:
                place = place * K + row[column]
            total += float(flat[start + place])
            start += K ** (len(parents[child]) + 1)
        out.append(total)
    return torch.tensor(out, dtype=F64)


def with_holes() -> torch.Tensor:
    """Every pattern of missing cells, three rows each."""
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, K, (3 * 2**D, D)))
    masks = torch.tensor(list(itertools.product([False, True], repeat=D))).repeat(3, 1)
    return torch.where(masks, -1, rows)


def completions(codes: torch.Tensor) -> torch.Tensor:
    """Which of all rows agree with the observed cells, `(B, K^D)`."""
    return ((codes[:, None, :] < 0) | (codes[:, None, :] == every_row())).all(-1)


@each_graph
def test_a_row_is_the_product_of_its_tables_and_all_rows_sum_to_one(name: str):
    tables, flat = world(name)
    value = inference.log_prob(tables, flat, every_row())
    torch.testing.assert_close(value, brute(name, flat), rtol=1e-12, atol=1e-12)
    assert float(value.exp().sum()) == pytest.approx(1, abs=1e-12)


@each_graph
def test_missing_is_the_sum_over_completions(name: str):
    tables, flat = world(name)
    codes, log_p = with_holes(), brute(name, flat)
    expected = torch.where(completions(codes), log_p, -math.inf).logsumexp(1)
    torch.testing.assert_close(inference.log_prob(tables, flat, codes), expected, rtol=1e-12, atol=1e-12)
    assert inference.log_prob(tables, flat, torch.full((2, D), -1)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", FORESTS)
def test_messages_are_elimination(name: str):
    tables, flat = world(name)
    codes = with_holes()
    torch.testing.assert_close(
        inference.on_forest(tables, flat, codes), inference.by_elimination(tables, flat, codes), rtol=1e-12, atol=1e-12
    )


@each_graph
def test_posteriors_are_those_of_enumeration(name: str):
    """Given every pattern of observed cells; with none, the marginals."""
    tables, flat = world(name)
    codes, log_p = with_holes(), brute(name, flat)
    joint = torch.where(completions(codes), log_p, -math.inf).softmax(1)
    expected = torch.einsum("br,rdk->bdk", joint, torch.nn.functional.one_hot(every_row(), K).double())
    torch.testing.assert_close(inference.posterior(tables, flat, codes), expected, rtol=1e-11, atol=1e-12)


@each_graph
def test_impossible_cells_stay_impossible(name: str):
    """Zeros in tables, -inf in logarithms: sums over completions, and no NaN."""
    tables, flat = world(name)
    flat = torch.where(torch.arange(len(flat)) % K == 1, -math.inf, flat).reshape(-1, K).log_softmax(1).flatten()
    codes, log_p = with_holes(), brute(name, flat)
    expected = torch.where(completions(codes), log_p, -math.inf).logsumexp(1)
    torch.testing.assert_close(inference.log_prob(tables, flat, codes), expected, rtol=1e-12, atol=1e-12)


@each_graph
def test_company_changes_no_bit(name: str):
    tables, flat = world(name)
    codes = with_holes()
    together = inference.log_prob(tables, flat, codes)
    alone = torch.cat([inference.log_prob(tables, flat, row[None]) for row in codes])
    assert torch.equal(together, alone)


def test_sums_that_are_too_large_are_refused():
    """Fourteen columns that meet in one with a table each: 4^13 cells on the way."""
    star = ",".join(f"{i}>{j}" for i in range(13) for j in range(i + 1, 13) if j - i < 3) + ",0>13,12>13"
    tables = Tables(parsed(star, 14), 64)
    codes = torch.full((1, 14), -1)
    codes[0, 13] = 0
    with pytest.raises(InputError, match=r"the 13 missing cells of a row needs a table of 64 levels to the power 4"):
        inference.log_prob(tables, inference.uniform(tables.cells, 64), codes)


WRONG = {
    "a cycle": ("0>1,1>2,2>0", r"cycle 0 > 1 > 2 > 0; a Bayesian network has none"),
    "a cycle below": ("3>0,1>2,2>1", "cycle 1 > 2 > 1"),
    "itself": ("1>1", "1>1 goes from a column to itself"),
    "twice": ("0>1,0>1", "0>1 is given twice"),
    "no such column": ("0>4", r"0>4 needs columns 0 to 3"),
    "another form": ("0-1", "got '0-1'"),
    "half an edge": ("0>1,", "got ''"),
    "a long number": ("0>" + "9" * 40, "edges are written parent>child"),
}


@pytest.mark.parametrize("what", WRONG)
def test_edges_that_make_no_network_are_refused(what: str):
    edges, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        parsed(edges, 4)


@each_graph
def test_parents_come_first_and_edges_are_read_back(name: str):
    dag = parsed(GRAPHS[name], D)
    assert sorted(dag.order) == list(range(D))
    assert all(dag.order.index(p) < dag.order.index(c) for c, above in enumerate(dag.parents) for p in above)
    assert parsed(str(dag), D) == dag
    assert dag.is_forest == (name in FORESTS)


def test_tables_too_large_are_refused_before_they_are_made():
    with pytest.raises(InputError, match=r"40 columns × 2 levels with up to 39 parents do not fit"):
        Tables(dag_of([list(range(c)) for c in range(40)]), 2)
    with pytest.raises(InputError, match=r"3 columns × 65536 levels with up to 1 parents do not fit"):
        Tables(dag_of([[], [0], [1]]), 65536)


@pytest.mark.parametrize("holes", [False, True])
def test_counts_are_counts(holes: bool):
    """Of the collider, cell by cell; a family with a missing cell does not count."""
    tables, _ = world("collider")
    codes = with_holes() if holes else every_row().repeat(2, 1)
    counts = torch.zeros(tables.cells, dtype=torch.int64)
    for part in codes.split(7):
        tables.count(part, counts)
    table = tables.of(counts, 2)
    for a, b, c in itertools.product(range(K), repeat=3):
        assert int(table[a, b, c]) == int(((codes[:, 0] == a) & (codes[:, 1] == b) & (codes[:, 2] == c)).sum())
    root = tables.of(counts, 1)
    assert root.tolist() == [int((codes[:, 1] == a).sum()) for a in range(K)]


def test_the_evidence_of_tables_is_that_of_their_rows_one_by_one():
    """Σ log predictive with tables updated row by row, α = 0.7."""
    tables, _ = world("collider")
    counts, total = torch.zeros(tables.cells, dtype=torch.int64), 0.0
    for row in torch.from_numpy(np.random.default_rng(3).integers(0, K, (30, D))).split(1):
        total += float(inference.log_prob(tables, tables.log_probabilities(counts, 0.7), row))
        tables.count(row, counts)
    assert tables.log_evidence(counts, 0.7) == pytest.approx(total, abs=1e-10)


def test_tables_without_counts_are_uniform():
    tables, _ = world("chain")
    nothing = tables.log_probabilities(torch.zeros(tables.cells, dtype=torch.int64), 0.0)
    assert torch.equal(nothing, inference.uniform(tables.cells, K))


def rows_of(k: int, n: int = 500, dims: int = 5) -> torch.Tensor:
    draw = np.random.default_rng(k)
    base = draw.integers(0, k, (n, 1))
    return torch.from_numpy(np.where(draw.random((n, dims)) < 0.3, base, draw.integers(0, k, (n, dims))))


@pytest.mark.parametrize("k", [2, 3, 8, 9, 20])
@pytest.mark.parametrize("holes", [False, True])
def test_mutual_information_is_its_definition(k: int, holes: bool):
    """Both ways of counting (matrix products up to 8 levels), in batches, with cells missing, smoothed by 0.5."""
    x = rows_of(k)
    if holes:
        x = torch.where(torch.from_numpy(np.random.default_rng(9).random(x.shape) < 0.2), -1, x)
    found = mutual_information(lambda: iter(x.split(37)), 5, k, 0.5)
    assert torch.equal(found, found.T)
    for i, j in itertools.combinations(range(5), 2):
        both = x[(x[:, i] >= 0) & (x[:, j] >= 0)].numpy()
        joint = np.full((k, k), 0.5)
        np.add.at(joint, (both[:, i], both[:, j]), 1)
        p = joint / joint.sum()
        expected = special.rel_entr(p, np.outer(p.sum(1), p.sum(0))).sum()
        assert float(found[i, j]) == pytest.approx(expected, abs=1e-12)


def test_blocks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch):
    x = rows_of(9)
    whole = mutual_information(lambda: iter([x]), 5, 9)
    monkeypatch.setattr("jensen.graphical.chow_liu.CELLS_AT_ONCE", 2 * 5 * 81)
    torch.testing.assert_close(mutual_information(lambda: iter([x]), 5, 9), whole, rtol=0, atol=0)


def test_independent_columns_share_nothing_and_copies_their_entropy():
    assert float(information(torch.ones(3, 3, dtype=F64))) == pytest.approx(0, abs=1e-15)
    assert float(information(torch.eye(4, dtype=F64))) == pytest.approx(math.log(4), abs=1e-15)


def every_tree(dims: int) -> list[frozenset[tuple[int, int]]]:
    """All spanning trees: sets of d - 1 edges that connect."""
    found = []
    for edges in itertools.combinations(itertools.combinations(range(dims), 2), dims - 1):
        reached, grown = {0}, True
        while grown:
            more = {n for edge in edges for n in edge if set(edge) & reached} - reached
            reached, grown = reached | more, bool(more)
        if len(reached) == dims:
            found.append(frozenset(edges))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_the_spanning_tree_is_the_heaviest_of_all(seed: int):
    """Cayley: 5³ = 125 trees of 5 columns."""
    weight = torch.from_numpy(np.random.default_rng(seed).random((5, 5)))
    weight = weight + weight.T
    trees = every_tree(5)
    assert len(trees) == 125
    best = max(trees, key=lambda tree: sum(float(weight[i, j]) for i, j in tree))
    parents = spanning_tree(weight)
    assert {(min(c, p), max(c, p)) for c, above in enumerate(parents) for p in above} == set(best)
