"""A judge: a model behind an endpoint that says which of two answers is better."""
