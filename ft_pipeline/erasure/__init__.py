"""Erase rows on request, everywhere in the project."""
