"""Laws: what holds for any input, in the words of hypothesis."""
