"""Model code that several stages share: resolve, load, render."""
