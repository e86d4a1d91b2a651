"""Score models under prompts."""
