"""Convert messages to token ids and labels, and audit them."""
