"""Sample quality against network calls: solvers in 5, 10, 20 and 50 calls beside the 1000-step chain of the same network.

    python benchmarks/diffusion_quality.py RUN -o DIR [--samples 1000] [--calls 5 10 20 50] [--samplers ancestral ddim dpm-2m …]

The reference, so many samples of the ancestral chain in all its steps, is drawn once and kept in DIR. Every other sample has noise of its own
(another seed). Each is measured against test rows and against the reference by the measures of `jensen.evaluation.two_sample`, whose features are a
small network trained on the labels; the reference against test rows, and training against test rows, stand beside them. Writes quality.json
and a picture, the same seeds by every solver.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import jensen
from jensen.data.examples import Examples, Split
from jensen.evaluation.images import save_grid
from jensen.evaluation.two_sample.gauge import Gauge
from jensen.evaluation.two_sample.measure import as_dict
from jensen.fitting import reload_data
from jensen.models.ddpm import DDPM
from jensen.models.pipeline import Pipeline

SAMPLERS = ("ancestral", "ddim", "dpm-2m", "dpm-3m", "unipc-2", "unipc-3", "adams-3", "dpm-2m-sde")
SHOWN = 12


def reference(pipeline: Pipeline, count: int, folder: Path) -> torch.Tensor:
    """The chain's own samples, drawn a hundred at a time and kept."""
    parts = []
    for start in range(0, count, 100):
        path = folder / f"reference-{start:05d}.npy"
        if not path.is_file():
            began = time.perf_counter()
            assert isinstance(pipeline.model, DDPM)
            drawn = pipeline.decode(
                pipeline.model.sample(100, seed=1000, start=start, sampler=pipeline.model.sampler())
            )
            np.save(path, drawn.numpy())
            print(f"reference {start + 100}/{count}: {time.perf_counter() - began:.0f} s", flush=True)
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)[:count]


def main() -> None:
    """Draw, measure, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-o", "--output", required=True)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 10, 20, 50])
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--grids", nargs="+", default=["time"])
    options = parser.parse_args()
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = jensen.load(options.run)
    model, split = pipeline.model, reload_data(pipeline.config)
    assert isinstance(model, DDPM)
    truth = reference(pipeline, options.samples, folder)
    data = Gauge(split, options.samples)
    chain = Gauge(_against(split, truth), options.samples, extractor=data.extractor)
    table = [
        {"sampler": "training rows", "against_test": as_dict(data.ceiling)},
        {"sampler": "ancestral", "calls": model.chain().steps, "against_test": as_dict(data.measures(truth))},
    ]
    pictures, captions = [truth[:SHOWN]], [f"ancestral {model.chain().steps}"]
    for calls in options.calls:
        for word in options.samplers:
            for grid in options.grids:
                solver = model.sampler(word)
                began = time.perf_counter()
                steps = max(2, calls // solver.calls)
                drawn = pipeline.sample(options.samples, seed=2000, sampler=solver, steps=steps, grid=grid)
                seconds = time.perf_counter() - began
                against_chain = chain.measures(drawn)
                record = {"sampler": word, "grid": grid, "calls": calls, "seconds": seconds}
                record |= {"against_test": as_dict(data.measures(drawn)), "against_chain": as_dict(against_chain)}
                table.append(record)
                pictures.append(drawn[:SHOWN])
                captions.append(f"{word} {calls}")
                near = {m.name: m for m in against_chain}
                print(
                    f"{word:<12} {grid:<10} {calls:>4} calls: " + ", ".join(f"{k} {near[k]}" for k in list(near)[:6]),
                    flush=True,
                )
                (folder / "quality.json").write_text(
                    json.dumps({"samples": options.samples, "table": table}, indent=1) + "\n"
                )
    save_grid(torch.cat(pictures), pipeline.space, folder / "quality.png", columns=SHOWN)
    print("rows of the picture: " + ", ".join(captions))


def _against(split: Split, rows: torch.Tensor) -> Split:
    """The split with other rows in the test rows' place."""
    return replace(split, test=Examples(rows, torch.arange(len(rows))))


if __name__ == "__main__":
    main()
