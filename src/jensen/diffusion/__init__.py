"""Diffusion: schedule, process, denoiser, reverse variance, emission, bound, samplers. Nothing here trains."""
