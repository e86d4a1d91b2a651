"""The loop around the model: batches, loss, checkpoints, ranks."""
