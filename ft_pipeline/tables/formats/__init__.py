"""Raw values to rows of a format."""
