"""Messages to token ids and labels, and the audit of them."""
