"""A model or adapter folder that serves as it was scored."""
