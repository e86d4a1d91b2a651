"""The kinds of models that are compared: base, prompt, adapter, merged, teacher, champion."""

UNTOUCHED = ("base", "prompt")
TUNED = ("adapter", "merged")
