"""The parts of a variational autoencoder: networks, posterior, prior, emission, what is minimised and what is told."""
