"""Bytes to values: files, containers, batches."""
