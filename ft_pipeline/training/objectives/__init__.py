"""The rows and the loss of each objective."""
