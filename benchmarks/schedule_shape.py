"""What the shape of a learned schedule is worth: the variance of one random draw of the bound, and the bound of short chains.

    jensen fit digits -m diffusion --steps 1500 -o RUN --set trained_shape=true
    python benchmarks/schedule_shape.py RUN [--rows 200] [-o FILE.json]

One network along the schedule that is even in log-SNR and along the learned one, with reverse variance, emission and proposal measured anew on each, on the same validation rows. The first table has the Monte-Carlo variance of the
bound's integral for one random level a row, t uniform and t from the proposal that calibration measured, over the least of the four; the second the bound at T = 10 to 1000, on the same
test rows with the same noise, with the optimised grid beside it, and the paired gain of the learned schedule with its standard error. Prints one JSON object.
"""

import argparse
import json
import math
from pathlib import Path

import torch

import jensen
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.likelihood import Plan, estimate, uniform_proposal
from jensen.diffusion.process import Chain
from jensen.diffusion.schedule import LogSNRUniform
from jensen.likelihood import LogLikelihood
from jensen.loading import reload_data
from jensen.models.ddpm import DDPM
from jensen.noise import Noise

STEPS = (10, 25, 50, 100, 1000)
DRAWS, REPETITIONS, CALLS = 200, 8, 16


def main() -> None:
    """Score along both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    pipeline = jensen.load(options.run)
    model, split = pipeline.model, reload_data(pipeline.config)
    assert isinstance(model, DDPM)
    if not model.trained_shape:
        raise SystemExit(f"{options.run} has no learned shape; fit with --set trained_shape=true")
    rows = split.test.take(Noise(0, "benchmark").permutation(len(split.test))[: options.rows])
    encoded, valid = pipeline.encoded(rows).batch(torch.arange(len(rows))), pipeline.encoded(split.valid)
    pick = valid.batch(Noise(0, "calibrate").permutation(len(valid))[:256])
    learned = model.reverse.chain
    even = Chain(LogSNRUniform(*learned.log_snr[[0, -1]].tolist()), learned.steps)
    word = model.reverse.variance.word
    scores: dict[str, dict[int, LogLikelihood]] = {"even": {}, "learned": {}}
    scale, spread, bounds = 1 / (math.log(2) * math.prod(pipeline.event_shape)), {}, {}
    for name, chain in (("even", even), ("learned", learned)):
        model.reverse.chain = chain
        model.calibrated_by(word)
        model.calibrate_on(pick, 0)
        proposals = {"uniform": uniform_proposal(chain.steps), "proposal": model.proposal.cpu()}
        with torch.no_grad():
            for drawn, proposal in proposals.items():
                plan, bound = Plan(DRAWS, 2, proposal), ContinuousTime(model.reverse)
                found = estimate(bound, encoded.x, encoded.id, plan, Noise(1, "shape"))
                spread[f"{name}, {drawn}"] = [
                    float(found.diffusion.var(0).mean()),
                    float(found.diffusion.mean()) * scale,
                ]
                print(name, drawn, spread[f"{name}, {drawn}"], flush=True)
        for grid in ("time", "optimised"):
            for steps in STEPS if grid == "time" else STEPS[:4]:
                told = {} if grid == "time" else {"grid": grid}
                calls = min(CALLS, steps)
                ll = pipeline.log_likelihood(rows, timesteps=steps, calls=calls, repetitions=REPETITIONS, **told)
                if grid == "time":
                    scores[name][steps] = ll
                bounds[f"{name}, {grid}, T = {steps}"] = [ll.bits_per_dim, ll.monte_carlo * scale]
                print(name, grid, steps, bounds[f"{name}, {grid}, T = {steps}"], flush=True)
    least = min(variance for variance, _ in spread.values())
    gains = {steps: scores["learned"][steps] - scores["even"][steps] for steps in STEPS}
    result = {
        "rows": len(rows),
        "variance_over_the_least": {name: variance / least for name, (variance, _) in spread.items()},
        "integral_bits_per_dim": {name: value for name, (_, value) in spread.items()},
        "bits_per_dim_and_monte_carlo": bounds,
        "bits_per_dim_gained": {f"T = {steps}": [d.mean * scale, d.stderr * scale] for steps, d in gains.items()},
    }
    print(json.dumps(result, indent=1))
    if options.output:
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
