"""What an error bar costs: network calls an example for a wanted Monte-Carlo error of the bound; and whether the bar of a single example holds.

    python benchmarks/evaluation_cost.py RUN -o FILE.json [--rows 64] [--repetitions 16] [--every-rows 8] [--covered 2000]

Compares terms drawn by stratified importance sampling (what `evaluate` does) with every term of the chain. For each it
measures, on test rows of the run's own data, the variance of one repetition, and from it the calls an example that bring
(a) the mean over the whole test set and (b) a single example to the wanted standard error. At least two repetitions are
always needed for an error bar. Then one test row is scored `covered` times with noise of its own, by 8 repetitions of 4 calls: how many of its 95 %
Student intervals cover the mean of all. Seeds 1 and 2. Prints one JSON object and writes it into FILE.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from scipy import stats

import jensen
from jensen.data.examples import Examples
from jensen.files import write_json
from jensen.loading import reload_data
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise

REPETITIONS, CALLS = 8, 4


def cost(
    pipeline: Pipeline, rows: Examples, calls: int | None, repetitions: int, steps: int
) -> tuple[float, int, float]:
    """Variance of a repetition in nats², its calls, seconds a call."""
    began = time.perf_counter()
    ll = pipeline.log_likelihood(rows, calls=calls, repetitions=repetitions, seed=1)
    seconds = time.perf_counter() - began
    assert ll.stderr is not None
    variance = float((ll.stderr.square() * repetitions).mean())
    return variance, (calls or steps), seconds / (len(rows) * repetitions * (calls or steps))


def calls_needed(variance: float, calls: int, target: float, examples: int) -> int:
    """For a standard error of the mean over so many examples."""
    return calls * max(2, math.ceil(variance / (examples * target**2)))


def coverage(pipeline: Pipeline, row: Examples, repeats: int) -> dict[str, Any]:
    """Of one row's intervals."""
    alike = Examples(row.x.expand(repeats, *row.event_shape), torch.arange(repeats))
    ll = pipeline.log_likelihood(alike, calls=CALLS, repetitions=REPETITIONS, seed=2)
    assert ll.stderr is not None
    inside = (ll.value - ll.mean).abs() < stats.t.ppf(0.975, REPETITIONS - 1) * ll.stderr
    share = float(inside.double().mean())
    return {
        "repeats": repeats,
        "calls": REPETITIONS * CALLS,
        "covered_by_95_percent": share,
        "stderr": math.sqrt(share * (1 - share) / repeats),
        "bits_per_dim": ll.bits_per_dim,
        "sd_bits_per_dim": float(ll.value.std()) / (ll.dims * math.log(2)),
        "mean_bar_bits_per_dim": float(ll.stderr.square().mean().sqrt()) / (ll.dims * math.log(2)),
    }


def main() -> None:
    """All of it, into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=16)
    parser.add_argument("--every-rows", type=int, default=8)
    parser.add_argument("--covered", type=int, default=2000)
    options = parser.parse_args()
    pipeline = jensen.load(options.run)
    test = reload_data(pipeline.config).test
    steps = pipeline.model.chain().steps
    dims = math.prod(pipeline.event_shape)
    unit = dims * math.log(2)
    pick = Noise(1, "benchmark").permutation(len(test))
    table: dict[str, Any] = {"dims": dims, "T": steps, "test_examples": len(test), "methods": {}}
    sampled = test.take(pick[: options.rows])
    for name, rows, calls, repetitions in [
        *((f"sampled, {m} a repetition", sampled, m, options.repetitions) for m in (2, 4, 8, 16)),
        ("every term", test.take(pick[: options.every_rows]), None, 2),
    ]:
        variance, each, seconds = cost(pipeline, rows, calls, repetitions, steps)
        table["methods"][name] = {
            "sd_of_a_repetition_bits_per_dim": math.sqrt(variance) / unit,
            "calls_for_mean_within_0.005": calls_needed(variance, each, 0.005 * unit, len(test)),
            "calls_for_an_example_within_0.05": calls_needed(variance, each, 0.05 * unit, 1),
            "milliseconds_a_call": 1000 * seconds,
        }
    table["coverage"] = coverage(pipeline, test.take(pick[:1]), options.covered)
    write_json(options.output, table)
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
