"""Fine-tuning as a Dagster project."""
