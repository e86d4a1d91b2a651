"""Scores of all models to one document: paired intervals, costs, sweeps, plots."""
