"""A hidden Markov model as named tensors: which there are, how large, and the parameters they make."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.hmm.chain import Chain
from jensen.hmm.em import Parameters
from jensen.hmm.emission import Emission
from jensen.hmm.layout import Layout
from jensen.hmm.levels import LevelEmission
from jensen.hmm.normal import NormalEmission
from jensen.mixture.covariance import Covariance
from jensen.mixture.parameters import Parameters as MixtureParameters
from jensen.mixture.parameters import unit
from jensen.rules import FINITE, Rule, first_broken, probabilities

MOST_CELLS = 1 << 28  # of the parameters, and of one sequence's states: 2 GiB


@dataclass(frozen=True)
class Tables:
    """The tensors of models of one kind.

    Args:
        layout: of a row.
        space: of a cell.
        covariance: of the normals.
        components: M.
        pseudo: what the prior adds to the count of every level.
    """

    layout: Layout
    space: Space
    covariance: Covariance
    components: int
    pseudo: float

    def shapes(self, states: int) -> dict[str, tuple[int, ...]]:
        """Those of the emission; a prefix `emission_` tells them from the chain's."""
        dims, normals = self.layout.dims, states * self.components
        if isinstance(self.space, Levels):
            return {"emission_probabilities": (states, dims, self.space.k)}
        spread = {f"emission_spread_{n}": s for n, s in self.covariance.shapes(normals, dims).items()}
        return {"emission_weights": (normals,), "emission_means": (normals, dims), **spread}

    def rules(self) -> dict[str, Rule]:
        """What all tensors must be: probabilities with sum 1, covariances that are some."""
        chain = {"initial": probabilities(), "transitions": probabilities()}
        if isinstance(self.space, Levels):
            return {**chain, "emission_probabilities": probabilities()}
        spread = {f"emission_spread_{name}": rule for name, rule in self.covariance.rules().items()}
        return {**chain, "emission_weights": probabilities(self.components), "emission_means": FINITE, **spread}

    def blank(self, states: int) -> dict[str, Tensor]:
        """Even chains and histograms, standard normals.

        Raises:
            InputError: they, or the states of one sequence, are too large.
        """
        shapes = {"transitions": (states, states), **self.shapes(states)}
        if sum(math.prod(shape) for shape in shapes.values()) > MOST_CELLS:
            raise InputError(
                f"the parameters of {states} states with {self.layout.dims} numbers a step do not fit in memory; "
                "use fewer states or components, covariance diag, fewer levels, or resize the data"
            )
        if states * self.layout.times * max(1, self.layout.dims // 64) > MOST_CELLS:
            raise InputError(
                f"{states} states at each of {self.layout.times} steps do not fit in memory; use fewer, or cut the sequences"
            )
        tables = {name: _blank(name, shape, self.components) for name, shape in shapes.items()}
        return {"initial": torch.full((states,), 1 / states, dtype=torch.float64), **tables}

    def parameters(self, tensors: Mapping[str, Tensor]) -> Parameters:
        """The model that the tensors are."""
        return Parameters(Chain(tensors["initial"], tensors["transitions"]), self._emission(tensors))

    def _emission(self, tensors: Mapping[str, Tensor]) -> Emission:
        if isinstance(self.space, Levels):
            return LevelEmission(tensors["emission_probabilities"], self.space, self.pseudo)
        prefix = "emission_spread_"
        spread = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        parameters = MixtureParameters(tensors["emission_weights"], tensors["emission_means"], spread)
        return NormalEmission(parameters, self.covariance, len(tensors["initial"]))

    def tensors(self, parameters: Parameters) -> dict[str, Tensor]:
        """The tensors that the model is."""
        chain, emission = parameters.chain, parameters.emission.tensors()
        own = {f"emission_{name}": tensor for name, tensor in emission.items()}
        return {"initial": chain.initial, "transitions": chain.transitions, **own}

    def normals(self, means: Tensor, covariances: Tensor | None, weights: Tensor) -> dict[str, Tensor]:
        """The tensors of given normals: axes of states and components become one.

        Args:
            means: `(K, d)` or `(K, M, d)`.
            covariances: as the structure has them, with an axis of M behind K for mixtures; variance 1 if None.
            weights: `(K, M)`.
        """
        given = {"emission_weights": weights.flatten(), "emission_means": means.double().flatten(0, -2)}
        if covariances is not None:
            name, shape = next(iter(self.covariance.shapes(weights.numel(), self.layout.dims).items()))
            fits = covariances.numel() == math.prod(shape)
            given[f"emission_spread_{name}"] = covariances.double().reshape(shape) if fits else covariances
        return given

    def check(self, given: Mapping[str, Tensor], states: int) -> None:
        """Refuse tensors of an emission whose shapes do not belong to so many states, and covariances that are none."""
        for name, tensor in given.items():
            wanted = self.shapes(states)[name]
            if tuple(tensor.shape) != wanted:
                raise InputError(
                    f"{name.removeprefix('emission_')} must have shape {wanted}, got {tuple(tensor.shape)}"
                )
        rules = {name: rule for name, rule in self.rules().items() if name in given}
        if wrong := first_broken(rules, given):
            raise InputError(f"{wrong}; give a hidden Markov model's parameters")


def _blank(name: str, shape: tuple[int, ...], components: int) -> Tensor:
    if name.startswith("emission_spread_covariance"):
        return unit(name.removeprefix("emission_spread_"), shape)
    even = {
        "transitions": 1 / shape[-1],
        "emission_probabilities": 1 / shape[-1],
        "emission_weights": 1 / components,
        "emission_means": 0.0,
    }
    return torch.full(shape, even.get(name, 1.0), dtype=torch.float64)
