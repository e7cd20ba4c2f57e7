"""Bounds on log p(x) of latent-variable models, and estimates of it, from (prior, emission, posterior, x): numbers an example."""

from jensen.bounds.annealed import Annealing, Sandwich, Settings, sandwich
from jensen.bounds.elbo import elbo
from jensen.bounds.evidence import importance_weights
from jensen.bounds.gradients import ESTIMATORS
from jensen.bounds.kl import kl_by_dimension
from jensen.bounds.weights import Draws, log_weights

__all__ = [
    "ESTIMATORS",
    "Annealing",
    "Draws",
    "Sandwich",
    "Settings",
    "elbo",
    "importance_weights",
    "kl_by_dimension",
    "log_weights",
    "sandwich",
]
