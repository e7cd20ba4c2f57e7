"""What one diffusion run comes to on test rows: its chain's bound, the bound in continuous time, the density of its flow, and where the bits are.

    python benchmarks/diffusion_scores.py RUN -o FILE.json [--flow 1000] [--rows N] [--parts 1000]

The numbers are those of `jensen evaluate RUN [-n N] --json`, `… --steps inf`, and `… --method ode -n 1000 --set repetitions=2`; beside the flow's stands the chain's bound
of the same rows. The bits by noise level are those of `parts` test rows after calibration, one step in each of eight equal parts of the chain. Seed 0 throughout. What
is in FILE already is not done again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch

import jensen
from jensen.cli.inputs import some_of
from jensen.data.examples import Examples
from jensen.evaluation.likelihood import difference_dict, summary
from jensen.files import write_json
from jensen.likelihood import BITS
from jensen.loading import reload_data
from jensen.models.ddpm import DDPM
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise


@torch.no_grad()
def bits_by_level(pipeline: Pipeline, rows: Examples) -> list[dict[str, Any]]:
    """Bits a dimension of each part of the chain, with the log-SNR at its ends."""
    model, unit = pipeline.model, BITS / math.prod(pipeline.event_shape)
    assert isinstance(model, DDPM)
    levels, found = model.chain().log_snr, []
    batches = [pipeline.encoded(rows).batch(slice(i, i + 250)) for i in range(0, len(rows), 250)]
    told = [model.objective().held_out(batch, Noise(0, "parts", k)) for k, batch in enumerate(batches)]
    for name in told[0]:
        values = -torch.cat([one[name] for one in told]).double() * unit
        low, high = (map(int, name.removeprefix("steps ").split("-"))) if name.startswith("steps") else (1, 1)
        ends = {} if name == "prior" else {"log_snr": [float(levels[low - 1]), float(levels[high - 1])]}
        found.append(
            {
                "part": name,
                **ends,
                "bits_per_dim": float(values.mean()),
                "stderr": float(values.std()) / len(values) ** 0.5,
            }
        )
    return found


def main() -> None:
    """One after the other, each kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--flow", type=int, default=1000)
    parser.add_argument("--rows", type=int)
    parser.add_argument("--parts", type=int, default=1000)
    options = parser.parse_args()
    pipeline = jensen.load(options.run)
    test = reload_data(pipeline.config).test
    rows, few = some_of(test, options.rows), some_of(test, min(options.flow, len(test)))
    found = json.loads(options.output.read_text()) if options.output.is_file() else {}
    flow: dict[str, Any] = {"method": "ode", "repetitions": 2}

    def both() -> dict[str, Any]:
        density, bound = pipeline.log_likelihood(few, **flow), pipeline.log_likelihood(few)
        return {
            "flow": summary(density),
            "chain": summary(bound),
            "flow_minus_chain": difference_dict(density - bound),
        }

    training = pipeline.config["training"]
    work = {
        "run": lambda: {"request": pipeline.config["request"], "steps": training["steps"], "torch": torch.__version__},
        "chain": lambda: summary(pipeline.log_likelihood(rows)),
        "continuous": lambda: summary(pipeline.log_likelihood(rows, timesteps=math.inf)),
        "by_level": lambda: bits_by_level(pipeline, some_of(test, min(options.parts, len(test)))),
        "flow": both,
    }
    for name, do in work.items():
        if name not in found:
            found[name] = do()
            write_json(options.output, found)
            print(name, found[name].get("quote", "") if isinstance(found[name], dict) else "", flush=True)


if __name__ == "__main__":
    main()
