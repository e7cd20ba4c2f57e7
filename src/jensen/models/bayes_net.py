"""`bayes-net`: discrete columns, each given its parents in a graph, by tables.

    p(x) = ∏_i p(x_i | x_{parents of i}),   p(x_i = a | pa) = (n(pa, a) + α)/(n(pa) + α k)

The graph is a setting, "0>1,1>2", or else the Chow–Liu tree of the training rows, the tree of largest likelihood (Chow and
Liu 1968). Without edges it is the control `independent`. Tables are posterior predictives under Dirichlet(α, …, α); if α is not
given, it is the one of a few with the largest evidence. log p is exact, also of rows with missing cells, which are summed
over (`jensen.graphical.inference`). In training, missing cells are left out of the counts they belong to: available cases,
not EM. Images are flattened.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from jensen.data.space import Levels, Space
from jensen.distributions.picking import picked_each
from jensen.errors import InputError
from jensen.graphical.chow_liu import mutual_information, spanning_tree
from jensen.graphical.dag import Dag, dag_of, parsed
from jensen.graphical.inference import log_prob, posterior, uniform
from jensen.graphical.strength import edge_information
from jensen.graphical.tables import Tables
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    DensityModel,
    OnCalls,
    Watch,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.rules import Rule, Ruled, log_probabilities
from jensen.training.fitter import Rows

PSEUDO_COUNTS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MOST_PAIR_CELLS = 1 << 33  # of all pairs' tables: a minute or so
BATCH = 1024
MOST_COLUMNS = 1 << 17


class BayesNet(ClosedForm, DensityModel, Ruled):
    """A Bayesian network of columns with k levels each.

    Args:
        event_shape: of a row.
        space: levels.
        edges: the graph as "parent>child,…", columns of the flattened row counted from 0; the Chow–Liu tree if None.
        pseudo_count: α, added to every cell of every table; by the evidence if None.
    """

    summary = "a Bayesian network of levels: the Chow–Liu tree, or a graph that is given; exact also with missing cells"
    paper = "Chow and Liu 1968"
    spaces = (Levels,)
    accepts_missing = True
    seeded = False
    table: Tensor

    def __init__(
        self, event_shape: tuple[int, ...], space: Space, *, edges: str | None = None, pseudo_count: float | None = None
    ) -> None:
        super().__init__(event_shape, space)
        assert isinstance(space, Levels)  # `spaces` says so, and `config` refuses others by name
        dims = math.prod(event_shape)
        if pseudo_count is not None and not 0 <= pseudo_count <= 1e9:
            raise InputError(f"pseudo_count must be from 0 to 10^9, got {pseudo_count}")
        if dims > MOST_COLUMNS:
            raise InputError(f"bayes-net takes at most {MOST_COLUMNS:,} columns, got {dims:,}; resize the data")
        if edges is None and (dims * space.k) ** 2 > MOST_PAIR_CELLS:
            raise InputError(
                f"the pairs of {dims} columns × {space.k} levels are too many for a Chow–Liu tree (columns × levels at most "
                f"{math.isqrt(MOST_PAIR_CELLS)}, got {dims * space.k}); resize the data, use fewer levels, or give edges"
            )
        self.k, self.edges, self.pseudo_count, self.settled = space.k, edges, pseudo_count, pseudo_count
        chain = [[column - 1] if column else [] for column in range(dims)]  # as large as any tree, until it is fitted
        self._tables = Tables(dag_of(chain) if edges is None else parsed(edges, dims), space.k)
        self.register_buffer("table", uniform(self._tables.cells, space.k))

    def rules(self) -> dict[str, Rule]:
        """Tables of conditional probabilities."""
        return {"table": log_probabilities(self.k)}

    @property
    def dag(self) -> Dag:
        """The graph."""
        return self._tables.dag

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """The tree where no graph is given, then counts, then the pseudo-count."""
        if self.edges is None:
            dims = math.prod(self.event_shape)
            smoothing = 1.0 if self.pseudo_count is None else self.pseudo_count
            shared = mutual_information(lambda: self._batches(train), dims, self.k, smoothing)
            self._tables = Tables(dag_of(spanning_tree(shared)), self.k)
        counts = torch.zeros(self._tables.cells, dtype=torch.int64)
        for codes in self._batches(train):
            self._tables.count(codes, counts)
        self.settled = self.pseudo_count
        if self.settled is None:
            self.settled = max(PSEUDO_COUNTS, key=lambda a: self._tables.log_evidence(counts, a))
        self.table.copy_(self._tables.log_probabilities(counts, self.settled))

    def resolved(self) -> dict[str, Any]:
        """The graph and the pseudo-count."""
        return {"edges": str(self.dag), "pseudo_count": self.settled}

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        **plan: Any,
    ) -> LogLikelihood:
        """Σ_i log p(x_i | parents), summed over missing cells, exact."""
        value = log_prob(self._tables, self.table.cpu(), self._codes(x))
        on_calls(len(x))
        return LogLikelihood(
            value=value,
            kind="exact",
            measure="counting",
            of=f"a Bayesian network with {sum(map(len, self.dag.parents))} edges",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    def posterior(self, x: Tensor) -> Tensor:
        """p(x_i = a | the observed cells) of every column.

        Args:
            x: rows `(B, *event_shape)`, NaN where missing.

        Returns:
            `(B, *event_shape, k)` float64; one-hot for observed cells. A row of NaN gives the marginals p(x_i = a).
        """
        codes = self._codes(x)
        at_once = max(1, (1 << 22) // (codes.shape[1] * self.k))
        parts = [posterior(self._tables, self.table.cpu(), part) for part in codes.split(at_once)]
        return torch.cat(parts).reshape(*x.shape, self.k)

    def edge_information(self) -> dict[tuple[int, int], float]:
        """(parent, child) → their mutual information in nats, for columns with one parent."""
        return edge_information(self._tables, self.table.cpu())

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """Ancestral: parents first, each column by its inverse distribution function given them."""
        assert isinstance(self.space, Levels)
        u = sample_noise(seed).uniform(sample_ids(n, start), (len(self.dag.parents),))
        codes = torch.zeros(n, len(self.dag.parents), dtype=torch.int64)
        for column in self.dag.order:
            law = self._tables.of(self.table.cpu(), column).exp()
            given = law[tuple(codes[:, parent] for parent in self.dag.parents[column])].expand(n, self.k)
            codes[:, column] = picked_each(given, u[:, column])
        return (self.space.first + self.space.step * codes.double()).reshape(n, *self.event_shape)

    def _codes(self, x: Tensor) -> Tensor:
        """The number of each cell's level, `(B, D)`; -1 where it is missing."""
        assert isinstance(self.space, Levels)
        flat = x.flatten(1).double().cpu()
        return torch.where(flat.isnan(), -1, self.space.index(flat.nan_to_num(nan=self.space.first)))

    def _batches(self, rows: Rows) -> Iterator[Tensor]:
        for start in range(0, len(rows), BATCH):
            batch = rows.batch(slice(start, start + BATCH))
            if batch.weight is not None:
                raise InputError("bayes-net counts rows and takes no weights; leave them out, or repeat rows")
            yield self._codes(batch.x)
