"""Estimate the memory that training needs, from config.json alone."""
