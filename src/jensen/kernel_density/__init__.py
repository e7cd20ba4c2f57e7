"""Sums of bumps around stored rows: kernels, kernels on levels, their exact sums, and the choice of bandwidths."""
