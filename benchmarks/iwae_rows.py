"""Published rows of MNIST, dynamically binarised: the one-layer model of Burda et al. (2016), test log p in nats.

    JENSEN_DATA=… python benchmarks/iwae_rows.py vae-1 --budget 30m -o runs/rows

Two hidden layers of 200 tanh units either way, 50 latents, all 60,000 training images, drawn anew at every step. log p by importance
sampling with 5,000 draws on the 10,000 test images, drawn once (seed 0) and again (seeds 1 …, with 500 draws each, as seed 0 is once
more): the spread over those draws is a part of any such number, and papers do not give it. Of 256 of the rows the gap log p - elbo is
taken apart. `--rows` scores fewer, and `--against` tells the paired difference to another run. The same command goes on where it was
cut off; the result is written to benchmarks/results/.

The valid rows are among the training rows here, as in the paper: nothing is chosen by them (no stop rule).
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import jensen
from jensen.cli.gap import taken_apart
from jensen.cli.inputs import some_of
from jensen.data.binarise import Redrawn, binarised
from jensen.data.examples import Split

ELBO = {"objective": "elbo", "estimator": "stl", "batch_size": 256}
PLAIN = {**ELBO, "estimator": "reparameterised"}  # a path through a flow's inverse takes twice as long
IWAE = {"objective": "iwae", "estimator": "dreg"}
ROWS: dict[
    str, tuple[float | None, dict[str, Any]]
] = {  # word → the paper's number (nats, negative log-likelihood), settings
    "vae-1": (86.76, {**ELBO, "draws": 1}),
    "vae-5": (86.47, {**ELBO, "draws": 5}),
    "vae-50": (86.35, {**ELBO, "draws": 50, "batch_size": 100}),
    "iwae-5": (85.54, {**IWAE, "draws": 5, "batch_size": 256}),
    "iwae-50": (84.78, {**IWAE, "draws": 50, "batch_size": 100, "draws_growth": 0.95}),
    "mixture": (None, {**ELBO, "draws": 1, "prior": "mixture", "prior_components": 100}),
    "vamp": (None, {**ELBO, "draws": 1, "prior": "vamp", "prior_components": 200}),
    "plain": (None, {**PLAIN, "draws": 1}),
    "flow": (None, {**PLAIN, "draws": 1, "posterior": "flow"}),
}
NETWORK = {"latent_dim": 50, "network": "mlp", "width": 200, "depth": 2, "activation": "tanh"}
TRAINING = {"optimizer": "soap", "lr": 2e-3, "weight_decay": 0.0, "patience": 0}  # AdamW: lr 1e-3
TOLD = ("steps", "batch_size", "optimizer", "lr", "precision", "threads")  # of how it was trained
REDRAW_DRAWS, GAP_ROWS = 500, 256
RESULTS = Path(__file__).parent / "results"


def data(seed: int = 0) -> Split:
    """MNIST with all 60,000 training rows; those of valid are among them."""
    grey = jensen.load_data("mnist")
    joined = replace(
        grey.train,
        x=torch.cat([grey.train.x, grey.valid.x]),
        id=torch.cat([grey.train.id, grey.valid.id]),
        context=None,
    )
    split = binarised(replace(grey, train=joined), "dynamic", seed)
    assert isinstance(split.train, Redrawn)
    return split


def scored(run: Any, redraws: int, draws: int, rows: int, against: Path | None) -> dict[str, Any]:
    """Test log p of the published draw and of others; the paired difference to another run of the same data."""
    begun = time.time()
    first = data()
    test = some_of(first.test, rows)
    ll = run.log_likelihood(test, method="iwae", draws=draws, tolerance=1.0)
    seconds = time.time() - begun
    bound = run.log_likelihood(test, method="elbo")
    few = {"method": "iwae", "draws": REDRAW_DRAWS}
    means = [run.log_likelihood(data(seed).test, **few).mean for seed in range(redraws + 1)] if redraws else []
    found: dict[str, Any] = {
        "nll_nats": -ll.mean,
        "stderr_test_set": ll.test_set,
        "stderr_monte_carlo": ll.monte_carlo,
        "elbo_nats": -bound.mean,
        "seconds_to_score": round(seconds, 1),
        "images": len(test),
        "unreliable_rows": ll.unreliable,
        "test_draw_seed": 0,
        "draws": draws,
        "gap": taken_apart(run, test, GAP_ROWS, 0),
    }
    if against:
        other = jensen.load(against)
        pair = {"log_p": ll - other.log_likelihood(test, method="iwae", draws=draws, tolerance=1.0)}
        pair["elbo"] = bound - other.log_likelihood(test, method="elbo")
        found["difference_nats"] = {name: [each.mean, each.stderr] for name, each in pair.items()}
    if redraws:
        found["redraws"] = {
            "draws": REDRAW_DRAWS,
            "seeds": [0, redraws],
            "nll_nats": [-m for m in means],
            "sd": statistics.stdev(means),
        }
    return found


def added_up(path: Path, *more: float) -> list[float]:
    """The seconds of this call and of those before it, kept beside the run."""
    before = json.loads(path.read_text()) if path.is_file() else [0.0] * len(more)
    total = [round(a + b, 1) for a, b in zip(before, more, strict=True)]
    path.write_text(json.dumps(total))
    return total


def main() -> None:
    """One row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--budget", default="30m")
    parser.add_argument("--steps", type=int, help="instead of a budget: as many as a row that this one is held against")
    parser.add_argument("--redraws", type=int, default=3)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--rows", type=int, default=10_000, help="of test, the same for every run")
    parser.add_argument("--against", type=Path, help="the folder of another row's run, to be subtracted row by row")
    parser.add_argument("--optimizer", default=TRAINING["optimizer"])
    parser.add_argument("--lr", type=float, default=TRAINING["lr"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/rows"))
    options = parser.parse_args()
    paper, settings = ROWS[options.row]
    length = {"steps": options.steps} if options.steps else {"budget": options.budget}
    name = f"{options.row}_{options.optimizer}_{options.steps or options.budget}_{options.seed}"
    training = {**TRAINING, "optimizer": options.optimizer, "lr": options.lr}
    begun, worked = time.time(), time.process_time()
    run = jensen.fit(
        data(), "vae", seed=options.seed, run=options.output / name, **length, **NETWORK, **training, **settings
    )
    seconds = added_up(options.output / f"{name}.seconds.json", time.time() - begun, time.process_time() - worked)
    found = {
        "row": options.row,
        "paper_nll_nats": paper,
        **length,
        "seed": options.seed,
        "seconds_to_fit": seconds[0],
        "processor_seconds_to_fit": seconds[1],
        **{word: run.config["training"][word] for word in TOLD},
        **scored(run, options.redraws, options.draws, options.rows, options.against),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"iwae_{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
