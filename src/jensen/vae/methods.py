"""The words of the likelihood's methods, their own numbers of draws, and what each computes."""

from collections.abc import Mapping
from typing import Any

from jensen.bounds.annealed import Settings
from jensen.errors import InputError
from jensen.vae.likelihood import Asked, Estimate, ais_of, elbo_of, iwae_of

PILOT, IWAE_DRAWS, MOST_DRAWS = 8, 1000, 1_000_000
MOST_PLANNED, MOST_TERMS = 10_000, 1000  # draws of the elbo that are chosen and not asked for
OWN = {
    "elbo": ("repetitions",),
    "iwae": ("draws", "repetitions"),
    "ais": ("temperatures", "chains", "leapfrogs"),
}
LEAST = {"elbo": {"repetitions": 2}, "iwae": {"draws": 1, "repetitions": 1}}
MOST = {"draws": 100_000, "repetitions": MOST_DRAWS, "temperatures": 100_000, "chains": 1000, "leapfrogs": 1000}


def refuse_others(method: str, options: Mapping[str, Any]) -> None:
    """Refuse an option of another method: it would change nothing."""
    for name in options:
        if name not in OWN[method]:
            raise InputError(f"{name} is no option of method={method}; it has {', '.join(OWN[method])}")


def checked_draws(method: str, repetitions: int, options: Mapping[str, int]) -> dict[str, int]:
    """The method's own numbers of draws, none of them ever changed.

    Raises:
        InputError: a number that is too small or too large.
    """
    numbers = {name: {"repetitions": repetitions, **options}[name] for name in OWN[method]}
    for name, value in numbers.items():
        least = LEAST.get(method, {}).get(name, 1)
        if not least <= value <= MOST[name]:
            why = ", since an error bar needs two" if least == 2 else ""
            raise InputError(f"{name} must be from {least} to {MOST[name]:,}{why}, got {value}")
    if method == "iwae" and (numbers["draws"], repetitions) == (1, 1):
        raise InputError("an error bar needs at least 2 draws or 2 repetitions, got 1 and 1; draw more")
    if method == "ais" and numbers["chains"] < 2:
        raise InputError("an error bar needs at least 2 chains, got 1")
    return numbers


def settings_of(options: Mapping[str, Any]) -> Settings:
    """The annealing that options ask for."""
    return Settings(**{name: int(options[name]) for name in OWN["ais"] if options.get(name) is not None})


def estimated(method: str, asked: Asked, repetitions: int, options: Mapping[str, int]) -> Estimate:
    """By the word of a method."""
    if method == "ais":
        return ais_of(asked, settings=settings_of(options))
    if method == "iwae":
        return iwae_of(asked, draws=options["draws"], repetitions=repetitions)
    return elbo_of(asked, repetitions=repetitions)
