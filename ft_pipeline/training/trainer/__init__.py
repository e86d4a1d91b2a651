"""The training loop: batches, loss, checkpoints, ranks."""
