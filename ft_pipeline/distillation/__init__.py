"""From unlabelled prompts to filtered answers of a teacher."""
