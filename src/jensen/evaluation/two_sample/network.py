"""Features of a small network that was trained here, on the labels of the reference rows.

Two hidden layers of 128 and 64 numbers on standardised rows, tanh, cross-entropy, Adam with weights decayed, 400 steps of 128 rows. The features
are the 64 numbers before the last layer (as Heusel et al. 2017 take those of a far larger network). How well it tells rows that it has
not seen stands in its name: features of a network that can not tell the classes say nothing.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jensen.evaluation.two_sample.extractor import Extractor, Map, unit
from jensen.noise import Noise

WIDTHS, STEPS, BATCH = (128, 64), 400, 128
RATE, DECAY = 3e-3, 1e-2


def labelled(
    rows: Float[Tensor, "n *event"],
    labels: Int[Tensor, " n"],
    vectors: Map,
    fresh: tuple[Float[Tensor, "m *event"], Int[Tensor, " m"]],
    seed: int = 0,
) -> Extractor:
    """Train the network, and name it by the share of fresh rows it tells.

    Args:
        rows: reference rows.
        labels: their class codes from 0.
        vectors: rows → vectors in common units (`scaled`).
        fresh: rows that it is not trained on, with their labels.
        seed: of weights and batches.
    """
    x = vectors(rows).float()
    network = _trained(x, labels, Noise(seed, "features"))
    with torch.no_grad():
        right = float((network(vectors(fresh[0]).float()).argmax(1) == fresh[1]).double().mean())
    name = f"mlp-{WIDTHS[-1]}, trained here on the labels, {100 * right:.0f} % of {len(fresh[1])} fresh rows told"
    return unit(name, rows, _features(network, vectors), *network.state_dict().values())


def _features(network: nn.Sequential, vectors: Map) -> Map:
    @torch.no_grad()
    def found(rows: Tensor) -> Tensor:
        """All layers but the last."""
        hidden: Tensor = network[:-1](vectors(rows).float())
        return hidden

    return found


def _trained(x: Tensor, labels: Tensor, noise: Noise) -> nn.Sequential:
    sizes = (x.shape[1], *WIDTHS)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(int(noise.at("weights").uniform([0])[0] * 2**62))
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())]
        network = nn.Sequential(*hidden, nn.Linear(sizes[-1], int(labels.max()) + 1))
        optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY)
        picks = (noise.at("batches").uniform(range(STEPS), (BATCH,)) * len(x)).long()
        for step, batch in enumerate(picks):
            optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), labels[batch]).backward()
            optimizer.step()
    return network.requires_grad_(False).eval()
