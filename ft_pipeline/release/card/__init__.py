"""The model card, in the format of the Hugging Face hub."""
