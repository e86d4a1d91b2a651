"""The teacher's prompt (system prompt, fixed examples, question) and the hashes that identify answers."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ft_pipeline.errors import UserError
from ft_pipeline.models.chat import pick_examples, render, single_turn_rows, with_prompt
from ft_pipeline.models.endpoint.request_loop import ChatRequest
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.tables.formats.turns import Message, plain


@dataclass(frozen=True)
class TeacherPrompt:
    """What the teacher is sent before each question: its system prompt and fixed examples."""

    teacher: TeacherSettings
    examples: list[list[Message]]
    """Conversations of the train split."""

    @classmethod
    def of(cls, teacher: TeacherSettings, conversations: Path) -> "TeacherPrompt":
        """Return the prompt with as many examples as the settings require, from the train split of a conversations
        artifact; with none, if no row can be one (all have tools or several turns). UserError if there are too few."""
        if not teacher.few_shot:
            return cls(teacher, [])
        filters = [("split", "=", "train")]
        if teacher.few_shot_from is not None:
            table, _, file = teacher.few_shot_from.partition("/")
            filters += [("table", "=", table), ("file", "=", file)]
        rows = pq.read_table(conversations / "rows.parquet", filters=filters).to_pylist()
        if teacher.few_shot_from is None and rows and not single_turn_rows(rows, 0, teacher.seed):
            return cls(teacher, [])
        try:
            return cls(teacher, pick_examples(rows, teacher.few_shot, teacher.seed))
        except UserError as error:
            setting = f"teacher.few_shot_from is {teacher.few_shot_from}" if teacher.few_shot_from else "teacher"
            raise UserError(f"{setting}: {error}") from None

    def full_prompt(self, messages: Sequence[Message]) -> list[Message]:
        """Return the whole conversation that the teacher is sent: system prompt, examples, and then `messages`.

        A system turn in `messages` replaces the system prompt.
        """
        return with_prompt(plain(messages), self.teacher.system_prompt, self.examples)

    def request(self, messages: Sequence[Message], sample: int = 0, tools: str | None = None) -> ChatRequest:
        """Return the request to an endpoint. Its key is a hash of URL, model, sampling, sample, whole prompt and, if
        there are some, `tools` (JSON text)."""
        assert self.teacher.endpoint is not None
        prompt = [_sent_turn(turn) for turn in self.full_prompt(messages)]
        declared = None if tools is None else json.loads(tools)
        identity = [self.teacher.endpoint.url, self.teacher.model, self.sampling, sample, prompt]
        text = json.dumps(identity if declared is None else [*identity, declared], ensure_ascii=False, sort_keys=True)
        return ChatRequest(hashlib.sha256(text.encode()).hexdigest(), prompt, sample, declared)

    def render_prompts(self, tokenizer: Any, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        """Return row id → the whole prompt as text, for a model on this machine."""
        return {
            row["id"]: render(
                tokenizer, self.full_prompt(row["messages"]), add_generation_prompt=True, tools=row.get("tools")
            )
            for row in rows
        }

    @property
    def prompt_sha256(self) -> str:
        """SHA-256 of what all prompts of this teacher have in common."""
        text = json.dumps([self.teacher.system_prompt, self.examples], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def sampling(self) -> dict[str, Any]:
        own = {name: getattr(self.teacher, name) for name in ("temperature", "max_new_tokens", "seed")}
        endpoint = self.teacher.endpoint
        return own | ({"extra_body": endpoint.extra_body} if endpoint and endpoint.extra_body else {})


def _sent_turn(turn: Message) -> dict[str, Any]:
    """Return a turn as OpenAI's API reads it.

    Reasoning in earlier turns is not sent: the endpoint's own model would not have shown it. Nor are weights.
    """
    sent = {key: item for key, item in turn.items() if key not in {"reasoning_content", "tool_calls", "weight"}}
    calls = [
        {
            **({"id": call["id"]} if "id" in call else {}),
            "type": "function",
            "function": {"name": call["name"], "arguments": call["arguments"]},
        }
        for call in turn.get("tool_calls", ())
    ]
    return {**sent, "tool_calls": calls} if calls else sent


def token_lengths(tokenizer: Any, prompts: Mapping[str, str]) -> dict[str, int]:
    """Return row id → number of tokens of the rendered prompt."""
    return {row_id: len(tokenizer(text, add_special_tokens=False)["input_ids"]) for row_id, text in prompts.items()}


def teacher_sha256(teacher: TeacherSettings) -> str:
    """Return the hash that identifies a teacher at an endpoint: the SHA-256 of its URL and model name."""
    assert teacher.endpoint is not None
    return hashlib.sha256(json.dumps([teacher.endpoint.url, teacher.model]).encode()).hexdigest()
