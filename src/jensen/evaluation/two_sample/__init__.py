"""How like the data samples are, without any density: measures of two samples, each beside what the data reach against themselves.

measure      a number and what may be concluded from it
pairs        energy distance and mmd, from all pairs of rows
sliced       Wasserstein distance along directions
classifier   can the two be told apart?
extractor, network   features
frechet      Fréchet and kernel distance of features
manifold     precision, recall, density, coverage
memory       copies of training rows
gauge        all of them, ready for samples of any model
table        a model beside ceiling and floor
"""

from jensen.evaluation.two_sample.measure import Measure
from jensen.evaluation.two_sample.table import TwoSamples, two_samples

__all__ = ["Measure", "TwoSamples", "two_samples"]
