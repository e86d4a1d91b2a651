"""Snapshots of the user's files, stored by content."""
