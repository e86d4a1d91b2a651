"""Promotion, champion, model card."""
