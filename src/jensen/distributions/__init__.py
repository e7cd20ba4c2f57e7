"""Distributions that models need and torch lacks, and conditional distributions."""
