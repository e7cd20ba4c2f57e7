"""Diffusion on MNIST beside diffusers' unconditional recipe, all scored by one evaluator.

    pip install diffusers
    JENSEN_DATA=… python benchmarks/diffusion_peer.py DIR [--minutes 20] [--ours 2] [--rows 1000] [--samples 1000]

theirs     UNet2DModel of 1.1 million parameters, T = 1000 linear betas, squared error of ε, AdamW 1e-4, cosine rate after 500 steps of warm-up,
           gradient norm 1, batch 64, float32: the recipe of its own training example, in the loop its documentation shows
ours       `jensen.fit(mnist, "diffusion")`, its defaults, for a tenth of that time
same       their U-Net (with as many outputs as ours has features) trained by our loop, in our precision, for our objective, as long as ours; with
           attention by matrix products
same, for the bound   the same, trained on the terms of the bound as they are (`loss=bound`)

Each is trained for its minutes by the clock (steps are timed first), kept in DIR, and loaded from there when the command is given again. Then
each network, behind one interface, gets its reverse variance and its emission from the same validation rows and is scored on the same test rows
with the same noise (T = 1000, levels even in log-SNR between the ends that its own training has seen), and 1,000 samples of each by one
solver are measured against test rows. How far a bound is above ours is paired over rows, with one standard error. Prints one JSON object and writes diffusion_peer.json into DIR. Their steps are timed by diffusion_steps.py.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import jensen
from jensen.data.examples import Split
from jensen.diffusion.calibration import calibrate, knots
from jensen.diffusion.denoiser import Denoiser, LevelsDenoiser, NetworkDenoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import Plan, estimate
from jensen.diffusion.parametrisation import Eps
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import sample
from jensen.diffusion.schedule import Linear, LogSNRUniform
from jensen.diffusion.solvers.words import sampler_from
from jensen.diffusion.variance import Calibrated
from jensen.evaluation.two_sample.gauge import Gauge
from jensen.evaluation.two_sample.measure import as_dict
from jensen.models.ddpm import DDPM
from jensen.models.diffusion_objective import DDPMObjective
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise
from jensen.training.device import precision
from jensen.training.fitter import GradientFitter, TrainingSettings
from jensen.training.loop import Loop, evaluation_interval

BATCH, CHANNELS, LAYERS = 64, (32, 64, 64), 1
CALIBRATED_ON, REPETITIONS, CALLS = 512, 4, 16
SAMPLER, STEPS = "dpm-2m", 20
TRIAL = 20


def without_fused_attention(network: "TheirNetwork") -> "TheirNetwork":
    """Attention by matrix products, as our own layers have it: in bfloat16 the backward pass of the fused kernel takes half of a step."""
    from diffusers.models.attention_processor import Attention, AttnProcessor

    for module in network.modules():
        if isinstance(module, Attention):
            module.set_processor(AttnProcessor())
    return network


class TheirNetwork(nn.Module):
    """UNet2DModel with our call: the level it is told is the place of λ on their schedule, from 0 to 999."""

    def __init__(self, outputs: int, groups: int = 8) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        down = (*("DownBlock2D",) * (len(CHANNELS) - 1), "AttnDownBlock2D")
        up = ("AttnUpBlock2D", *("UpBlock2D",) * (len(CHANNELS) - 1))
        self.unet = UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=outputs,
            layers_per_block=LAYERS,
            block_out_channels=CHANNELS,
            down_block_types=down,
            up_block_types=up,
            norm_num_groups=groups,
        )
        self.register_buffer(
            "levels", Linear().log_snr(torch.arange(1, 1001).double() / 1000).float(), persistent=False
        )

    def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """x `(B, 1, 28, 28)`, log_snr `(B,)` → `(B, outputs, 28, 28)`."""
        falling = self.levels
        right = torch.searchsorted(-falling, -log_snr.contiguous()).clamp(1, len(falling) - 1)
        share = ((falling[right - 1] - log_snr) / (falling[right - 1] - falling[right])).clamp(0, 1)
        found = self.unet(x, right - 1 + share).sample
        assert isinstance(found, Tensor)
        return found


def steps_for(minutes: float, step: Any) -> int:
    """How many steps the minutes hold, from a few timed ones."""
    for k in range(3):
        step(k)
    began = time.perf_counter()
    for k in range(TRIAL):
        step(k)
    return max(1, int(60 * minutes * TRIAL / (time.perf_counter() - began)))


def train_theirs(pipeline: Pipeline, split: Split, minutes: float) -> tuple[nn.Module, dict[str, Any]]:
    """Their loop."""
    torch.manual_seed(0)
    network = TheirNetwork(1)
    made = their_loop(network, pipeline.codec.encode(split.train.x))
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    steps = steps_for(minutes, made(10_000))
    network.load_state_dict(start)
    step, began = made(steps), time.perf_counter()
    for k in range(steps):
        step(k)
    seconds = time.perf_counter() - began
    return network, {"steps": steps, "seconds": seconds, "images_a_second": steps * BATCH / seconds}


def their_loop(network: TheirNetwork, rows: Tensor) -> Callable[[int], Callable[[int], None]]:
    """Their step, for a number of steps."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_cosine_schedule_with_warmup

    scheduler = DDPMScheduler(num_train_timesteps=1000)

    def made(steps: int) -> Callable[[int], None]:
        adam = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        rate = get_cosine_schedule_with_warmup(adam, 500, steps)

        def step(_: int) -> None:
            clean = rows[torch.randint(0, len(rows), (BATCH,))]
            noise, t = torch.randn_like(clean), torch.randint(0, 1000, (BATCH,))
            predicted = network.unet(scheduler.add_noise(clean, noise, t), t).sample
            nn.functional.mse_loss(predicted, noise).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            adam.step()
            rate.step()
            adam.zero_grad()

        return step

    return made


def same_model(split: Split, pipeline: Pipeline, **other: Any) -> DDPM:
    """Our model around their network."""
    return model_around(lambda outputs: without_fused_attention(TheirNetwork(outputs)), split, pipeline, **other)


def model_around(network: Callable[[int], nn.Module], split: Split, pipeline: Pipeline, **other: Any) -> DDPM:
    """Our model around a network made for so many outputs a pixel."""
    options = {**pipeline.config["model"]["options"], **other}
    model = DDPM(split.event_shape, pipeline.model.space, **options)
    torch.manual_seed(0)
    denoiser = model.reverse.denoiser
    assert isinstance(denoiser, LevelsDenoiser | NetworkDenoiser)
    outputs = options["head_features"] if isinstance(denoiser, LevelsDenoiser) else 1
    denoiser.network = network(outputs)
    return model


def train_same(pipeline: Pipeline, split: Split, minutes: float, loss: str) -> tuple[nn.Module, dict[str, Any]]:
    """Their network by our loop."""
    model = same_model(split, pipeline)
    loop = our_loop(model, pipeline, split, loss)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    steps = steps_for(minutes, loop(10_000).try_out)
    model.load_state_dict(start)
    final, began = loop(steps), time.perf_counter()
    final.go()
    final.fitter.keep_best()
    seconds = time.perf_counter() - began
    return model.reverse.denoiser, {"steps": steps, "seconds": seconds, "images_a_second": steps * BATCH / seconds}


def our_loop(model: DDPM, pipeline: Pipeline, split: Split, loss: str = "simple") -> Callable[[int], Loop]:
    """Our loop, for a number of steps."""
    emphasis = pipeline.config["model"]["options"]["emphasis"] if loss == "simple" else 0.0
    settings = TrainingSettings(batch_size=BATCH, lr=2e-3, patience=0)
    rows, held = pipeline.encoded(split.train), pipeline.encoded(split.valid.take(torch.arange(256)))

    def loop(steps: int) -> Loop:
        model.initialise(rows)
        objective = DDPMObjective(model.reverse, loss, emphasis)
        fitter = GradientFitter(objective, settings, precision(), steps=steps, held_out=held, seed=0)
        return Loop(fitter, rows, seed=0, every=evaluation_interval(steps, fitter.evaluation_cost))

    return loop


def scored(
    name: str, denoiser: Denoiser, ends: tuple[float, float], pipeline: Pipeline, split: Split, options: Any
) -> dict[str, Any]:
    """Bound and samples of a network, now or before."""
    record = options.folder / f"{name}-scores.json"
    if record.is_file() and "rows" in (before := json.loads(record.read_text())):
        return dict(before)
    space, denoiser = pipeline.model.space, denoiser.eval()
    chain = Chain(LogSNRUniform(*ends), 1000)
    variance = Calibrated(chain.log_snr[knots(chain.log_snr) - 1])
    reverse = ReverseProcess(chain, denoiser, variance, Emission(space, 0.01))
    valid, test = pipeline.encoded(split.valid), pipeline.encoded(split.test)
    few = valid.batch(Noise(0, "calibrate").permutation(len(split.valid))[:CALIBRATED_ON])
    with torch.no_grad():
        proposal = calibrate(reverse, few.x, few.id, Noise(0, "peer"))
        rows = test.batch(Noise(0, "benchmark").permutation(len(split.test))[: options.rows])
        found = estimate(reverse, rows.x, rows.id, Plan(REPETITIONS, CALLS, proposal), Noise(1, "peer"))
        parts = [
            sample(
                reverse,
                (1, 28, 28),
                torch.arange(i, i + 100),
                Noise(2, "peer"),
                sampler_from(SAMPLER, {}),
                levels=chain.resized(STEPS).log_snr,
            )
            for i in range(0, options.samples, 100)
        ]
    costs, scale = found.total.mean(0), 1 / (784 * math.log(2))
    told = {
        "bits_per_dim": float(costs.mean()) * scale,
        "stderr": float(costs.std()) * scale / len(costs) ** 0.5,
        "prior": float(found.prior.mean()) * scale,
        "reconstruction": float(found.reconstruction.mean()) * scale,
        "rows": (costs * scale).tolist(),
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "measures": as_dict(options.gauge.measures(pipeline.decode(torch.cat(parts)))),
    }
    record.write_text(json.dumps(told, indent=1))
    print(
        f"{name}: ≤ {told['bits_per_dim']:.4f} ± {told['stderr']:.4f} bits/dim, frechet {told['measures']['frechet']['value']:.3g}",
        flush=True,
    )
    return told


def kept(folder: Path, name: str, make: Any, empty: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Trained now, or before."""
    weights, record = folder / f"{name}.safetensors", folder / f"{name}.json"
    if not record.is_file():
        network, told = make()
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, weights)
        record.write_text(json.dumps(told, indent=1))
    network = empty()
    network.load_state_dict(load_file(weights))
    return network, json.loads(record.read_text())


def main() -> None:
    """Train what is not there, score all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--ours", type=float, default=2)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    split = jensen.load_data("mnist")
    began, record = time.perf_counter(), options.folder / "ours.json"
    ours = jensen.fit(split, "diffusion", budget=f"{60 * options.ours:g}s", run=options.folder / "ours")
    if not record.is_file():
        record.write_text(json.dumps({"seconds_with_calibration": time.perf_counter() - began}))
    options.gauge = Gauge(split, options.samples)
    theirs, told = kept(
        options.folder, "theirs", lambda: train_theirs(ours, split, options.minutes), lambda: TheirNetwork(1)
    )
    same = {
        name: kept(
            options.folder,
            name,
            lambda: train_same(ours, split, options.ours, loss),  # noqa: B023
            lambda: same_model(split, ours).reverse.denoiser,
        )
        for name, loss in (("same", "simple"), ("same, for the bound", "bound"))
    }
    assert isinstance(ours.model, DDPM)
    own = ours.model.reverse.chain.log_snr
    ends = {
        "ours": (float(own[0]), float(own[-1])),
        "theirs": tuple(float(Linear().log_snr(torch.tensor([t]))[0]) for t in (0.001, 1.0)),
    }
    result = {
        "theirs": {**told, **scored("theirs", NetworkDenoiser(theirs, Eps()), ends["theirs"], ours, split, options)},
        **{
            name: {**trained, **scored(name, network, ends["ours"], ours, split, options)}
            for name, (network, trained) in same.items()
        },
        "ours": {
            "minutes": options.ours,
            **json.loads(record.read_text()),
            "steps": ours.config["training"]["steps"],
            **scored("ours", ours.model.reverse.denoiser, ends["ours"], ours, split, options),
        },
    }
    rows = {name: torch.tensor(told.pop("rows")) for name, told in result.items()}
    for name in ("theirs", *same):
        above = rows[name] - rows["ours"]
        result[name]["above_ours"] = {
            "bits_per_dim": float(above.mean()),
            "stderr": float(above.std()) / len(above) ** 0.5,
        }
    result["training_rows_against_test"] = as_dict(options.gauge.ceiling)
    (options.folder / "diffusion_peer.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
