"""The user's files, snapshotted by content."""
