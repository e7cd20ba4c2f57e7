"""Solvers of the reverse process, each a `Sampler`, one idea a file; words.py names them."""
