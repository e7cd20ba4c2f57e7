"""What a sampler costs beside the network: the share of a sample's time that is not spent in the network's calls, and memory against steps.

    python benchmarks/sampling_overhead.py RUN [--n 64] [--steps 20] [-o FILE.json]

Of every solver, medians of three draws. "outside" is the whole of `sample` (noise, steps, weights, the last rounding) less the time inside the denoiser, as
a share of the whole. Memory is the growth of the process's peak from 20 steps to 400. Prints a table.
"""

import argparse
import json
import resource
import statistics
import time
from pathlib import Path

import torch

import jensen
from jensen.diffusion.solvers.words import SAMPLERS
from jensen.models.ddpm import DDPM

RESULTS = Path(__file__).parent / "results"


def shares(model: DDPM, word: str, n: int, steps: int) -> tuple[float, float]:
    """Seconds of a draw, and seconds of it outside the network."""
    inside = [0.0]
    denoiser = model.reverse.denoiser
    forward = denoiser.moments

    def timed(*args, **options):  # type: ignore[no-untyped-def]
        began = time.perf_counter()
        found = forward(*args, **options)
        inside[0] += time.perf_counter() - began
        return found

    denoiser.moments = timed
    try:
        began = time.perf_counter()
        model.sample(n, seed=1, sampler=model.sampler(word), steps=steps)
        whole = time.perf_counter() - began
    finally:
        del denoiser.moments
    return whole, whole - inside[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("-o", "--output", default=str(RESULTS / "sampling_overhead.json"))
    options = parser.parse_args()
    model = jensen.load(options.run).model
    assert isinstance(model, DDPM)
    model.sample(options.n, steps=4)
    found = {}
    for word in SAMPLERS:
        draws = [shares(model, word, options.n, options.steps) for _ in range(3)]
        whole, outside = (statistics.median(d[k] for d in draws) for k in (0, 1))
        found[word] = {"seconds": whole, "outside": outside / whole}
        print(f"{word:<12} {whole:7.2f} s, {100 * outside / whole:5.2f} % outside the network", flush=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model.sample(options.n, steps=400, sampler=model.sampler("unipc-3"))
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"400 steps instead of {options.steps}: {growth:.0f} MiB more at the peak")
    result = {
        "n": options.n,
        "steps": options.steps,
        "torch": torch.__version__,
        "samplers": found,
        "growth_mib": growth,
    }
    Path(options.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
