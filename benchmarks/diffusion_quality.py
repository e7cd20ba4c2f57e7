"""Sample quality against network calls: solvers in 5, 10, 20 and 50 calls beside the 1000-step chain of the same network.

    python benchmarks/diffusion_quality.py RUN -o DIR [--samples 1000] [--calls 5 10 20 50] [--samplers ancestral ddim dpm-2m …]

The reference is so many samples of the ancestral chain in all its steps; the others have noise of their own (another seed). Samples are kept in DIR a hundred
at a time, and drawn where they are not there. Each is measured against test rows and against the reference by the measures of `jensen.evaluation.two_sample`, whose features are a
small network trained on the labels; the reference against test rows, and training against test rows, stand beside them. A way is called equivalent to the
chain where the 95 % intervals of all measures in MARGINS end below them; the margins were set by the first network that was measured, wide enough for ten steps of dpm-2m
there and too narrow for ten steps of the chain itself, before a sample of the second was drawn. Writes quality.json and a picture, the same seeds by every solver.
"""

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import jensen
from jensen.data.examples import Examples, Split
from jensen.evaluation.images import save_grid
from jensen.evaluation.two_sample.gauge import Gauge
from jensen.evaluation.two_sample.measure import Measure, as_dict
from jensen.files import written_whole
from jensen.loading import reload_data
from jensen.models.ddpm import DDPM
from jensen.models.pipeline import Pipeline

SAMPLERS = ("ancestral", "ddim", "dpm-2m", "dpm-3m", "unipc-2", "unipc-3", "adams-3", "dpm-2m-sde")
SHOWN, EACH = 12, 100
MARGINS = {"classifier": 0.58, "energy U": 0.08, "frechet": 1.8}


@dataclass(frozen=True)
class Way:
    """A sampler, its network calls and its grid: with noise of its own."""

    sampler: str
    calls: int
    grid: str = "time"

    def __str__(self) -> str:
        return f"{self.sampler}-{self.calls}-{self.grid}"

    def draw(self, pipeline: Pipeline, start: int) -> torch.Tensor:
        """Rows `start` to `start + EACH`."""
        assert isinstance(pipeline.model, DDPM)
        solver = pipeline.model.sampler(self.sampler)
        steps = max(2, self.calls // solver.calls)
        seed = 1000 if self.calls == pipeline.model.chain().steps else 2000
        rows = pipeline.model.sample(EACH, seed=seed, start=start, sampler=solver, steps=steps, grid=self.grid)
        return pipeline.decode(rows)


def drawn(way: Way, pipeline: Pipeline, count: int, folder: Path) -> torch.Tensor:
    """So many samples, drawn some at a time and kept: another process may draw the rest."""
    parts = []
    for start in range(0, count, EACH):
        path = folder / f"{way}-{start:05d}.npy"
        if not path.is_file():
            rows = way.draw(pipeline, start).numpy()
            with written_whole(path) as unfinished, unfinished.open("wb") as file:
                np.save(file, rows)
            print(f"{way}: {start + EACH}/{count}", flush=True)
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)[:count]


def check_same(folder: Path, run: Path) -> None:
    """Samples that are kept are of these weights and no others."""
    weights, told = hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest(), folder / "weights.txt"
    if told.is_file() and told.read_text() != weights:
        raise SystemExit(f"{folder} holds samples of another network than {run}; give an empty folder")
    told.write_text(weights)


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
    check_same(folder, Path(options.run))
    pipeline = jensen.load(options.run)
    model, split = pipeline.model, reload_data(pipeline.config)
    assert isinstance(model, DDPM)
    whole = Way("ancestral", model.chain().steps)
    ways = [Way(word, calls, grid) for calls in options.calls for word in options.samplers for grid in options.grids]
    samples = {way: drawn(way, pipeline, options.samples, folder) for way in (whole, *ways)}
    truth = samples[whole]
    data = Gauge(split, options.samples)
    chain = Gauge(_against(split, truth), options.samples, extractor=data.extractor)
    table = [
        {"sampler": "training rows", "against_test": as_dict(data.ceiling), "against_chain": as_dict(chain.ceiling)}
    ]
    for way, rows in samples.items():
        record = {**vars(way), "against_test": as_dict(data.measures(rows))}
        near = [] if way == whole else chain.measures(rows)
        if near:
            record |= {"against_chain": as_dict(near), "equivalent": equivalent(near)}
        table.append(record)
        print(
            f"{way}: " + ", ".join(f"{m.name} {m}" for m in near[:6]),
            "equivalent" if near and equivalent(near) else "",
            flush=True,
        )
    told = json.dumps({"samples": options.samples, "torch": torch.__version__, "table": table})
    (folder / "quality.json").write_text(told.replace('{"sampler"', '\n{"sampler"') + "\n")
    save_grid(
        torch.cat([rows[:SHOWN] for rows in samples.values()]), pipeline.space, folder / "quality.png", columns=SHOWN
    )
    print("rows of the picture: " + ", ".join(map(str, samples)))


def equivalent(near: list[Measure]) -> bool:
    """Whether every measure is surely within its margin."""
    ends = {m.name: m.value + 1.96 * (m.stderr or 0.0) for m in near}
    return all(ends[name] < margin for name, margin in MARGINS.items())


def _against(split: Split, rows: torch.Tensor) -> Split:
    """The split with other rows in the test rows' place."""
    return replace(split, test=Examples(rows, torch.arange(len(rows))))


if __name__ == "__main__":
    main()
