"""Batched generation token by token."""
