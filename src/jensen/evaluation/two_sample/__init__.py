"""How like the data samples are, without any density: measures of two samples, each beside what the data reach against themselves."""

from jensen.evaluation.two_sample.measure import Measure
from jensen.evaluation.two_sample.table import TwoSamples, two_samples

__all__ = ["Measure", "TwoSamples", "two_samples"]
