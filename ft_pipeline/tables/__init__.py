"""Raw files to validated tables and conversations. Every row that is not used is recorded with a reason."""
