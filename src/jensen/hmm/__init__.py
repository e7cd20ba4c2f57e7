"""Hidden Markov models: chains, recursions, emissions, Baum–Welch; tensors in, tensors out."""
