"""`ft sweep`: train variations of an experiment, and choose one by its validation loss."""
