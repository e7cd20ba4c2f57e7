"""What the reverse variance and the grid are worth: the bound of one network in chains of 10 to 1000 steps, and in continuous time.

    python benchmarks/diffusion_variance.py RUN [--rows 500] [--calibration-rows 1024] [--steps 10 25 50 100 1000] [-o FILE.json]

Every choice is measured on the same validation rows and scored on the same test rows with the same noise, so that differences are paired. The
emission and its scale are common to all. The grid "optimised" is the one that dynamic programming finds from what each choice was measured
to. The learned choice of Nichol and Dhariwal (2021) is a network's own and stands here only for a run that was fitted with it, in the place of "by-state". Prints a table, and
writes one JSON object.
"""

import argparse
import json
import math
from pathlib import Path

import torch

import jensen
from jensen.diffusion.variance import Learned
from jensen.loading import reload_data
from jensen.models.ddpm import DDPM
from jensen.noise import Noise

CHOICES = ("beta", "beta-hat", "calibrated", "diagonal", "by-state")
RESULTS = Path(__file__).parent / "results"
REPETITIONS, CALLS = 4, 16


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--calibration-rows", type=int, default=1024)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 25, 50, 100, 1000])
    parser.add_argument("-o", "--output", default=str(RESULTS / "diffusion_variance.json"))
    options = parser.parse_args()
    pipeline = jensen.load(options.run)
    model, split = pipeline.model, reload_data(pipeline.config)
    assert isinstance(model, DDPM)
    rows = split.test.take(Noise(0, "benchmark").permutation(len(split.test))[: options.rows])
    order = Noise(0, "calibrate").permutation(len(split.valid))[: options.calibration_rows]
    batch = pipeline.encoded(split.valid).batch(order)
    found: list[dict[str, object]] = []
    scale = 1 / (math.log(2) * math.prod(pipeline.event_shape))

    def score(name: str, grid: str, steps: float) -> None:
        calls = min(CALLS, int(min(steps, 1e9)))
        more = {} if grid == "time" else {"grid": grid}
        ll = pipeline.log_likelihood(rows, timesteps=steps, calls=calls, repetitions=REPETITIONS, **more)
        record = {"variance": name, "grid": grid, "steps": str(steps), "bits_per_dim": ll.bits_per_dim}
        record |= {"stderr_total": ll.total * scale, "stderr_monte_carlo": ll.monte_carlo * scale}
        found.append(record)
        print(
            f"{name:<12} {grid:<10} T = {steps:<6} ≤ {ll.bits_per_dim:.4f} ± {ll.monte_carlo * scale:.4f} (MC)",
            flush=True,
        )

    model.calibrate_on(batch, 0)  # the emission that all of them end in
    choices = (*CHOICES[:-1], "learned") if isinstance(model.reverse.variance, Learned) else CHOICES
    for name in choices:
        model.reverse.variance = model.variance_by(name)
        if name in model.calibrations:
            model.calibrate_on(batch, 0)
        for steps in options.steps:
            score(name, "time", steps)
            if name in model.calibrations and steps <= 128:
                score(name, "optimised", steps)
    score("any", "time", math.inf)
    options_told = {
        "run": "as named",
        "rows": len(rows),
        "calibration_rows": len(batch.x),
        "calls": CALLS,
        "repetitions": REPETITIONS,
    }
    result = {"options": options_told, "torch": torch.__version__, "bounds": found}
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
