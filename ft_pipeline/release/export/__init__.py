"""Export a model or adapter folder that answers as it was scored."""
