"""Immutable tables and artifacts, hashes, manifests."""
