"""What the files of several steps have in common: specs of models and scores, and parts of pages."""
