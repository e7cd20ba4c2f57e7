"""Networks for the same time, by held-out bound and by samples: the U-Net beside the transformer, or others by network[:size[:patch[:waves]]].

    JENSEN_DATA=… python benchmarks/diffusion_networks.py DIR [--data mnist] [--networks unet dit:small unet:small:2 unet:small:1:6+7] [--steps 3000] [--rows 500] [--samples 1000]
        [--parametrisation v] [--same-steps]

A training step of each is timed in turn with the others', and the ratio of medians printed: the numbers of steps that follow are those of equal time, `--steps`
for the first (or `--steps` for all: `--same-steps`). Ratios and runs are kept in DIR and found there again. The bounds are of the same validation rows with the same noise, so that their difference is paired; samples
are 25 steps of dpm-2m, measured against test rows with training rows beside them. Prints one JSON object.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jensen
from jensen.data.examples import Split
from jensen.evaluation.two_sample.gauge import Gauge
from jensen.evaluation.two_sample.measure import as_dict
from jensen.models.networks import NetworkShape
from jensen.noise import Noise

BATCH, FEATURES, ROUNDS, STEPS = 32, 16, 9, 25
SHOWN = ("frechet", "kernel distance", "classifier", "coverage")


def settings_of(word: str) -> dict[str, Any]:
    """network:size:patch:waves, the last three if told."""
    network, size, patch, waves = (*word.split(":"), "", "", "")[:4]
    told: dict[str, Any] = {"patch": int(patch)} if patch else {}
    told |= {"fourier": [int(n) for n in waves.split("+")]} if waves else {}
    return {"network": network, "size": size or "small", **told}


def built(word: str, event: tuple[int, ...]) -> nn.Module:
    """As a fit builds it."""
    settings = settings_of(word)
    waves = tuple(settings.get("fourier", ()))
    shape = NetworkShape(event, settings["network"], settings["size"], 0.0, FEATURES, waves, settings.get("patch"))
    return shape.build(FEATURES)


def ratios(words: list[str], split: Split, folder: Path) -> dict[str, float]:
    """The median time of a step, over the first's of the same round; measured once, so that the steps stay those of the first call."""
    kept = folder / "ratios.json"
    if kept.is_file():
        found: dict[str, float] = json.loads(kept.read_text())
        if list(found) != words:
            raise SystemExit(f"{folder} holds ratios of {', '.join(found)}; give an empty folder")
        return found
    took = _measured(words, split)
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(took))
    return took


def _measured(words: list[str], split: Split) -> dict[str, float]:
    x, levels = torch.randn(BATCH, *split.event_shape), torch.randn(BATCH)
    networks = {word: built(word, split.event_shape) for word in words}
    rounds = [{word: _seconds(network, x, levels) for word, network in networks.items()} for _ in range(ROUNDS)]
    return {word: statistics.median(took[word] / took[words[0]] for took in rounds) for word in words}


def _seconds(network: nn.Module, x: torch.Tensor, levels: torch.Tensor) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        began = time.perf_counter()
        for _ in range(6):
            network(x, levels).float().square().mean().backward()
    return time.perf_counter() - began


def main() -> None:
    """Fit, score, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--networks", nargs="+", default=["unet", "dit"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--parametrisation", default="levels")
    parser.add_argument("--same-steps", action="store_true")
    options = parser.parse_args()
    split = jensen.load_data(options.data)
    took = (
        dict.fromkeys(options.networks, 1.0) if options.same_steps else ratios(options.networks, split, options.folder)
    )
    print({word: round(ratio, 3) for word, ratio in took.items()}, "of the first's time a step", flush=True)
    rows = split.valid.take(Noise(5, "benchmark").permutation(len(split.valid))[: options.rows])
    gauge, scale = Gauge(split, options.samples), 1 / (math.log(2) * math.prod(split.event_shape))
    scores, told = {}, {"training rows": {name: as_dict(gauge.ceiling)[name]["value"] for name in SHOWN}}
    for word, ratio in took.items():
        steps = round(options.steps / ratio)
        pipeline = jensen.fit(
            split,
            "diffusion",
            **settings_of(word),
            parametrisation=options.parametrisation,
            steps=steps,
            run=options.folder / f"{word.replace(':', '-')}-{steps}",
        )
        ll = scores[word] = pipeline.log_likelihood(rows, calls=8, repetitions=2)
        drawn = as_dict(gauge.measures(pipeline.sample(options.samples, seed=7, steps=STEPS)))
        difference = ll - scores[options.networks[0]]
        told[word] = {
            "steps": steps,
            "ratio": ratio,
            "bits_per_dim": ll.bits_per_dim,
            "monte_carlo": ll.monte_carlo * scale,
            "minus_the_first": [-difference.mean * scale, difference.stderr * scale],
            "samples": {name: [drawn[name]["value"], drawn[name]["stderr"]] for name in SHOWN},
        }
        print(word, json.dumps(told[word]), flush=True)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
