"""Decides, without a person, when a model is retrained and who is notified."""
