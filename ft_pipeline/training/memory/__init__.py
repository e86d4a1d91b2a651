"""The memory that a training needs, from config.json alone."""
