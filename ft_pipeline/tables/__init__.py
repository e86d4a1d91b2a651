"""Bytes to rows, rows to conversations: nothing is dropped in silence."""
