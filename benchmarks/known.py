"""Worlds whose density is known: how far is each model from the truth?

    python benchmarks/known.py moons -m gmm,kde,flow -o DIR [--rows 10000] [--steps 2000] [--seed 0]
    python benchmarks/known.py --write toy.csv three-normals --rows 600        # the rows alone

Draws rows from a world, fits models with `jensen compare`, and prints log p of the world on the same test rows and, for each model,
truth − model: a paired difference with its standard error, whose mean over all rows is KL(truth ‖ model) (for a bound: that or less).

    three-normals  Σ w_k N(m_k, L_k L_kᵀ) in the plane
    moons          two half circles with normal noise; p by quadrature over the angle
    rings          two circles with normal noise; p has a Bessel function (Rice's law)
    banana         x_1 ~ N(0, 1), x_2 | x_1 ~ N(x_1², ½²)
    checkerboard   uniform on 8 of 16 squares; p jumps
    houses         eight columns in the likeness of the California housing table: regions, heavy tails, curved dependences
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy import special, stats
from scipy.spatial import distance

Rows = np.ndarray  # (n, columns), float64


@dataclass(frozen=True)
class World:
    """A distribution that can be drawn from and scored.

    Attributes:
        columns: names.
        draw: number of rows, generator → rows.
        log_density: rows → log p of each, in nats.
    """

    columns: tuple[str, ...]
    draw: Callable[[int, np.random.Generator], Rows]
    log_density: Callable[[Rows], np.ndarray]


# Three normals.
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[-2, 0], [2, 1], [0, -2.5]])
FACTORS = np.array([[[0.8, 0.0], [0.5, 0.4]], [[0.5, 0], [-0.4, 0.7]], [[1.2, 0], [0, 0.3]]])  # Σ_k = L_k L_kᵀ


def _normals_draw(n: int, draw: np.random.Generator) -> Rows:
    component = draw.choice(3, n, p=WEIGHTS)
    return np.array([MEANS[k] + FACTORS[k] @ draw.normal(size=2) for k in component])


def _normals_log_density(x: Rows) -> np.ndarray:
    parts = [stats.multivariate_normal(m, f @ f.T).logpdf(x) for m, f in zip(MEANS, FACTORS, strict=True)]
    return special.logsumexp(np.stack(parts, 1) + np.log(WEIGHTS), 1)


# Two half circles, as scikit-learn's make_moons draws them, with noise of 0.1.
NOISE = 0.1


def _arcs(angle: np.ndarray) -> np.ndarray:
    """The points at `angle (n,)` of both half circles, `(2, n, 2)`."""
    upper = np.stack([np.cos(angle), np.sin(angle)], -1)
    return np.stack([upper, np.array([1.0, 0.5]) - upper])


def _moons_draw(n: int, draw: np.random.Generator) -> Rows:
    points = _arcs(draw.uniform(0, np.pi, n))[draw.integers(2, size=n), np.arange(n)]
    return points + NOISE * draw.normal(size=(n, 2))


def _moons_log_density(x: Rows) -> np.ndarray:
    """log of the mean over arcs and angles of N(x; point, noise²): Gauss–Legendre with 150 nodes, a fifth of the noise apart."""
    nodes, weights = np.polynomial.legendre.leggauss(150)
    points = _arcs(np.pi / 2 * (nodes + 1)).reshape(-1, 2)
    log_weights = np.tile(np.log(weights / 4), 2)
    squares = distance.cdist(x, points, "sqeuclidean") / NOISE**2
    return special.logsumexp(log_weights - squares / 2, 1) - np.log(2 * np.pi * NOISE**2)


RADII = np.array([1.0, 2.0])


def _rings_draw(n: int, draw: np.random.Generator) -> Rows:
    angle, radius = draw.uniform(0, 2 * np.pi, n), RADII[draw.integers(2, size=n)]
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1) + NOISE * draw.normal(size=(n, 2))


def _rings_log_density(x: Rows) -> np.ndarray:
    """Around a circle of radius R the angle integrates to exp(-(r² + R²)/2s²) I_0(rR/s²) / 2πs²."""
    r = np.linalg.norm(x, axis=1)[:, None]
    log_bessel = np.log(special.ive(0, r * RADII / NOISE**2))
    return special.logsumexp(log_bessel - (r - RADII) ** 2 / (2 * NOISE**2), 1) - np.log(4 * np.pi * NOISE**2)


def _banana_draw(n: int, draw: np.random.Generator) -> Rows:
    first = draw.normal(size=n)
    return np.stack([first, draw.normal(first**2, 0.5)], 1)


def _banana_log_density(x: Rows) -> np.ndarray:
    return stats.norm.logpdf(x[:, 0]) + stats.norm.logpdf(x[:, 1], x[:, 0] ** 2, 0.5)


def _board_draw(n: int, draw: np.random.Generator) -> Rows:
    square = draw.integers(8, size=n)
    across, up = square % 4, 2 * (square // 4) + square % 2
    return np.stack([across, up], 1) - 2.0 + draw.uniform(size=(n, 2))


def _board_log_density(x: Rows) -> np.ndarray:
    cell = np.floor(x + 2).astype(int)
    inside = ((cell >= 0) & (cell < 4)).all(1) & (cell.sum(1) % 2 == 0)
    return np.where(inside, -np.log(8.0), -np.inf)


# Houses: a region k, then each column given those before it.
REGIONS = np.array([0.35, 0.25, 0.2, 0.12, 0.08])
PLACES = np.array(
    [[34.0, -118.2], [37.6, -122.1], [36.7, -119.7], [38.6, -121.4], [32.9, -117.1]]
)  # latitude, longitude
SPREADS = np.array(
    [
        [[0.2, 0], [-0.15, 0.25]],
        [[0.35, 0], [-0.2, 0.25]],
        [[0.6, 0], [-0.7, 0.3]],
        [[0.5, 0], [0.1, 0.5]],
        [[0.2, 0], [-0.02, 0.12]],
    ]
)
INCOMES = np.array([1.25, 1.45, 0.95, 1.05, 1.2])  # mean of the log of the median income
AGES = np.array([[4, 2.2], [3, 2.2], [2, 3], [1.6, 3], [2.2, 3]])  # a, b of a beta law on 0 to 52 years


def _rooms(income: np.ndarray) -> stats.rv_continuous:
    return stats.t(5, 1.65 + 0.3 * np.tanh(2 * (income - 1.2)), 0.18)


def _bedrooms(rooms: np.ndarray) -> stats.rv_continuous:
    return stats.t(4, 0.05 + 0.15 * (rooms - 1.65) ** 2, 0.06)


def _population(age: np.ndarray) -> stats.rv_continuous:
    return stats.norm(7.6 - 0.018 * age, 0.45 + 0.006 * age)


def _occupation(rooms: np.ndarray) -> stats.rv_continuous:
    return stats.t(4, 1.05 - 0.2 * (rooms - 1.65), 0.22)


def _houses_draw(n: int, draw: np.random.Generator) -> Rows:
    region = draw.choice(len(REGIONS), n, p=REGIONS)
    place = PLACES[region] + np.einsum("nij,nj->ni", SPREADS[region], draw.normal(size=(n, 2)))
    income = draw.normal(INCOMES[region], 0.42)
    age = 52 * draw.beta(*AGES[region].T)
    rooms = _rooms(income).rvs(n, random_state=draw)
    others = [law.rvs(n, random_state=draw) for law in (_bedrooms(rooms), _population(age), _occupation(rooms))]
    return np.column_stack([np.exp(income), age, np.exp(np.column_stack([rooms, *others])), place])


def _houses_log_density(x: Rows) -> np.ndarray:
    """Columns that are logarithms of what is drawn bring -log x each."""
    logs = np.log(x[:, [0, 2, 3, 4, 5]])
    income, rooms, bedrooms, population, occupation = logs.T
    age = x[:, 1]
    regions = [
        np.log(w)
        + stats.multivariate_normal(place, spread @ spread.T).logpdf(x[:, 6:])
        + stats.norm.logpdf(income, mean, 0.42)
        + stats.beta.logpdf(age / 52, a, b)
        - np.log(52)
        for w, place, spread, mean, (a, b) in zip(REGIONS, PLACES, SPREADS, INCOMES, AGES, strict=True)
    ]
    given = _rooms(income).logpdf(rooms) + _bedrooms(rooms).logpdf(bedrooms)
    given += _population(age).logpdf(population) + _occupation(rooms).logpdf(occupation)
    return special.logsumexp(np.stack(regions), 0) + given - logs.sum(1)


PLANE = ("a", "b")
HOUSES = ("income", "age", "rooms", "bedrooms", "population", "occupation", "latitude", "longitude")
WORLDS = {
    "three-normals": World(PLANE, _normals_draw, _normals_log_density),
    "moons": World(PLANE, _moons_draw, _moons_log_density),
    "rings": World(PLANE, _rings_draw, _rings_log_density),
    "banana": World(PLANE, _banana_draw, _banana_log_density),
    "checkerboard": World(PLANE, _board_draw, _board_log_density),
    "houses": World(HOUSES, _houses_draw, _houses_log_density),
}


def write(path: Path, world: World, rows: int, seed: int) -> None:
    """A csv of rows with every digit."""
    drawn = world.draw(rows, np.random.default_rng(seed))
    np.savetxt(path, drawn, fmt="%.17g", delimiter=",", header=",".join(world.columns), comments="")


def gaps(name: str, models: str, folder: Path, *, rows: int, steps: int, seed: int) -> dict[str, object]:
    """Fit and compare; the truth on the test rows, and truth − model of each model."""
    import jensen
    from jensen.evaluation.compare import compare

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / f"{name}.csv"
    write(table, WORLDS[name], rows, seed)
    split = jensen.load_data(table)
    found = compare(split, models, run=folder / name, steps=steps)
    print(found)
    x = split.test.batch(slice(None)).x.double().numpy()
    scores = {entry.word: entry.test for entry in found.entries if entry.test is not None}
    some = next(iter(scores.values()))
    truth = replace(some, value=torch.tensor(WORLDS[name].log_density(x)), kind="exact", of=name, stderr=None, terms={})
    print(f"{'truth':12} {truth}")
    for word, score in scores.items():
        print(f"truth − {word:12} {truth - score}")
    differences = {word: {"mean": (truth - s).mean, "stderr": (truth - s).stderr} for word, s in scores.items()}
    return {
        "world": name,
        "rows": rows,
        "steps": steps,
        "seed": seed,
        "truth": truth.to_dict(),
        "truth − model": differences,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", choices=WORLDS)
    parser.add_argument("-m", "--models", default="gmm,kde,flow,ar")
    parser.add_argument("-o", "--output", type=Path, default=Path("known"), help="folder of the comparison")
    parser.add_argument("--rows", type=int, default=10_000, help="before they are split 70/10/20")
    parser.add_argument("--steps", type=int, default=2000, help="of models with gradients")
    parser.add_argument("--seed", type=int, default=0, help="of the rows")
    parser.add_argument("--write", type=Path, help="write the rows to this csv and stop")
    asked = parser.parse_args()
    if asked.write:
        write(asked.write, WORLDS[asked.world], asked.rows, asked.seed)
        return
    result = gaps(asked.world, asked.models, asked.output, rows=asked.rows, steps=asked.steps, seed=asked.seed)
    json.dump(result, sys.stdout, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main()
