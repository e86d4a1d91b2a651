"""Conversations to tokens, adapter and merged model."""
