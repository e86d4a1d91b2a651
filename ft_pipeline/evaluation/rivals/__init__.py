"""Rivals: whatever answers the test questions without a model of this project. Only their answers are known, and no
likelihoods. One worker scores them all (score.py), and writes the same files as for every other row."""
