"""What depends on what, on which GPU, when."""
