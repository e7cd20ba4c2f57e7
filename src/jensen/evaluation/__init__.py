"""Evaluation: likelihoods of a finished run, pictures of data and samples, the report page.

`likelihood` computes the numbers, `images` and `plots` make pictures, `report` puts both on one HTML page.
"""
