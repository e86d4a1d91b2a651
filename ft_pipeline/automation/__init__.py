"""What decides, without a person, that a model is trained again, and who hears of it."""
