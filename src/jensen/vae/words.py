"""From the words of `--set emission=…` to what a decoder's numbers say.

bernoulli            two levels
categorical          a probability for every level
logistic             a discretised logistic
logistic-mixture     several of them
discretised-normal   a normal rounded to the levels, its end bins open
poisson              the level's number is a count
normal               real values, with a scale from where `scale` says
normal-mixture       several of them
low-rank             N(μ(z), diag(s(z)²) + F(z) F(z)ᵀ) of all real values together
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from jensen.data.space import Levels, Space
from jensen.errors import InputError, did_you_mean
from jensen.laws.law import Law
from jensen.laws.levels import Bernoulli, Categories, Counts, Logistics, Rounded
from jensen.laws.real import Normals, Scaled
from jensen.vae.emission import Cells, Column, Correlated, Observed
from jensen.vae.spread import FromNetwork, Spread, spread_of

FEW_LEVELS = 32
MOST_CATEGORIES = 1024
SCALES = ("example", "scalar", "dimension", "fixed", "optimal")
ON_LEVELS: dict[str, Callable[[Levels, int], Law]] = {
    "bernoulli": lambda space, components: Bernoulli(space),
    "categorical": lambda space, components: Categories(space),
    "logistic": lambda space, components: Logistics(space, 1),
    "logistic-mixture": Logistics,
    "discretised-normal": lambda space, components: Rounded(space),
    "poisson": lambda space, components: Counts(space),
}
ON_REAL: dict[str, Callable[[int], Law]] = {"normal": lambda components: Scaled(), "normal-mixture": Normals}
BINARISE = "binarise the data (--binarise dynamic, static or threshold), or say --levels 2 if they are 0 and 1 already, or take another emission"


@dataclass(frozen=True)
class Said:
    """How p(x | z) was asked for.

    Attributes:
        emission: a word for all cells, or one a cell with commas between them.
        scale: where the scale of a normal comes from.
        sigma: its value if fixed, in standard deviations of the data, or in levels' quarters of the range.
        components: of a mixture.
        rank: of low-rank.
    """

    emission: str
    scale: str
    sigma: float
    components: int
    rank: int

    def observed(self, space: Space, cells: int) -> Observed:
        """What it stands for.

        Raises:
            InputError: an unknown word, or one for another space.
        """
        if self.emission == "low-rank":
            refuse_unless(not isinstance(space, Levels), "emission=low-rank is for real values", space)
            refuse_unless(1 <= self.rank <= cells, f"rank must be from 1 to {cells}", self.rank)
            return Correlated(self.rank)
        words = self.emission.split(",")
        if len(words) not in (1, cells):
            raise InputError(f"emission must be one word, or one for each of {cells} cells, got {len(words)} words")
        kinds = sorted(set(words))
        return Cells([self._column(space, cells, word, _places(words, word)) for word in kinds])

    def _column(self, space: Space, cells: int, word: str, places: Sequence[int] | None) -> Column:
        law = _law(space, word, self.components)
        at = None if places is None else torch.tensor(places)
        return Column(at, law, self._spread(law, cells if places is None else len(places)))

    def _spread(self, law: Law, cells: int) -> Spread:
        if not law.located:
            return FromNetwork(law.outputs)
        return spread_of(self.scale, cells, sigma=self.sigma, unit=law.unit)


def default_emission(space: Space) -> str:
    """What suits a space."""
    if not isinstance(space, Levels):
        return "normal"
    return "bernoulli" if space.k == 2 else "categorical" if space.k <= FEW_LEVELS else "logistic-mixture"


def refuse_unless(holds: bool, rule: str, got: object) -> None:
    """Raise an `InputError` that says the rule and what was got."""
    if not holds:
        raise InputError(f"{rule}, got {got}")


def _places(words: Sequence[str], word: str) -> list[int] | None:
    return None if len(words) == 1 else [place for place, other in enumerate(words) if other == word]


def _law(space: Space, word: str, components: int) -> Law:
    known: Sequence[str] = [*ON_LEVELS, *ON_REAL, "low-rank"]
    if word not in known:
        raise InputError(f"unknown emission {word!r}; {did_you_mean(word, known)}known are {', '.join(known)}")
    if not isinstance(space, Levels):
        if word == "low-rank":
            raise InputError(
                "emission=low-rank is one law of all columns, got it for some of them; take it for all, or normal"
            )
        if word not in ON_REAL:
            raise InputError(
                f"emission={word} is for levels, got {space}; take {', '.join(ON_REAL)} or low-rank, or say --levels for whole numbers"
            )
        return ON_REAL[word](components)
    if word not in ON_LEVELS:
        raise InputError(f"emission={word} is for real values, got {space}; take {', '.join(ON_LEVELS)}")
    if word == "bernoulli" and space.k != 2:
        raise InputError(
            f"emission=bernoulli needs two levels, got {space}, whose probabilities it has none for; {BINARISE}"
        )
    if word in ("categorical", "poisson") and space.k > MOST_CATEGORIES:
        raise InputError(f"emission={word} needs at most {MOST_CATEGORIES} levels, got {space}; take logistic-mixture")
    return ON_LEVELS[word](space, components)
