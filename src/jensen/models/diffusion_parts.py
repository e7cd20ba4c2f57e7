"""The parts of a diffusion model from words, and what a fit takes where no word is given."""

import math
from collections.abc import Mapping
from typing import Any

from jensen.data.space import Levels, Space
from jensen.diffusion.denoiser import Denoiser, LevelsDenoiser, NetworkDenoiser
from jensen.diffusion.dequantisation import LEARNED, LearnedSpread
from jensen.diffusion.parametrisation import PARAMETRISATIONS, Mu, Parametrisation, Preconditioned
from jensen.diffusion.process import Chain
from jensen.diffusion.schedule import MOST_LOG_SNR, LogSNRUniform, Schedule, schedule_from
from jensen.diffusion.variance import ReverseVariance
from jensen.errors import InputError, brief
from jensen.models.networks import NetworkShape
from jensen.nn.levels import LevelsHead

MOST_LEVELS_FOR_HEAD = 256
SPREAD_OF_LEVELS = 0.5  # of images on [-1, 1], as Karras et al. 2022 have it; real values are standardised
MOST_STEPS = 100_000
MOST_HEAD_FEATURES, HEAD_FEATURES = 256, 8
BY_ENDS = ("log-snr", "ve")
OF_SCHEDULES = {
    "log_snr_start": BY_ENDS,
    "log_snr_end": BY_ENDS,
    "beta_start": ("linear",),
    "beta_end": ("linear",),
    "betas": ("betas",),
}


def check_settings(
    timesteps: int, dropout: float | None, emphasis: float | None, loss: str, head_features: int | None
) -> None:
    """Refuse settings that cannot be, or not together."""
    if not 1 <= timesteps <= MOST_STEPS:
        raise InputError(f"timesteps must be between 1 and {MOST_STEPS}, got {timesteps}")
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout must lie in [0, 1), got {dropout}")
    if head_features is not None and not 1 <= head_features <= MOST_HEAD_FEATURES:
        raise InputError(f"head_features must be from 1 to {MOST_HEAD_FEATURES}, got {head_features}")
    if emphasis is not None and not 0 <= emphasis <= 100:
        raise InputError(f"emphasis must lie in [0, 100], got {emphasis}")
    if emphasis and loss != "simple":
        raise InputError(
            f"emphasis is a weight of loss=simple, got {emphasis} with loss={loss}; leave one of the two out"
        )


def check_schedule(word: str, given: Mapping[str, Any]) -> None:
    """Refuse numbers of another schedule: they would change nothing."""
    for name, value in given.items():
        own = OF_SCHEDULES[name]
        if value is not None and word not in own:
            raise InputError(
                f"{name} goes with schedule={' or '.join(own)}, got {brief(value)} with schedule={word}; take schedule={own[0]}, or leave it out"
            )


def refuse_idle(options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse what a fit was told and would change nothing."""
    check_schedule(options["schedule"], {name: given.get(name) for name in OF_SCHEDULES})
    word = options["parametrisation"]
    if "head_features" in given and word != "levels":
        raise InputError(
            f"head_features is for parametrisation=levels, got {given['head_features']} with parametrisation={word}; leave it out"
        )


def check_levels(chain: Chain) -> None:
    """Refuse a chain whose ends float32 can not tell from no noise or nothing but noise, and one with two levels alike."""
    first, last = (float(chain.log_snr[place]) for place in (0, -1))
    flat = (chain.log_snr.diff() >= 0).nonzero()
    if len(flat):
        raise InputError(
            f"every step must add noise, and x_{int(flat[0]) + 1} and x_{int(flat[0]) + 2} have the same in float64; take a larger beta there"
        )
    if max(first, -last) > MOST_LOG_SNR:
        raise InputError(
            f"the log-SNR of x_1 to x_T must stay within ±{MOST_LOG_SNR:g}, and this schedule's goes from {first:.3g} to {last:.3g}; "
            "take a larger beta at the start, or smaller or fewer betas after it"
        )


def schedule_named(word: str, space: Space) -> Schedule:
    """The schedule a word stands for, with the defaults for a space of data units."""
    return schedule_from(word, start=default_start(space), end=default_end(space))


def default_parametrisation(space: Space) -> str:
    """A prior over the levels where there are few enough of them to put one out."""
    return "levels" if isinstance(space, Levels) and space.k <= MOST_LEVELS_FOR_HEAD else "v"


def default_start(space: Space) -> float:
    """λ(0) at which levels in [-1, 1] are three standard deviations apart from their bin's edge; 9 for real values."""
    return max(6.0, 2 * math.log(3 * (space.k - 1))) if isinstance(space, Levels) else 9.0


def default_end(space: Space) -> float:
    """λ(1) at which levels in [-1, 1], or standardised real values (which may have far outliers), are lost in noise."""
    return -7.0 if isinstance(space, Levels) else -9.0


def check_learned(chain: Chain, setting: str) -> None:
    """Refuse to learn the ends or the shape of a schedule that has its own, or of one step."""
    if chain.steps < 2:
        raise InputError(f"{setting} needs at least 2 steps, got timesteps={chain.steps}")
    if not isinstance(chain.schedule, LogSNRUniform):
        raise InputError(f"{setting} is for schedule=log-snr or ve, a straight line; leave it out, or take that one")


def check_seen(variance: ReverseVariance, denoiser: Denoiser) -> None:
    """Refuse a reverse variance that asks more than the network says."""
    if not variance.learns_by_state:
        return
    if not isinstance(denoiser, LevelsDenoiser):
        raise InputError(
            "reverse_variance=by-state needs parametrisation=levels, which sees a variance; use diagonal or calibrated"
        )
    if denoiser.weighs:
        raise InputError(
            "reverse_variance=by-state needs the variance of the levels, and this network puts out one that is learned; use diagonal or calibrated"
        )


def denoiser_from(shape: NetworkShape, space: Space, chain: Chain, parametrisation: str, *, weighs: bool) -> Denoiser:
    """The network and how its output is read; one that `weighs` puts out the weight of the learned variance besides."""
    word = default_parametrisation(space) if parametrisation == "auto" else parametrisation
    if word != "levels":
        return NetworkDenoiser(shape.build(1 + weighs), _parametrisation(word, chain, space), weighs=weighs)
    if not isinstance(space, Levels) or space.k > MOST_LEVELS_FOR_HEAD:
        raise InputError(
            f"parametrisation=levels needs data on at most {MOST_LEVELS_FOR_HEAD} levels, got {space}; use v"
        )
    values = space.values().float()
    features = HEAD_FEATURES if shape.head_features is None else shape.head_features
    return LevelsDenoiser(shape.build(features + weighs), LevelsHead(features, values), weighs=weighs)


def _parametrisation(word: str, chain: Chain, space: Space) -> Parametrisation:
    if word not in PARAMETRISATIONS:
        raise InputError(f"unknown parametrisation {word!r}; known are levels, {', '.join(PARAMETRISATIONS)}")
    match word:
        case "mu":
            return Mu(chain)
        case "edm":
            return Preconditioned(spread_of(space))
    return PARAMETRISATIONS[word]()


def places_from(word: str | None, shape: NetworkShape, space: Space) -> LearnedSpread | None:
    """The dequantisation that is learned, if one is: by the smallest network of the denoiser's kind."""
    if word not in (None, "truncated-normal", LEARNED):
        raise InputError(f"dequantisation of a fit must be truncated-normal or {LEARNED}, got {word!r}")
    if word is not None and not isinstance(space, Levels):
        raise InputError(f"dequantisation={word} is for levels, and these are real values; leave it out")
    if word != LEARNED:
        return None
    plain = NetworkShape(shape.event, shape.network, "tiny", dropout=0.0)
    return LearnedSpread(plain.build(2), shape.event)


def spread_of(space: Space) -> float:
    """The standard deviation of the data that preconditioning counts on."""
    return SPREAD_OF_LEVELS if isinstance(space, Levels) else 1.0


def first_scale(space: Space, chain: Chain) -> float:
    """The emission's scale before it is measured: the noise of x_1, on levels at least 0.3 of a step."""
    noise = math.exp(-0.5 * float(chain.log_snr[0]))
    return max(noise, 0.3 * space.step) if isinstance(space, Levels) else noise
