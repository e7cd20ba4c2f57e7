"""The E-step of rows with missing cells, which are marginalised exactly: one more latent variable.

A missing cell counts with its conditional mean and adds its conditional variance to the scatter (Ghahramani and Jordan
1994, "Supervised learning from incomplete data via an EM approach"). In float64, a group of rows at a time.
"""

from collections.abc import Iterator

from torch import Tensor

from jensen.mixture.normals import Normals
from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import View


def expectations(
    chunk: Chunk, log_weights: Tensor, normals: Normals, centre: Tensor, view: View
) -> Iterator[Statistics]:
    """The statistics of rows with missing cells, about `centre (K, d)`.

    Args:
        chunk: the rows.
        log_weights: log w_k, `(K,)`.
        normals: the components.
        centre: what the statistics are about.
        view: what they keep of matrices.
    """
    for index in normals.groups(chunk.x):
        part = chunk.at(index)
        given, weight = normals.given(part.x.double()), part.weight.double()
        joint = given.log_prob + log_weights
        log_density = joint.logsumexp(1)
        share = ((joint - log_density[:, None]).exp() * weight[:, None]).T.contiguous()
        offset = (given.mean - centre).transpose(0, 1)
        weighted = share[:, :, None] * offset
        second = view.gram(weighted, offset) + given.second(share, view)
        total = float((log_density * weight).sum())
        yield Statistics(centre, share.sum(1), weighted.sum(1), second, view, total, float(weight.sum()))
