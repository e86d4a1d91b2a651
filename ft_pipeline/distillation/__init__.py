"""Unlabelled prompts to filtered answers of a teacher."""
