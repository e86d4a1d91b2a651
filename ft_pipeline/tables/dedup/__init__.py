"""Exact and near duplicates, and training rows that are near held-out rows."""
