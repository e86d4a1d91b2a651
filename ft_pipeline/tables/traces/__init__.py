"""Traces of production: documents of request logs and tracers to model calls, and calls to rows."""
