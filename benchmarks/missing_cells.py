"""A fifth of the cells knocked out of wine and breast-cancer: held-out likelihood and filled-in cells.

    python benchmarks/missing_cells.py [--share 0.2] [--repeats 5] [--seed 0]

In each repeat the rows are split 70/10/20 and each cell is knocked out with the same chance, everywhere; a model sees
training and validation rows as they are left, and fills in the knocked-out cells of the test rows. Reported over
repeats, mean and standard error:

    nats      log-likelihood a test row of its observed cells, in standardised columns: the mixture (gmm with the settings
              of FIT, which are coarser than `jensen fit`'s for speed: nearly every row has its own pattern of holes), one
              normal fitted by EM with missing cells (n_components=1), each column's own normal
    rmse      of the knocked-out test cells, in training standard deviations of the column: mixture, one normal,
              scikit-learn's IterativeImputer, the column's mean
    crps      of 100 draws of the mixture, of one normal and of each column's own normal, which have a law and not only a
              mean; beside |error| of the point imputations, which is the CRPS of a point

Prints one JSON object.
"""

import argparse
import json
import math
import sys

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import jensen
from jensen.data.examples import Examples, Split
from jensen.data.space import Real

DRAWS = 100
FIT = {"max_components": 8, "restarts": 1, "tolerance": 1e-5}


def split_of(x, order):
    """70/10/20 of the rows in this order."""
    a, b = round(0.7 * len(x)), round(0.8 * len(x))
    parts = [Examples(torch.from_numpy(x[i]), torch.from_numpy(i)) for i in np.split(order, [a, b])]
    return Split(*parts, Real(), facts={"source": "array"})


def crps(draws, truth):
    """E|X - y| - ½ E|X - X'| from draws `(s, n)` (Gneiting and Raftery 2007, equation 21), the unbiased version."""
    draws = np.sort(draws, 0)
    s = len(draws)
    rank = 2 * np.arange(1, s + 1)[:, None] - s - 1
    return np.abs(draws - truth).mean(0) - (rank * draws).sum(0) / (s * (s - 1))


def repeat(x, share, seed):
    draw = np.random.default_rng(seed)
    order, gone = draw.permutation(len(x)), draw.random(x.shape) < share
    train = order[: round(0.7 * len(x))]
    seen = np.where(gone, np.nan, x)
    x, seen = ((t - np.nanmean(seen[train], 0)) / np.nanstd(seen[train], 0) for t in (x, seen))
    split = split_of(seen, order)
    test, holes = split.test.id.numpy(), gone[split.test.id.numpy()]
    truth, rows = x[test][holes], seen[test]
    gmm = jensen.fit(split, "gmm", progress=False, **FIT)
    one = jensen.fit(split, "gmm", n_components=1, progress=False, **FIT)
    independent = jensen.fit(split, "independent", progress=False)
    peer = IterativeImputer(random_state=0, max_iter=30).fit(seen[train])
    filled = {
        "gmm": gmm.impute(rows).numpy(),
        "one normal": one.impute(rows).numpy(),
        "IterativeImputer": peer.transform(rows),
        "column mean": np.zeros_like(rows),
    }
    errors = {name: rows_filled[holes] - truth for name, rows_filled in filled.items()}
    print(
        f"repeat {seed} done, {gmm.config['model']['options']['n_components']} components", file=sys.stderr, flush=True
    )
    alone = np.random.default_rng(seed).normal(size=(DRAWS, int(holes.sum())))  # columns have mean 0 and variance 1
    laws = {
        name: model.impute(rows, DRAWS, seed=seed).numpy()[:, holes]
        for name, model in (("gmm", gmm), ("one normal", one))
    }
    models = {"gmm": gmm, "one normal": one, "independent": independent}
    return {
        "nats": {name: model.log_likelihood(split.test).mean for name, model in models.items()},
        "rmse": {name: math.sqrt(float((error**2).mean())) for name, error in errors.items()},
        "crps": {name: float(np.abs(error).mean()) for name, error in errors.items()}
        | {name: float(crps(draws, truth).mean()) for name, draws in (laws | {"column's normal": alone}).items()},
        "n_components": gmm.config["model"]["options"]["n_components"],
    }


def summary(found):
    """Mean and standard error over repeats of each number, and of each difference to the mixture."""
    table = {"n_components": [run["n_components"] for run in found]}
    for measure in ("nats", "rmse", "crps"):
        values = {name: np.array([run[measure][name] for run in found]) for name in found[0][measure]}
        root = math.sqrt(len(found))
        table[measure] = {
            name: {
                "mean": round(float(v.mean()), 4),
                "stderr": round(float(v.std(ddof=1)) / root, 4),
                "minus_gmm": round(float((v - values["gmm"]).mean()), 4),
                "stderr_minus_gmm": round(float((v - values["gmm"]).std(ddof=1)) / root, 4),
            }
            for name, v in values.items()
        }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.repeats)
    data = {"wine": load_wine().data, "breast-cancer": load_breast_cancer().data}
    print(
        json.dumps(
            {name: summary([repeat(x, options.share, seed) for seed in seeds]) for name, x in data.items()}, indent=2
        )
    )


if __name__ == "__main__":
    main()
