"""Send an export to a private repository of a hub, or to a bucket."""
