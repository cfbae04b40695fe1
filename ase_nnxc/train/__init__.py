"""Fitting functionals to data."""
