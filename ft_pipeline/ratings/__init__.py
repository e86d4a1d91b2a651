"""Ratings: people compare the answers of two models, blind."""
