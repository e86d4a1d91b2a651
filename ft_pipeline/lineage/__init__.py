"""Which artifact was made from which, and from which rows."""
