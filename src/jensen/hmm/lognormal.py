"""log N(x_o; m_k, Σ_k,oo) of the observed cells of steps, for all states and sequences, time first.

For a diagonal Σ_k the square is expanded, about the mean of the means c, so that all states are one product of matrices:

    log N(x; m_k, σ_k²) = Σ_j [(x_j - c_j) μ_kj / σ_kj² - ½ (x_j - c_j)² / σ_kj²] - ½ Σ_j [μ_kj² / σ_kj² + log 2π σ_kj²],

μ = m - c. What that loses, beside the rounding of the square itself, is 10^-16 Σ_j μ_kj² / σ_kj² nats; where this sum is
more than `GENTLE` the differences x - m are taken first. A missing cell counts as c (or m), and what it added is given back.
"""

import torch
from torch import Tensor

from jensen.hmm.layout import missing_cells
from jensen.hmm.products import MANY, by_state
from jensen.mixture.normals import LOG_2PI, Dense, Diagonal, Normals

GENTLE = 256.0
HUGE = 1e200  # stands for infinity: its square is infinite, its product with a mean is not


def log_normals(normals: Normals, steps: Tensor) -> Tensor:
    """log N of steps `(T, B, d)` float64, `(T, K, B)`; exactly 0 for an empty step.

    A complete step goes through the same operations whatever is missing elsewhere: its bits do not depend on its company.
    """
    times, count, d = steps.shape
    if times > 1 and count < MANY:  # operations run along sequences: few and long ones are taken as many short ones
        found = log_normals(normals, steps.reshape(1, times * count, d))[0]
        return by_state(found, times).contiguous()
    missing = missing_cells(steps)
    if isinstance(normals, Diagonal):
        value = _diagonal(normals, steps, missing)
    else:
        assert isinstance(normals, Dense)
        value = _dense(normals, steps, missing)
    return value if missing is None else value.masked_fill_(missing.all(2)[:, None], 0.0)


def features(steps: Tensor, centre: Tensor) -> Tensor:
    """x - c, (x - c)² and 1 of steps `(T, B, d)`, `(T, 2 d + 1, B)`; a missing cell counts as c."""
    d = len(centre)
    out = steps.new_empty(len(steps), 2 * d + 1, steps.shape[1])
    torch.sub(steps.mT, centre[:, None], out=out[:, :d])
    out[:, :d].nan_to_num_(nan=0.0, posinf=HUGE, neginf=-HUGE)
    torch.square(out[:, :d], out=out[:, d : 2 * d])
    out[:, 2 * d] = 1.0
    return out


def _diagonal(normals: Diagonal, steps: Tensor, missing: Tensor | None) -> Tensor:
    centre = normals.means.mean(0)
    shift = ((normals.means - centre) * normals.whiten).square()
    constant = normals.variances.log() + LOG_2PI
    if gentle(shift):
        constant = constant + shift
        weights = [(normals.means - centre) * normals.whiten.square(), -0.5 * normals.whiten.square()]
        value = torch.matmul(torch.cat([*weights, -0.5 * constant.sum(1, keepdim=True)], 1), features(steps, centre))
    else:
        value = _squares(normals, steps, missing).add_(constant.sum(1)[:, None]).mul_(-0.5)
    return value if missing is None else value.add_((0.5 * constant) @ missing.mT.to(steps))


def gentle(shift: Tensor) -> bool:
    """Whether squares may be expanded, for μ² / σ² `(K, d)`."""
    return float(shift.sum(1).amax()) <= GENTLE


def _squares(normals: Diagonal, steps: Tensor, missing: Tensor | None) -> Tensor:
    """Σ_j ((x_j - m_kj) / σ_kj)² over observed cells, `(T, K, B)`."""
    shape = (len(steps), len(normals.means), steps.shape[1])
    out, work = steps.new_zeros(shape), steps.new_empty(shape)
    for j, column in enumerate(steps.permute(2, 0, 1).contiguous()):
        torch.sub(column[:, None], normals.means[:, j, None], out=work)
        work.mul_(normals.whiten[:, j, None])
        if missing is not None:
            work.nan_to_num_(nan=0.0)
        out.addcmul_(work, work)
    return out


def _dense(normals: Dense, steps: Tensor, missing: Tensor | None) -> Tensor:
    """‖L_k⁻¹ (x - m_k)‖² of complete steps, one state after the other; others by their patterns."""
    times, count, d = steps.shape
    x = steps.reshape(-1, d).T.contiguous()
    if missing is not None:
        x = x.nan_to_num(nan=0.0)
    value = x.new_empty(times, len(normals.means), count)
    white, row = torch.empty_like(x), x.new_empty(times * count)
    for k, (mean, matrix) in enumerate(zip(normals.means, normals.whiten, strict=True)):
        torch.mm(matrix.T, x - mean[:, None], out=white)
        torch.sum(white.square_(), 0, out=row)
        value[:, k] = row.view(times, count)
    value.add_((normals.log_det + d * LOG_2PI)[:, None]).mul_(-0.5)
    if missing is None:
        return value
    places = (missing.any(2) & ~missing.all(2)).nonzero()
    incomplete = steps[places[:, 0], places[:, 1]]
    for index in normals.groups(incomplete) if len(incomplete) else ():
        t, sequence = places[index].T
        value[t, :, sequence] = normals.given(incomplete[index]).log_prob
    return value
