"""Walk over manifests from a score to the raw bytes that it came from; needs neither Dagster nor its database."""
