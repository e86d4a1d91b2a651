"""The teacher's prompt (system prompt, fixed examples, question) and the hashes that identify answers."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import pick_examples, render, with_prompt
from ft_pipeline.models.endpoint.request_loop import ChatRequest
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.tables.formats.turns import Message, plain


@dataclass(frozen=True)
class TeacherPrompt:
    """Builds the prompt of every question from the settings."""

    teacher: TeacherSettings
    examples: list[list[Message]]

    @classmethod
    def of(cls, teacher: TeacherSettings, conversations: Path) -> "TeacherPrompt":
        """The prompt with the fixed examples that the settings require, from the train split of a conversations
        artifact. UserError if the split has too few rows."""
        if not teacher.few_shot:
            return cls(teacher, [])
        wanted = [("split", "=", "train")]
        if teacher.few_shot_from is not None:
            table, _, file = teacher.few_shot_from.partition("/")
            wanted += [("table", "=", table), ("file", "=", file)]
        rows = pq.read_table(conversations / "rows.parquet", filters=wanted).to_pylist()
        try:
            return cls(teacher, pick_examples(rows, teacher.few_shot, teacher.seed))
        except UserError as error:
            where = f"teacher.few_shot_from is {teacher.few_shot_from}: " if teacher.few_shot_from else "teacher: "
            raise UserError(f"{where}{error}") from None

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The whole conversation that is sent to the teacher. It ends with a user turn."""
        return with_prompt(plain(messages), self.teacher.system_prompt, self.examples)

    def question(self, messages: Sequence[Message], sample: int = 0) -> ChatRequest:
        """The request to an endpoint. Its key is a hash of URL, model, sampling, sample number and whole prompt."""
        assert self.teacher.endpoint is not None
        # Reasoning in earlier turns is not sent to an endpoint: its own model would have hidden it, too.
        put = [{"role": turn["role"], "content": turn["content"]} for turn in self.messages(messages)]
        depends_on = [self.teacher.endpoint.url, self.teacher.model, self.sampling, sample, put]
        text = json.dumps(depends_on, ensure_ascii=False, sort_keys=True)
        return ChatRequest(hashlib.sha256(text.encode()).hexdigest(), put, sample)

    def rendered(self, tokenizer: Any, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Row id → the prompt, rendered for a model on this machine."""
        return {
            row["id"]: render(tokenizer, self.messages(row["messages"]), add_generation_prompt=True) for row in rows
        }

    @property
    def prompt_sha256(self) -> str:
        """Hash of what all prompts of this teacher have in common."""
        text = json.dumps([self.teacher.system_prompt, self.examples], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def sampling(self) -> dict[str, Any]:
        return {name: getattr(self.teacher, name) for name in ("temperature", "max_new_tokens", "seed")}


def token_lengths(tokenizer: Any, prompts: Mapping[str, str]) -> dict[str, int]:
    """Row id → number of tokens of the rendered prompt."""
    return {key: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for key, text in prompts.items()}


def teacher_sha256(teacher: TeacherSettings) -> str:
    """The hash that identifies an endpoint's teacher: of its URL and its model name."""
    assert teacher.endpoint is not None
    return hashlib.sha256(json.dumps([teacher.endpoint.url, teacher.model]).encode()).hexdigest()
