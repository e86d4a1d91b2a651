"""Opinions on answers: the verdicts of people and of a judge, how far they agree, and what they may decide."""
