"""Normalising flows: invertible maps with tractable determinants, and the densities they make of a normal."""
