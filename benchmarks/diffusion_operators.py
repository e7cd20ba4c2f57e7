"""Where the time of a training step goes, by operator: diffusers' network in its own loop and in ours, and our network of its size.

    pip install diffusers
    JENSEN_DATA=… python benchmarks/diffusion_operators.py DIR [--steps 12]

DIR is that of diffusion_peer.py, whose steps these are, or empty: then a model is fitted there in two steps, since weights do not matter here. Each network takes steps of 64 images, a
few to warm up, the others under the profiler; milliseconds are those of the operators' own time in a step, in the arithmetic that the processor is given (bfloat16 where it has the
instructions). Prints one JSON object and writes diffusion_operators.json into DIR.
"""

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from diffusion_peer import BATCH, TheirNetwork, like_theirs, model_around, our_loop, same_model, their_loop
from torch.profiler import ProfilerActivity, profile

import jensen
from jensen.training.device import precision

KINDS = {
    "convolution": ("convolution",),
    "matrix products": ("mm", "linear", "dot_product"),
    "norms": ("norm",),
    "activations": ("silu", "softmax", "sigmoid"),
    "copies": ("copy", "clone", "contiguous", "cat", "to_copy"),
    "optimiser": ("_foreach", "_fused", "lerp", "addcdiv"),
    "sums and products": ("add", "mul", "sub", "div", "sum", "mean"),
}


def kind_of(operator: str) -> str:
    """The first kind one of whose words is in the name."""
    return next((kind for kind, words in KINDS.items() if any(word in operator for word in words)), "others")


def by_operator(step: Callable[[int], None], steps: int) -> dict[str, float]:
    """Milliseconds a step of each kind; "whole" by the clock, without the profiler."""
    for k in range(3):
        step(k)
    took = []
    for k in range(steps):
        began = time.perf_counter()
        step(3 + k)
        took.append(time.perf_counter() - began)
    spent: dict[str, float] = defaultdict(float)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for k in range(steps):
            step(3 + steps + k)
    for event in profiled.key_averages():
        spent[kind_of(event.key) if event.key.startswith(("aten::", "mkldnn")) else "others"] += (
            event.self_cpu_time_total
        )
    told = {kind: round(spent[kind] / 1000 / steps, 1) for kind in (*KINDS, "others")}
    return {"whole": round(1000 * statistics.median(took), 1), **told}


def main() -> None:
    """Profile the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    split, run = jensen.load_data("mnist"), options.folder / "ours"
    pipeline = jensen.load(run) if (run / "config.json").is_file() else jensen.fit(split, "diffusion", steps=2, run=run)
    eps = {"parametrisation": "eps", "reverse_variance": "calibrated"}
    own, same = model_around(like_theirs, split, pipeline, **eps), same_model(split, pipeline, **eps)
    steps = {
        "their network, their loop": their_loop(TheirNetwork(1), pipeline.codec.encode(split.train.x))(10_000),
        "their network, our loop": our_loop(same, pipeline, split)(10_000).try_out,
        "our network of that size, our loop": our_loop(own, pipeline, split)(10_000).try_out,
    }
    result = {
        "images a step": BATCH,
        "precision of our loop": precision().name,
        "threads": torch.get_num_threads(),
        "milliseconds": {name: by_operator(step, options.steps) for name, step in steps.items()},
    }
    (options.folder / "diffusion_operators.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
