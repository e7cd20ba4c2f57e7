"""Hidden Markov models beside hmmlearn: the same sequences, the same start, without a prior, normals diag and full.

    python benchmarks/hmm.py [--sequences 1000] [--steps 100] [--long 100000] [--states 8] [--dims 4] [--iterations 5]
                             [--rounds 5] [--threads 2] [--peer-path DIR]

One process for both, which take turns, so that a machine whose speed wanders slows both; the ratio is that of the medians
over rounds. Of hmmlearn both implementations run, `log` and `scaling`, and the ratio is to the faster one. Reported:

    fit        seconds of an iteration of EM: of `iterations` of them, without stopping
    score      seconds of log p of all sequences
    cpu        the same in processor seconds, which a shared machine disturbs less; of all threads together
    loglik     nats a step after the iterations, by jensen's density, of both ends; and how far log p differs at the start

hmmlearn is no dependency of the run: `pip install --target DIR hmmlearn` and `--peer-path DIR` will do. Prints one JSON object.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
import torch

from jensen.data.examples import Examples
from jensen.hmm.em import Parameters, Problem
from jensen.hmm.layout import Layout
from jensen.hmm.sequences import Sequences
from jensen.mixture.ascent import Settings
from jensen.mixture.prior import Prior
from jensen.models.hmm import HiddenMarkov


def world(sequences, steps, states, dims, seed=0):
    """Rows of a chain that stays, with overlapping emissions, and a start that is not the truth."""
    draw = np.random.default_rng(seed)
    moves = draw.dirichlet(np.ones(states), states) * 0.3 + 0.7 * np.eye(states)
    means = draw.normal(size=(states, dims)) * 1.5
    truth = HiddenMarkov.from_parameters(
        (steps, dims), torch.full((states,), 1 / states), torch.from_numpy(moves), means=torch.from_numpy(means)
    )
    x = truth.sample(sequences, seed=seed)
    start = {
        "initial": np.full(states, 1 / states),
        "moves": 0.5 * np.eye(states) + 0.5 / states,
        "means": means + draw.normal(size=means.shape) * 0.5,
    }
    return x, start


def covariances(word, states, dims):
    return np.ones((states, dims)) if word == "diag" else np.repeat(np.eye(dims)[None], states, 0)


def peer(start, word, implementation, iterations):
    from hmmlearn.hmm import GaussianHMM

    states, dims = start["means"].shape
    model = GaussianHMM(
        states, word, implementation=implementation, n_iter=iterations, tol=-math.inf, init_params="", min_covar=0,
        means_weight=0, covars_prior=0, covars_weight=0,
    )  # fmt: skip
    model.startprob_, model.transmat_, model.means_ = start["initial"], start["moves"], start["means"]
    model.covars_ = covariances(word, states, dims)
    return model


def ours(x, start, word, iterations):
    """The problem and its start."""
    states, dims = start["means"].shape
    model = model_of(x, start["initial"], start["moves"], start["means"], covariances(word, states, dims), word)
    now = model.parameters_now
    mode = torch.ones(dims, dtype=torch.float64) if word == "diag" else torch.eye(dims, dtype=torch.float64)
    emission = replace(now.emission, prior=Prior(0.0, 0.0, mode), centre=x.flatten(0, 1).mean(0))
    rows = Sequences(Examples(x, torch.arange(len(x))), Layout(tuple(x.shape[1:])), states)
    return Problem(rows, 0.0, Settings(-math.inf, iterations)), Parameters(now.chain, emission), model


def model_of(x, initial, moves, means, spread, word):
    given = [torch.as_tensor(np.ascontiguousarray(value)) for value in (initial, moves, means, spread)]
    return HiddenMarkov.from_parameters(
        tuple(x.shape[1:]), given[0], given[1], means=given[2], covariances=given[3], covariance=word
    )


def timed(function):
    """Seconds on the clock, of the processor, and the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    return time.perf_counter() - clock, time.process_time() - processor, result


def compared(options, x, start, word):
    flat, lengths = x.flatten(0, 1).numpy(), [x.shape[1]] * len(x)
    iterations = options.iterations
    times = {}

    def note(who, what, seconds, processor, share=1):
        for unit, value in (("seconds", seconds), ("cpu", processor)):
            times.setdefault(f"{what}_{unit}", {}).setdefault(who, []).append(value / share)

    with torch.no_grad():
        for _ in range(options.rounds):
            for implementation in ("log", "scaling"):
                them = peer(start, word, implementation, iterations)
                seconds, processor, value = timed(lambda them=them: them.score(flat, lengths))
                note(implementation, "score", seconds, processor)
                seconds, processor, _ = timed(lambda them=them: them.fit(flat, lengths))
                note(implementation, "fit", seconds, processor, iterations)
            problem, begin, model = ours(x, start, word, iterations)
            seconds, processor, mine = timed(lambda model=model: model.log_likelihood(x).value.sum())
            note("jensen", "score", seconds, processor)
            seconds, processor, found = timed(lambda p=problem, b=begin: p.ascend(b))
            note("jensen", "fit", seconds, processor, found.iterations + 1)  # an ascent ends with one more E-step
    spread = them.covars_ if word == "full" else np.stack([np.diag(c) for c in them.covars_])
    end = model_of(x, them.startprob_, them.transmat_, them.means_, spread, word)
    report = {name: {who: statistics.median(v) for who, v in by.items()} for name, by in times.items()}
    ratios = {name: min(by["log"], by["scaling"]) / by["jensen"] for name, by in report.items()}
    steps = x.shape[0] * x.shape[1]
    return {
        "times_as_fast": ratios,
        **report,
        "loglik_jensen": found.statistics.log_likelihood / steps,
        "loglik_hmmlearn": float(end.log_likelihood(x).value.sum()) / steps,
        "relative_difference_at_start": abs(float(mine) / value - 1),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--long", type=int, default=100_000)
    parser.add_argument("--states", type=int, default=8)
    parser.add_argument("--dims", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--peer-path")
    options = parser.parse_args()
    if options.peer_path:
        sys.path.append(options.peer_path)
    torch.set_num_threads(options.threads)
    shape = (options.states, options.dims)
    table = {"states": options.states, "dims": options.dims, "threads": options.threads}
    for name, sequences, steps in (("many", options.sequences, options.steps), ("long", 1, options.long)):
        x, start = world(sequences, steps, *shape)
        rows = {word: compared(options, x, start, word) for word in ("diag", "full")}
        table[name] = {"sequences": sequences, "steps": steps, **rows}
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
