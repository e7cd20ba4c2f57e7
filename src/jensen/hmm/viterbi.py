"""The most probable path of states, argmax_z p(z | x) (Viterbi 1967; Rabiner 1989, eq. 32-35).

    δ_1 = log π + log b_1,   δ_{t+1}(j) = max_i [δ_t(i) + log A_ij] + log b_{t+1}(j),

and back along the maximisers. It ends where the sequence does; -1 stands behind. The lower number wins a tie.
"""

import torch
from torch import Tensor

from jensen.hmm.chain import Chain
from jensen.hmm.products import max_product


def viterbi(chain: Chain, log_b: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The paths and log p(x, path).

    Args:
        chain: the states.
        log_b: log p(x_t | z_t = k), `(T, K, B)`.
        lengths: `(B,)`.

    Returns:
        Paths `(T, B)` int64, and log p(x, path) `(B,)`, 0 where the length is 0.
    """
    turned, delta = chain.transitions.log().T.contiguous(), torch.empty_like(log_b)
    kind = torch.uint8 if chain.states <= 256 else torch.int32
    back = torch.zeros(log_b.shape, dtype=kind)
    delta[0] = chain.initial.log()[:, None] + log_b[0]
    for t in range(1, len(log_b)):
        best, where = max_product(turned, delta[t - 1])
        delta[t], back[t] = best + log_b[t], where.to(kind)
    columns = torch.arange(log_b.shape[2])
    value, state = delta[(lengths - 1).clamp(min=0), :, columns].max(1)
    paths = torch.full((len(log_b), len(columns)), -1)
    for t in range(len(log_b) - 1, -1, -1):
        paths[t] = torch.where(lengths > t, state, -1)
        state = torch.where(lengths > t, back[t].gather(0, state[None])[0].long(), state)
    return paths, torch.where(lengths > 0, value, 0.0)
