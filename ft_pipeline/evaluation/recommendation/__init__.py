"""What a comparison recommends, and the observations that explain it."""
