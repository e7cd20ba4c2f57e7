"""Estimating the parameters of a named family: maximum likelihood, conjugate Bayes, and Jensen's inequality."""
