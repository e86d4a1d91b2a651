"""Models that several stages share: resolve, load, render."""
