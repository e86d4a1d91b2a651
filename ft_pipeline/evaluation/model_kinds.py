"""The kinds of models that are compared: base, prompt, adapter, merged, teacher, champion."""

BASELINES = ("base", "prompt")
TUNED = ("adapter", "merged")
