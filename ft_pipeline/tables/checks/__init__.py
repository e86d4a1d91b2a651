"""Checks of the content of rows."""
