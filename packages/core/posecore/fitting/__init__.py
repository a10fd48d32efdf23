"""Fitting a body to observations: what is fitted, the terms of the objective, priors, and plain optimisation."""
