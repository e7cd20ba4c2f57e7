"""Fashion-MNIST against MNIST, both ways: can log p tell one from the other? (Nalisnick et al. 2019; Serrà et al. 2020)

    JENSEN_DATA=… python benchmarks/anomaly.py -m vae --budget 10m -o runs/anomaly
    JENSEN_DATA=… python benchmarks/anomaly.py -m ppca --set n_components=50 --train-rows 10000 --rows 2000 -o runs/anomaly-ppca

A model is fitted to the training images of one, and ranks the test images of both by log p, by log p corrected for complexity (see
`jensen.evaluation.anomaly`: bits of a deflated image, the best of three filters), and by those bits alone, simple first: the control, which
knows no data. Own images should rank above, so that 1 is perfect, ½ chance, and less than ½ is wrong with confidence. ± is DeLong's
standard error: of the choice of test images, not of another fit. The same command goes on where it was cut off; the result is written to
benchmarks/results/.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import jensen
from jensen.data.examples import Examples, Split
from jensen.evaluation.anomaly import AUROC, anomaly, auroc, code_length
from jensen.likelihood import BITS
from jensen.models.pipeline import Pipeline
from jensen.settings import parse

PAIR = ("fashion-mnist", "mnist")
RESULTS = Path(__file__).parent / "results"


def first(rows: Examples, count: int | None) -> Examples:
    """The first rows; all if None. Both sets are in random order as published."""
    return rows if count is None else rows.take(torch.arange(min(count, len(rows))))


def loaded(word: str, train: int | None, test: int | None) -> Split:
    """Grey images, 256 levels, without their classes."""
    split = jensen.load_data(word)
    parts = {"train": first(split.train, train), "valid": split.valid, "test": first(split.test, test)}
    bare = {name: replace(part, context=None) for name, part in parts.items()}
    return replace(split, class_names=(), **bare)


def direction(run: Pipeline, own: Split, other: Split, **options: Any) -> dict[str, Any]:
    """One fit: three AUROCs, and what the images of either cost, in bits a dimension."""
    scores = {"own": run.log_likelihood(own.test, **options), "other": run.log_likelihood(other.test, **options)}
    bits = {"own": code_length(own.test), "other": code_length(other.test)}
    dims = own.test.x[0].numel()
    cost = {
        f"{name}_bits_per_dim": {
            "model": -float(ll.value.mean()) * BITS / dims,
            "compressor": float(bits[name].mean()) / dims,
        }
        for name, ll in scores.items()
    }
    found = anomaly(scores["own"], own.test, scores["other"], other.test)
    method = {"kind": scores["own"].kind, "method": scores["own"].method}
    return {**found, "complexity_alone": auroc(-bits["own"], -bits["other"]).to_dict(), **cost, **method}


def table(found: dict[str, Any]) -> str:
    """A line a direction."""
    lines = [f"{'fitted to':<14} {'by log p':>15} {'corrected':>15} {'bits alone':>15}   own / other bits a dim"]
    for word, part in found.items():
        areas = [part[name] for name in ("log_likelihood", "complexity_corrected", "complexity_alone")]
        cells = " ".join(f"{AUROC.read(area)!s:>15}" for area in areas if area)
        cost = " / ".join(f"{part[f'{name}_bits_per_dim']['model']:.2f}" for name in ("own", "other"))
        lines.append(f"{word:<14} {cells}   {cost} ({part['kind']}, {part['method']})")
    return "\n".join(lines)


def main() -> None:
    """Both directions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="vae")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--budget", help="training time of gradient models")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--train-rows", type=int, help="all by default")
    parser.add_argument("--rows", type=int, help="test images of each; all by default")
    parser.add_argument("--method", help="of the likelihood; the model's first by default")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    sets = {word: loaded(word, asked.train_rows, asked.rows) for word in PAIR}
    found = {}
    for word, other in (PAIR, PAIR[::-1]):
        settings = {**parse(asked.set), "budget": asked.budget, "steps": asked.steps, "seed": asked.seed}
        run = jensen.fit(sets[word], asked.model, run=asked.output / word, **settings)
        found[word] = direction(run, sets[word], sets[other], method=asked.method, seed=asked.seed)
    told = {name: str(value) if isinstance(value, Path) else value for name, value in vars(asked).items()}
    RESULTS.mkdir(exist_ok=True)
    size = "" if asked.train_rows is None and asked.rows is None else "_part"
    name = f"anomaly_{asked.model}_{asked.budget or asked.steps or 'full'}_{asked.seed}{size}.json"
    told.pop("output")
    (RESULTS / name).write_text(json.dumps({"asked": told, "fitted_to": found}, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
