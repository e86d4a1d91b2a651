"""Requests to an OpenAI-compatible server: rates, budget, retries, paid answers."""
