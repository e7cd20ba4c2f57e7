"""Gaussian mixtures: covariance structures, sufficient statistics, EM, missing cells; tensors in, tensors out."""
