"""The report's panel about a Bayesian network: its edges, what they carry, where they are drawn."""

import itertools

import numpy as np
import pytest
import torch

import jensen
from jensen.evaluation.graphs import graph_figure, layers
from jensen.evaluation.panels.graph import graph
from jensen.evaluation.story import gather
from jensen.graphical.dag import dag_of, parsed
from jensen.graphical.strength import edge_information
from jensen.graphical.tables import Tables


def random_table(tables: Tables) -> torch.Tensor:
    draw = torch.randn(
        tables.cells // tables.k, tables.k, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return draw.log_softmax(1).flatten()


@pytest.mark.parametrize("edges", ["1>0,1>2,2>3,2>4", "0>1,3>2", ""])
def test_the_edges_carry_all_that_a_forest_gains_on_its_marginals(edges):
    """Σ I = Σ_i H(x_i) − H(x), by enumeration of 3⁵ rows."""
    tables = Tables(parsed(edges, 5), 3)
    table = random_table(tables)
    rows = torch.tensor(list(itertools.product(range(3), repeat=5)))
    log_p = table[tables.index(rows)].sum(1)
    marginals = torch.stack([torch.stack([log_p[rows[:, i] == a].logsumexp(0) for a in range(3)]) for i in range(5)])
    gain = float((log_p.exp() * log_p).sum() - (marginals.exp() * marginals).sum())
    found = edge_information(tables, table)
    assert sum(found.values()) == pytest.approx(gain, abs=1e-12)
    assert set(found) == {(parent, child) for child, above in enumerate(tables.dag.parents) for parent in above}
    if found:
        parent, child = next(iter(found))
        pairs = torch.stack(
            [log_p[(rows[:, parent] == a) & (rows[:, child] == b)].logsumexp(0) for a in range(3) for b in range(3)]
        )
        apart = (marginals[parent][:, None] + marginals[child]).flatten()
        assert found[parent, child] == pytest.approx(float((pairs.exp() * (pairs - apart)).sum()), abs=1e-12)


def test_a_column_that_is_never_one_level_carries_a_finite_amount():
    tables = Tables(parsed("0>1", 2), 2)
    sure = torch.tensor([0.0, -np.inf, 0.0, -np.inf, np.log(0.5), np.log(0.5)], dtype=torch.float64)
    assert edge_information(tables, sure) == {(0, 1): 0.0}


@pytest.mark.parametrize(
    "parents", [[[], [0], [0], [1], [1], [2], []], [[1, 2], [3], [3], []], [[i - 1] if i else [] for i in range(3000)]]
)
def test_parents_stand_above_their_children_and_nothing_lies_on_anything(parents):
    places = layers(parents)
    assert len(set(places.values())) == len(parents)
    assert all(places[parent][1] < places[child][1] for child, above in enumerate(parents) for parent in above)


def test_an_edge_is_as_wide_as_what_it_carries():
    figure = graph_figure(dag_of([[], [0], [1]]).parents, {(0, 1): 2.0, (1, 2): 1.0}, ["a", "b", "c"])
    (lines,) = figure.axes[0].collections[:1]
    widths = lines.get_linewidths()
    assert widths[0] - 0.6 == pytest.approx(2 * (widths[1] - 0.6))
    assert [text.get_text() for text in figure.axes[0].texts] == ["a", "b", "c"]


def story(tmp_path, data, word="bayes-net", **settings):
    split = jensen.load_data(data, levels=settings.pop("levels", None))
    jensen.fit(split, word, run=tmp_path / "run", progress=False, **settings)
    return gather(tmp_path / "run", split, None)


def test_the_panel_names_the_strongest_edges(tmp_path):
    """Of three columns the second copies the first, the third is noise."""
    draw = np.random.default_rng(0)
    first = draw.integers(2, size=300)
    (tmp_path / "t.csv").write_text(
        "a,b,c\n" + "\n".join(f"{a},{a},{c}" for a, c in zip(first, draw.integers(2, size=300), strict=True))
    )
    page = graph(story(tmp_path, tmp_path / "t.csv", levels=2))
    assert "3 columns, 2 edges." in page
    strongest = page[page.index("tells of") :]
    assert strongest.index(">a<") < strongest.index(">b<") < strongest.index(">c<")
    assert page.count("image/png") == 2


def test_other_models_have_no_graph_and_a_graph_may_have_no_edges(tmp_path):
    rows = np.random.default_rng(0).integers(3, size=(60, 2)).astype(np.uint8)
    assert graph(story(tmp_path / "a", rows, "independent", levels=3)) == ""
    page = graph(story(tmp_path / "b", rows, levels=3, edges=""))
    assert "0 edges." in page
    assert "image/png" not in page
