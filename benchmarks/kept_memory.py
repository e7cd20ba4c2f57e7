"""What it gains to keep freed memory between training steps (`jensen.memory`): the same fits with and without, in turn.

    JENSEN_DATA=… python benchmarks/kept_memory.py [--rounds 3] [WORD:STEPS …] [-o FILE]

Each fit is a process of its own, on MNIST, with a fixed number of steps. Of each model's two ways: medians over rounds of the seconds of the whole fit,
the system's part of them, page faults and the process's peak memory; `ratio` is the median over rounds of seconds without by seconds with.
Prints one JSON object.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import jensen
from jensen import memory
from jensen.training.device import precision

FITS = ("diffusion:20", "ar:60", "flow:20", "vae:40")
WAYS = ("kept", "returned")


def one(word: str, steps: int, way: str) -> dict[str, float]:
    """A fit here and now."""
    split = jensen.load_data("mnist")
    if way == "returned":
        os.environ[memory.OF_THE_USER[0]] = ""  # as if the user had chosen; glibc has read its own long before
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    jensen.fit(split, word, steps=steps)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": seconds,
        "system_seconds": after.ru_stime - before.ru_stime,
        "page_faults": after.ru_minflt - before.ru_minflt,
        "peak_MB": after.ru_maxrss / 1024,
    }


def apart(*words: str) -> dict[str, float]:
    """The same in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--one", *words], stdout=subprocess.PIPE, check=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def compared(fit: str, rounds: int) -> dict[str, Any]:
    """Both ways of one fit, in turn."""
    word, steps = fit.split(":")
    took: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS[:: 1 if number % 2 == 0 else -1]:
            took[way].append(apart(word, steps, way))
    ratios = [b["seconds"] / a["seconds"] for a, b in zip(took["kept"], took["returned"], strict=True)]
    medians = {
        way: {name: round(statistics.median(each[name] for each in found), 2) for name in found[0]}
        for way, found in took.items()
    }
    return {"rounds": rounds, "ratio": statistics.median(ratios), "ratios": ratios, **medians}


def main() -> None:
    """Compare all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fits", nargs="*", default=FITS, metavar="WORD:STEPS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    if options.one:
        word, steps, way = options.one
        print(json.dumps(one(word, int(steps), way)))
        return
    conditions = {"threads": torch.get_num_threads(), "precision": precision().name}
    result = json.dumps({**conditions, **{fit: compared(fit, options.rounds) for fit in options.fits}}, indent=1)
    print(result)
    if options.output:
        options.output.write_text(result + "\n")


if __name__ == "__main__":
    main()
