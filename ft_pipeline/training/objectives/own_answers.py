"""Answers of the student, with a teacher's distributions over them (on-policy distillation, Agarwal et al. 2024,
arXiv 2306.13649).

A student that reads only its teacher's answers never sees what follows its own mistakes. Here it answers the prompts
itself, with the weights of the step, and the teacher reads these answers after its own prompt.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ft_pipeline.models.attention import padded_attention
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.compute_dtype import compute_autocast
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.target_logits import read_targets
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.training.objectives.drawn_answers import draw_ids, prompt_ids
from ft_pipeline.training.tokens.chat_tokens import MASKED
from ft_pipeline.training.trainer.acceleration import without_compiled_code
from ft_pipeline.training.trainer.distribution_loss import distribution_columns
from ft_pipeline.training.trainer.loss import evaluation_mode


@dataclass(frozen=True)
class Asked:
    """A prompt as both models read it."""

    ids: list[int]
    """The student's prompt."""
    teacher_prompt: str


def prompt_of(row: dict[str, Any]) -> Asked:
    """Return the prompt of a row of the training data."""
    return Asked(prompt_ids(row), row["teacher_prompt"])


def distinct_prompts(rows: Sequence[dict[str, Any]]) -> list[Asked]:
    """Return the prompts of rows, each once."""
    return list({row["id"]: prompt_of(row) for row in rows}.values())


def is_on_policy(step: int, share: float) -> bool:
    """Whether an optimizer step (from 0) trains on the student's answers, so that this share of the steps does, evenly
    spread."""
    before, after = (math.floor(round(number * share, 6)) for number in (step, step + 1))  # 10 × 0.7 is not quite 7
    return after > before


class Teacher:
    """A model that reads answers after its own prompts: the student without its adapter, or another model."""

    def __init__(self, student: Any, base: Path, folder: Path | None) -> None:
        """folder: the teacher's model; None if it is the student's base model, on which LoRA trains an adapter. base:
        the student's."""
        self._student = student
        self._model = None if folder is None else load_model(folder, str(student.device))
        if self._model is not None:
            speed_up_products(self._model, trains=False)
        self._tokenizer: Any = load_tokenizer(folder or base)
        self._vocabulary = max(self._tokenizer.get_vocab().values()) + 1

    def read(self, prompts: Sequence[str], answers: Sequence[list[int]], k: int, batch_size: int) -> list[Any]:
        """Return the columns of the distributions at each token of the answers: k tokens, and the rest."""
        contexts = [self._tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        with self._ready() as model:
            return read_targets(
                model,
                list(zip(contexts, answers, strict=True)),
                lambda logits, _: distribution_columns(logits[:, : self._vocabulary], k),
                batch_size=batch_size,
            )

    @contextmanager
    def _ready(self) -> Iterator[Any]:
        if self._model is not None:
            with compute_autocast(self._model):
                yield self._model
            return
        model = self._student
        with (
            evaluation_mode(model),
            without_compiled_code(),
            padded_attention(model),
            compute_autocast(model),
            model.disable_adapter(),
        ):
            yield model


class OwnAnswers:
    """Makes rows of a student's answers, in the form of the training data."""

    def __init__(
        self, model: Any, tokenizer: Any, teacher: Teacher, settings: DistillSettings, batch_size: int
    ) -> None:
        self._model, self._tokenizer, self._teacher, self._settings = model, tokenizer, teacher, settings
        self._batch_size = batch_size
        self._decoding = Decoding(stop_token_ids(tokenizer, model), settings.max_new_tokens, settings.temperature)

    def rows(self, prompts: Sequence[Asked], seed: int) -> list[dict[str, Any]]:
        """Return a row with the student's answer to each prompt, and the teacher's distribution at each of its tokens.

        An answer without an end is a row, too: its distributions are as right as the others.
        """
        asked = [prompt.ids for prompt in prompts]
        answers = draw_ids(self._model, self._tokenizer, asked, self._decoding, batch_size=self._batch_size, seed=seed)
        texts = [prompt.teacher_prompt for prompt in prompts]
        read = self._teacher.read(texts, answers, self._settings.top_k, self._batch_size)
        return [
            {"input_ids": [*prompt, *answer], "labels": [MASKED] * len(prompt) + answer, **columns}
            for prompt, answer, columns in zip(asked, answers, read, strict=True)
        ]
