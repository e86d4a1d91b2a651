"""Rows taken out on request, wherever the project keeps them."""
