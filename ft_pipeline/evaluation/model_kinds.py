"""The kinds of models that are compared: base, prompt, adapter, merged, teacher, champion."""

from typing import Literal

ModelKind = Literal["base", "prompt", "adapter", "merged", "teacher", "champion"]
BASELINES: tuple[ModelKind, ...] = ("base", "prompt")
TUNED: tuple[ModelKind, ...] = ("adapter", "merged")
