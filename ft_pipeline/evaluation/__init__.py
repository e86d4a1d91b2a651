"""Scores, intervals, comparison, recommendation."""
