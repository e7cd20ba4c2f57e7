"""How far two laws, or two samples, are from each other: one front for each, twelve kinds, and every number says what it is."""

from jensen.distributions.divergence.front import divergence
from jensen.distributions.divergence.result import KINDS, Divergence
from jensen.distributions.divergence.samples import between_samples, median_distance

__all__ = ["KINDS", "Divergence", "between_samples", "divergence", "median_distance"]
