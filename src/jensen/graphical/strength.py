"""How much an edge of a forest carries: the mutual information of a column and its parent, under the model itself.

    I(x_c; x_p) = Σ_{a, b} p(x_p = a) p(x_c = b | x_p = a) log p(x_c = b | x_p = a)/p(x_c = b)

Over the edges of a tree they sum to Σ_i H(x_i) − H(x): all that the model's likelihood gains, in the mean over its own rows, on the
product of its marginals. (Chow and Liu 1968, equation 14.)
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.graphical.inference import posterior
from jensen.graphical.tables import Tables


def edge_information(tables: Tables, table: Float64[Tensor, " cells"]) -> dict[tuple[int, int], float]:
    """Parent and child → mutual information in nats, for the columns that have one parent."""
    columns = len(tables.dag.parents)
    marginals = posterior(tables, table, torch.full((1, columns), -1))[0]
    return {
        (above[0], child): _information(marginals[above[0]], tables.of(table, child), marginals[child])
        for child, above in enumerate(tables.dag.parents)
        if len(above) == 1
    }


def _information(parent: Tensor, log_given: Tensor, child: Tensor) -> float:
    joint = parent[:, None] * log_given.exp()
    ratio = torch.where(joint > 0, log_given - child.log(), 0.0)
    return max(0.0, float((joint * ratio).sum()))
