"""What an error bar costs: network calls an example for a wanted Monte-Carlo error of the bound.

    python benchmarks/evaluation_cost.py RUN [--rows 64] [--repetitions 16] [--every-rows 8]

Compares terms drawn by stratified importance sampling (what `evaluate` does) with every term of the chain. For each it
measures, on test rows of the run's own data, the variance of one repetition, and from it the calls an example that bring
(a) the mean over the whole test set and (b) a single example to the wanted standard error. At least two repetitions are
always needed for an error bar. Prints one JSON object.
"""

import argparse
import json
import math
import time

import torch

import jensen
from jensen.loading import reload_data
from jensen.noise import Noise


def cost(pipeline, rows, calls, repetitions, steps):
    began = time.perf_counter()
    ll = pipeline.log_likelihood(rows, calls=calls, repetitions=repetitions, seed=1)
    seconds = time.perf_counter() - began
    variance = float((ll.stderr.square() * repetitions).mean())
    return variance, (calls or steps), seconds / (len(rows) * repetitions * (calls or steps))


def calls_needed(variance, calls, target, examples):
    return calls * max(2, math.ceil(variance / (examples * target**2)))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=16)
    parser.add_argument("--every-rows", type=int, default=8)
    options = parser.parse_args()
    pipeline = jensen.load(options.run)
    test = reload_data(pipeline.config).test
    steps = pipeline.model.chain().steps
    dims = math.prod(pipeline.event_shape)
    unit = dims * math.log(2)
    pick = Noise(1, "benchmark").permutation(len(test))
    table = {"dims": dims, "T": steps, "test_examples": len(test), "methods": {}}
    sampled = test.take(pick[: options.rows])
    for name, rows, calls, repetitions in [
        *((f"sampled, {m} a repetition", sampled, m, options.repetitions) for m in (2, 4, 8, 16)),
        ("every term", test.take(pick[: options.every_rows]), None, 2),
    ]:
        variance, each, seconds = cost(pipeline, rows, calls, repetitions, steps)
        table["methods"][name] = {
            "sd_of_a_repetition_bits_per_dim": math.sqrt(variance) / unit,
            "calls_for_mean_within_0.01": calls_needed(variance, each, 0.01 * unit, len(test)),
            "calls_for_an_example_within_0.05": calls_needed(variance, each, 0.05 * unit, 1),
            "milliseconds_a_call": 1000 * seconds,
        }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
