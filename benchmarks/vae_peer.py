"""VAE training and likelihoods beside Pythae 0.1.2 (Chadebec, Vincent and Allassonnière 2022), in one run.

    pip install pythae==0.1.2
    JENSEN_DATA=… python benchmarks/vae_peer.py [--rounds 3] [--steps 2000] [--networks mlp conv]

Both train the very same network modules on the same zeros and ones (MNIST, static draw), Adam, the same batch, in float32, in turns;
ours is timed in bfloat16 as well, which Pythae has no words for on a processor. What is timed is a whole call, `trainer.train()` and `jensen.fit`,
data at hand; and "bare", the same modules in a loop of ten lines, what is left when a library costs nothing. Then both score the same rows with the same weights: `get_nll` returns the mean of +log p, and as many draws as
its batch size if fewer are asked for, so it is asked for multiples.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import VAE as TheirVAE
from pythae.models import VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

import jensen
from jensen.data.examples import Split
from jensen.models.vae import VAE

LATENTS = 50
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"network": "mlp", "width": 200, "depth": 2, "activation": "tanh", "batch_size": 256},
    "conv": {"network": "conv", "width": 16, "depth": 1, "batch_size": 128},
}
FITTED = {"latent_dim": LATENTS, "lr": 1e-3, "patience": 0, "progress": False}
RESULTS = Path(__file__).parent / "results"


class TheirEncoder(BaseEncoder):  # type: ignore[misc]
    """Our encoder's network in their interface; rows are zeros and ones, as theirs are."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        posterior = model.parts.posterior
        self.network, self.latent_dim = posterior.network, LATENTS
        self.register_buffer("mean", posterior.mean.clone())

    def forward(self, x: Tensor) -> ModelOutput:
        """μ and log s²."""
        loc, log_scale = self.network(2 * x - 1 - self.mean).chunk(2, 1)
        return ModelOutput(embedding=loc, log_covariance=2 * log_scale)


class TheirDecoder(BaseDecoder):  # type: ignore[misc]
    """Our decoder's network in theirs."""

    def __init__(self, model: VAE) -> None:
        super().__init__()
        self.network = model.parts.emission.network

    def forward(self, z: Tensor) -> ModelOutput:
        """Probabilities."""
        return ModelOutput(reconstruction=self.network(z).sigmoid().view(len(z), 1, 28, 28))


class Rows(Dataset):  # type: ignore[type-arg]
    """Rows in their interface."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> DatasetOutput:
        return DatasetOutput(data=self.x[index])


def theirs_of(model: VAE) -> TheirVAE:
    """Their model with the modules of ours."""
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    return TheirVAE(config, encoder=TheirEncoder(model), decoder=TheirDecoder(model))


def quiet(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds a call takes, and what it gives."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        begun = time.perf_counter()
        found = call()
        return time.perf_counter() - begun, found


def their_training(split: Split, model: VAE, batch: int, steps: int) -> float:
    """Images a second."""
    rows = Rows(split.train.x[: batch * steps].float())
    passes = max(1, steps * batch // len(rows))
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=passes, learning_rate=1e-3, per_device_train_batch_size=batch
        )
        trainer = BaseTrainer(model=theirs_of(model), train_dataset=rows, training_config=config)
        seconds, _ = quiet(trainer.train)
    return passes * len(rows) / seconds


def bare_training(split: Split, model: VAE, batch: int, steps: int) -> float:
    """Images a second of the same modules in a loop that does nothing else: rows already in memory as floats, Adam, no held-out rows."""
    encoder, decoder, mean = model.parts.posterior.network, model.parts.emission.network, model.parts.posterior.mean
    weights = [*encoder.parameters(), *decoder.parameters()]
    adam, rows = torch.optim.Adam(weights, lr=1e-3), split.train.x[: batch * steps].float()

    def step() -> None:
        x = rows[torch.randint(0, len(rows), (batch,))]
        loc, log_scale = encoder(2 * x - 1 - mean).chunk(2, 1)
        logits = decoder(loc + log_scale.exp() * torch.randn_like(loc)).flatten(1)
        distortion = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="none").sum(1)
        rate = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
        adam.zero_grad()
        (distortion + rate).mean().backward()
        adam.step()

    seconds, _ = quiet(lambda: [step() for _ in range(steps)])
    return steps * batch / seconds


def our_training(split: Split, options: dict[str, Any], steps: int, precision: str) -> float:
    """Images a second."""
    seconds, _ = quiet(lambda: jensen.fit(split, "vae", steps=steps, precision=precision, **FITTED, **options))
    return steps * int(options["batch_size"]) / seconds


def likelihoods(split: Split, options: dict[str, Any], rounds: int, draws: int) -> dict[str, Any]:
    """Seconds an image, and what both say of the same rows."""
    run = jensen.fit(split, "vae", steps=500, precision="float32", **FITTED, **options)
    assert isinstance(run.model, VAE)
    theirs = theirs_of(run.model).eval()
    rows = split.test.take(torch.arange(4))
    many = split.test.take(torch.arange(200 if options["network"] == "mlp" else 10))
    seconds: dict[str, list[float]] = {"theirs": [], "ours": []}
    means = []
    for _ in range(rounds):
        with torch.no_grad():
            taken, mean = quiet(lambda: theirs.get_nll(rows.x.float(), n_samples=draws, batch_size=100))
        seconds["theirs"].append(taken / len(rows))
        means.append(float(mean))
        taken, _ll = quiet(lambda: run.log_likelihood(many, method="iwae", draws=draws, tolerance=1.0))
        seconds["ours"].append(taken / len(many))
    own = run.log_likelihood(rows, method="iwae", draws=draws, repetitions=8, tolerance=1.0)
    median = {name: statistics.median(each) for name, each in seconds.items()}
    return {
        "draws": draws,
        "seconds_an_image": median,
        "ratio": median["theirs"] / median["ours"],
        "their_mean_log_p": [statistics.mean(means), statistics.stdev(means)],
        "our_mean_log_p": [own.mean, own.monte_carlo],
    }


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    split = jensen.load_data("mnist", binarise="static")
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "processor": torch.backends.cpu.get_cpu_capability()}
    for word in options.networks:
        network = NETWORKS[word]
        steps = options.steps if word == "mlp" else max(1, options.steps // 8)
        model = jensen.fit(split, "vae", steps=1, precision="float32", **FITTED, **network).model
        assert isinstance(model, VAE)
        rates: dict[str, list[float]] = {"theirs": [], "bare": [], "ours": [], "ours, bfloat16": []}
        for _ in range(options.rounds):
            rates["theirs"].append(their_training(split, model, network["batch_size"], steps))
            rates["bare"].append(bare_training(split, model, network["batch_size"], steps))
            rates["ours"].append(our_training(split, network, steps, "float32"))
            rates["ours, bfloat16"].append(our_training(split, network, steps, "bfloat16"))
        median = {name: statistics.median(each) for name, each in rates.items()}
        found[word] = {
            "images_a_second": median,
            "ratio": median["ours"] / median["theirs"],
            "ratio_bare": median["bare"] / median["theirs"],
            "ratio_bfloat16": median["ours, bfloat16"] / median["theirs"],
            "likelihood": likelihoods(split, network, options.rounds, options.draws),
        }
        print(word, json.dumps(found[word], indent=2))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"vae_peer_{'_'.join(options.networks)}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
