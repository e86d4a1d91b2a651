"""The steps that have a file of their own, and what several of them share."""
