"""Turn conversations into tokens, train an adapter and merge it."""
