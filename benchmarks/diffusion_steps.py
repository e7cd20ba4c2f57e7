"""Training steps of diffusers' recipe and of ours side by side: images a second, steps taken in turn, and where a step's time goes, by operator.

    pip install diffusers
    JENSEN_DATA=… python benchmarks/diffusion_steps.py DIR [--rounds 15] [--profiled 12]

Contenders, each in a process of its own (what one leaves in memory helps no other), 64 images a step, for ε (but the levels head), and but for the first all by our loop, in its precision and, as `jensen.fit` does,
with freed memory kept:

their network, their loop    UNet2DModel and the loop of diffusion_peer.py, in groups of at least 16 channels
their network                the same modules, attention by matrix products
set channels-last            the same modules with their weights channels-last
kept channels-last           the same operations in the layers of diffusers_layers.py
fewer products               the same function with a tenth fewer multiplications: upsampling by transposed convolutions
with the levels head         their modules as the body of our default
ours of that size            our U-Net of their widths, arithmetic and weights (1,158 million operations an image forward and backward against their 1,140, 1.10 million weights against 1.11)

DIR is that of diffusion_peer.py, or empty: then a model is fitted there in two steps, since weights do not matter here. A round times three steps of each; images a second and milliseconds
are medians over rounds, and a ratio is the median over rounds of the first contender's time by this one's: above 1 is faster. Milliseconds by operator are the operators' own in later
steps under the profiler, which slows them. Prints one JSON object and writes diffusion_steps.json into DIR.
"""

import argparse
import json
import multiprocessing
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from diffusers_layers import Transposed, channels_last
from diffusion_peer import BATCH, CHANNELS, TheirNetwork, model_around, our_loop, their_loop, without_fused_attention
from torch import nn
from torch.profiler import ProfilerActivity, profile

import jensen
from jensen.memory import freed_memory_kept
from jensen.nn.unet import UNet
from jensen.training.device import precision

Step = Callable[[int], Any]

GROUPS, STEPS_A_ROUND, MANY = 2, 3, 10_000
DEPTH = (3, 3, 3)  # blocks of our U-Net with their channels that cost what theirs costs
EPS = {"parametrisation": "eps", "reverse_variance": "calibrated"}
NETWORKS: dict[str, tuple[Callable[[int], nn.Module], dict[str, str]]] = {
    "their network": (lambda outputs: their_modules(outputs), EPS),
    "set channels-last": (lambda outputs: their_modules(outputs).to(memory_format=torch.channels_last), EPS),
    "kept channels-last": (lambda outputs: channels_last(TheirNetwork(outputs, GROUPS)), EPS),
    "fewer products": (lambda outputs: channels_last(TheirNetwork(outputs, GROUPS), Transposed), EPS),
    "with the levels head": (lambda outputs: their_modules(outputs), {}),
    "ours of that size": (lambda outputs: UNet(1, outputs, channels=CHANNELS, depth=DEPTH, patch=1), EPS),
}
THEIRS = "their network, their loop"
KINDS = {
    "convolution": ("convolution",),
    "matrix products": ("mm", "linear", "dot_product"),
    "norms": ("norm",),
    "activations": ("silu", "softmax", "sigmoid"),
    "copies": ("copy", "clone", "contiguous", "cat"),
    "optimiser": ("_foreach", "_fused", "lerp", "addcdiv"),
    "sums and products": ("add", "mul", "sub", "div", "sum", "mean"),
}


def their_modules(outputs: int) -> nn.Module:
    """Their network for our loop."""
    return without_fused_attention(TheirNetwork(outputs, GROUPS))


def kind_of(operator: str) -> str:
    """The first kind one of whose words is in the name."""
    return next((kind for kind, words in KINDS.items() if any(word in operator for word in words)), "others")


def step_of(name: str, run: Path) -> Step:
    """A contender's training step."""
    split, pipeline = jensen.load_data("mnist"), jensen.load(run)
    if name == THEIRS:
        return their_loop(TheirNetwork(1, GROUPS), pipeline.codec.encode(split.train.x))(MANY)
    network, options = NETWORKS[name]
    return our_loop(model_around(network, split, pipeline, **options), pipeline, split)(MANY).try_out


def contend(name: str, run: Path, profiled: int, asked: Connection) -> None:
    """Take three steps and tell their seconds whenever True comes; on False tell milliseconds by operator, and end."""
    with freed_memory_kept() if name != THEIRS else nullcontext():  # as `jensen.fit` has it
        step, taken = step_of(name, run), 0
        while asked.recv():
            began = time.perf_counter()
            for k in range(STEPS_A_ROUND):
                step(taken + k)
            taken += STEPS_A_ROUND
            asked.send((time.perf_counter() - began) / STEPS_A_ROUND)
        asked.send(by_operator(step, taken, profiled))


def by_operator(step: Step, taken: int, profiled: int) -> dict[str, float]:
    """Milliseconds of a step by the kind of operator."""
    spent: dict[str, float] = defaultdict(float)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for k in range(profiled):
            step(taken + k)
    for event in found.key_averages():
        kind = kind_of(event.key) if event.key.startswith(("aten::", "mkldnn")) else "others"
        spent[kind] += event.self_cpu_time_total / 1000 / profiled
    return {kind: round(spent[kind], 1) for kind in (*KINDS, "others")}


def side_by_side(run: Path, rounds: int, profiled: int) -> dict[str, dict[str, Any]]:
    """All contenders, one at a time; the first round is to warm up."""
    context = multiprocessing.get_context("spawn")
    contenders = {}
    for name in (THEIRS, *NETWORKS):
        here, there = context.Pipe()
        process = context.Process(target=contend, args=(name, run, profiled, there), daemon=True)
        process.start()
        there.close()
        contenders[name] = here, process

    def said(name: str, more: bool) -> Any:
        pipe, process = contenders[name]
        try:
            pipe.send(more)
            told = pipe.recv()
        except (EOFError, OSError):
            raise SystemExit(f"the process of {name!r} has ended") from None
        if not more:
            process.join()
        return told

    took: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, seconds in took.items():
            seconds.append(said(name, True))
    return {
        name: {
            "images a second": BATCH / statistics.median(seconds[1:]),
            "ratio": statistics.median(a / b for a, b in zip(took[THEIRS][1:], seconds[1:], strict=True)),
            "milliseconds": {"whole": round(1000 * statistics.median(seconds[1:]), 1), **said(name, False)},
        }
        for name, seconds in took.items()
    }


def main() -> None:
    """Time and profile all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--profiled", type=int, default=12)
    options = parser.parse_args()
    if min(options.rounds, options.profiled) < 1:
        parser.error("--rounds and --profiled must be at least 1")
    run = options.folder / "ours"
    if not (run / "config.json").is_file():
        jensen.fit(jensen.load_data("mnist"), "diffusion", steps=2, run=run)
    result = {
        "rounds": options.rounds,
        "images a step": BATCH,
        "precision of our loop": precision().name,
        "threads": torch.get_num_threads(),
        "contenders": side_by_side(run, options.rounds, options.profiled),
    }
    (options.folder / "diffusion_steps.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
