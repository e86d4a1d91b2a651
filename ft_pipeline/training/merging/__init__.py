"""The adapter added to the weights, and how near the result is."""
