"""Bounds on log p(x) of latent-variable models, and estimates of it, from (prior, emission, posterior, x): numbers an example."""

from jensen.bounds.elbo import elbo
from jensen.bounds.weights import Draws, log_weights

__all__ = ["Draws", "elbo", "log_weights"]
