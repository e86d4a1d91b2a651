"""Models under prompts to answers and scores."""
