"""The chain rule p(x) = ∏_d p(x_d | x_<d): the conditional laws. The networks are in `jensen.nn.causal`."""
