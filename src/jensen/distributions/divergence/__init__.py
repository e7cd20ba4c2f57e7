"""How far two laws, or two samples, are from each other: one front for each, twelve kinds, and every number says what it is."""

from jensen.distributions.divergence.front import divergence
from jensen.distributions.divergence.result import KINDS, Divergence

__all__ = ["KINDS", "Divergence", "divergence"]
