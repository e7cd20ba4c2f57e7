"""What a comparison was asked for, checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jensen.data.examples import Split
from jensen.errors import InputError, did_you_mean
from jensen.evaluation.likelihood import CONTROLS
from jensen.models import model_class
from jensen.models.model import ClassConditional, ClassGiven, Trained
from jensen.resolving import checked

ALWAYS = (*CONTROLS, "jittered")
MOST_SEEDS = 100


@dataclass(frozen=True)
class Plan:
    """Which models, fitted how.

    Attributes:
        words: the models asked for, then the controls.
        asked: the models asked for.
        settings: word → name → value.
        budget: training time of each gradient model.
        steps: training steps of each gradient model, instead of a budget.
        seeds: how many runs of each model whose fit depends on the seed.
        seed: of the first run, and of all scoring.
    """

    words: tuple[str, ...]
    asked: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    budget: str | None = None
    steps: int | None = None
    seeds: int = 1
    seed: int = 0

    def seeds_of(self, word: str) -> list[int]:
        """The seeds a model is fitted with: one alone where it makes no difference."""
        count = self.seeds if model_class(word).seeded else 1
        return list(range(self.seed, self.seed + count))

    def fit_options(self, word: str) -> dict[str, Any]:
        """The options of `jensen.fit` for a model, its seed aside."""
        trained = issubclass(model_class(word), Trained)
        length = {"budget": self.budget, "steps": self.steps} if trained else {}
        return {**length, **self.settings.get(word, {})}

    def request(self, split: Split) -> dict[str, Any]:
        """All that decides the result; the same request again is the same comparison."""
        return {
            "models": list(self.words),
            "settings": {word: dict(self.settings[word]) for word in sorted(self.settings)},
            "data": split.fingerprint,
            "space": str(split.space),
            **{name: split.facts.get(name) for name in ("binarise", "binarise_seed")},
            **({"classes": split.class_fingerprint} if any(_learns_classes(w) for w in self.words) else {}),
            "budget": self.budget,
            "steps": self.steps,
            "seeds": self.seeds,
            "seed": self.seed,
        }


def _learns_classes(word: str) -> bool:
    return issubclass(model_class(word), ClassConditional)


def planned(
    models: str | Sequence[str],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    budget: str | None = None,
    steps: int | None = None,
    seeds: int = 1,
    seed: int = 0,
) -> Plan:
    """The plan, after checking all that can be checked without data.

    Raises:
        InputError: an unknown word or setting, a setting of a model that is not compared, a budget, number of steps or
            seed that cannot be.
    """
    asked = _words(models)
    plan = Plan(
        (*asked, *(word for word in ALWAYS if word not in asked)), asked, settings or {}, budget, steps, seeds, seed
    )
    kinds = {word: model_class(word) for word in plan.words}
    for word in plan.settings:
        if word not in kinds:
            near = did_you_mean(word, kinds)
            raise InputError(f"--set names the model {word!r}, {near}compared are {', '.join(kinds)}; add it to -m")
    if not isinstance(seeds, int) or not 1 <= seeds <= MOST_SEEDS:
        raise InputError(f"seeds, the number of runs of each model, must be from 1 to {MOST_SEEDS}, got {seeds}")
    checked("diffusion", {}, budget=budget, steps=steps, seed=seed)  # the length, whether or not something is trained
    if (budget or steps) and not any(issubclass(kind, Trained) for kind in kinds.values()):
        raise InputError("none of these models is trained for a time; leave out the budget and the steps")
    for word in plan.words:
        kind = checked(word, plan.settings.get(word, {}), seed=seed + seeds - 1)
        if issubclass(kind.kind_for(plan.settings.get(word, {})), ClassGiven):
            raise InputError(
                f"a comparison is of log p(x), and {word} with n_classes gives log p(x | y) alone; leave {word}.n_classes out"
            )
    return plan


def by_model(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings written word.name → word → name.

    Example:
        >>> by_model({"jittered.scale": 0.2})
        {'jittered': {'scale': 0.2}}
    """
    found: dict[str, dict[str, Any]] = {}
    for place, value in flat.items():
        word, dot, name = place.partition(".")
        if not dot or not word or not name:
            raise InputError(f"--set takes model.name=value here, such as jittered.scale=0.2, got {place!r}")
        found.setdefault(word, {})[name] = value
    return found


def _words(models: str | Sequence[str]) -> tuple[str, ...]:
    words = tuple(word.strip() for word in (models.split(",") if isinstance(models, str) else models))
    twice = next((word for word in words if words.count(word) > 1), None)
    if twice is not None:
        raise InputError(f"-m names {twice!r} twice; give it once")
    if not words or not all(words):
        raise InputError(f"-m takes model words with commas between them, such as diffusion,gaussian, got {models!r}")
    return words
