"""What a comparison shows besides claims: costs, kept prompts, changed answers."""
