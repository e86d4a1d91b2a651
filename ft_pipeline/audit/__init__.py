"""The walk over manifests, from a score back to the bytes it came from; needs neither Dagster nor its database."""
