"""What is learned: the rows of each objective and its loss."""
