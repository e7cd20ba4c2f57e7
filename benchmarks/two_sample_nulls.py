"""What the two-sample measures do where the truth is known: one law, small shifts, other scales, copies.

Rows of 8 columns, N(0, I), 200 of each sample, 1,000 training rows of which as many are the ceiling; REPEATS fresh worlds of each kind:

    one law     samples from the same law
    shift       every column moved by 0.25 of its standard deviation
    narrow      standard deviations of 0.8: samples too alike
    half        only rows with a positive first column: half of the data is missing
    copies      training rows moved by 0.02

For each measure: its mean, the standard deviation over worlds, how often p ≤ 0.05, and the standard error it gives over that deviation.

    python benchmarks/two_sample_nulls.py [REPEATS]
"""

import sys

import torch

from jensen.data.examples import Examples, Split
from jensen.data.space import Real
from jensen.evaluation.two_sample.gauge import Gauge

D, ROWS, TRAIN = 8, 200, 1000
Worlds = dict[str, list[tuple[float, float | None, float | None]]]


def world(seed: int) -> tuple[Split, dict[str, torch.Tensor]]:
    """Data, and samples of each kind."""
    draw = torch.Generator().manual_seed(seed)

    def rows(n: int) -> torch.Tensor:
        return torch.randn(n, D, generator=draw, dtype=torch.float64)

    x = rows(TRAIN + 2 * ROWS)
    parts = [Examples(part, torch.arange(len(part)) + 10**6 * n) for n, part in enumerate(x.split([TRAIN, ROWS, ROWS]))]
    fresh = rows(ROWS)
    half = fresh.clone()
    half[:, 0].abs_()
    kinds = {"one law": fresh, "shift": fresh + 0.25, "narrow": 0.8 * fresh, "half": half}
    copied = torch.randperm(TRAIN, generator=draw)[:ROWS]
    return Split(*parts, Real()), kinds | {"copies": x[copied] + 0.02 * rows(ROWS)}


def main(repeats: int) -> None:
    """Print a table for each kind of samples."""
    found: dict[str, Worlds] = {}
    for seed in range(repeats):
        split, kinds = world(seed)
        gauge = Gauge(split, ROWS, seed)
        for kind, drawn in kinds.items():
            for m in gauge.measures(drawn):
                found.setdefault(kind, {}).setdefault(m.name, []).append((m.value, m.stderr, m.p_value))
    for kind, measures in found.items():
        print(f"\n{kind}\n| measure | mean | sd | p ≤ 0.05 | error / sd |\n| --- | --- | --- | --- | --- |")
        for name, values in measures.items():
            print(line(name, values))


def line(name: str, found: list[tuple[float, float | None, float | None]]) -> str:
    """A row of the table."""
    value = torch.tensor([v for v, _, _ in found])
    errors = [e for _, e, _ in found if e is not None]
    p = [p for _, _, p in found if p is not None]
    spread = float(value.std())
    ratio = f"{float(torch.tensor(errors).square().mean().sqrt()) / spread:.2f}" if errors and spread > 0 else "–"
    share = f"{sum(x <= 0.05 for x in p) / len(p):.2f}" if p else "–"
    return f"| {name} | {float(value.mean()):.3g} | {spread:.2g} | {share} | {ratio} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
