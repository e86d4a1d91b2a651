"""Add the adapter to the weights, and measure how close the result is."""
