"""The words of the samplers, and their options."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from jensen.diffusion.sampler import Sampler
from jensen.diffusion.solvers.ancestral import DDIM, Ancestral
from jensen.diffusion.solvers.langevin import Churned, Corrected
from jensen.diffusion.solvers.multistep import AdamsBashforth, DPMSolver2M, Exponential
from jensen.diffusion.solvers.singlestep import DPMSolver2S, Heun
from jensen.errors import InputError, did_you_mean
from jensen.settings import check


def churn(back: float = 0.3) -> Sampler:
    """Heun's method, with noise put back for a share of each step."""
    return Churned(Heun(), back)


def langevin(ratio: float = 0.16, rounds: int = 1) -> Sampler:
    """Ancestral steps, and some of Langevin's dynamics after each."""
    return Corrected(Ancestral(), ratio, rounds)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "ancestral": Ancestral,
    "ddim": DDIM,
    "euler": lambda: AdamsBashforth(1),
    "heun": Heun,
    "dpm-1s": lambda: Exponential(1, name="DPM-Solver++(1S)"),
    "dpm-2s": lambda: DPMSolver2S(name="DPM-Solver++(2S)"),
    "dpm-2m": lambda: DPMSolver2M(name="DPM-Solver++(2M)"),
    "dpm-3m": lambda: Exponential(3, name="DPM-Solver++(3M)"),
    "dpm-1s-sde": lambda: Exponential(1, name="SDE-DPM-Solver++(1S)", tau=1.0),
    "dpm-2s-sde": lambda: DPMSolver2S(name="SDE-DPM-Solver++(2S)", tau=1.0),
    "dpm-2m-sde": lambda: DPMSolver2M(name="SDE-DPM-Solver++(2M)", tau=1.0),
    "dpm-3m-sde": lambda: Exponential(3, name="SDE-DPM-Solver++(3M)", tau=1.0),
    "unipc-1": lambda: Exponential(1, name="UniPC-1", corrected=True),
    "unipc-2": lambda: Exponential(2, name="UniPC-2", corrected=True),
    "unipc-3": lambda: Exponential(3, name="UniPC-3", corrected=True),
    "adams-2": lambda: AdamsBashforth(2),
    "adams-3": lambda: AdamsBashforth(3),
    "adams-4": lambda: AdamsBashforth(4),
    "churn": churn,
    "langevin": langevin,
}


VERY_FEW, FEW = 14, 100  # steps


def best_for(steps: int) -> str:
    """The word of the sampler for so many steps, by two-sample measures against the whole chain (docs/theory/note3.md, "Faster solvers"): of second
    order along the flow where they are very few, of second order with noise where they are few, the chain itself where they are many.
    """
    if steps <= VERY_FEW:
        return "dpm-2m"
    return "dpm-2m-sde" if steps <= FEW else "ancestral"


def sampler_from(word: str, options: Mapping[str, Any]) -> Sampler:
    """The sampler a word stands for.

    Raises:
        InputError: an unknown word, or an option that it has not.
    """
    if word not in SAMPLERS:
        raise InputError(
            f"unknown sampler {word!r}; {did_you_mean(word, SAMPLERS)}known samplers are {', '.join(SAMPLERS)}"
        )
    check(options, inspect.signature(SAMPLERS[word]).parameters, f"the sampler {word}")
    return SAMPLERS[word](**options)
