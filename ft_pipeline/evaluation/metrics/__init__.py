"""What one answer is measured by."""
