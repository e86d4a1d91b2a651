"""Copies of a store or of a whole project at another place: pushed, pulled, backed up, restored."""
