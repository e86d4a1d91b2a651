"""A teacher on this machine, in transformers. Prompts of similar length are answered together, and each batch of
answers is written to disk before the next one starts.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ft_pipeline.distillation.answer_table import (
    answer_row,
    calling_answer_columns,
    read_prompts,
    too_long_prompt_columns,
    write_answers,
)
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt, token_lengths
from ft_pipeline.job import Job
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.generate import Generation, generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.models.model_structure import context_window
from ft_pipeline.models.tool_calls import call_family, read_calls

JournalEntry = dict[str, Any]
"""An answer in the journal: answer, finish_reason, prompt_tokens, answer_tokens, seconds (its share of the batch's)."""


def answer_all(job: Job, teacher_prompt: TeacherPrompt) -> dict[str, Any]:
    """Answer every row of the input `unlabelled` with the model of the input `base_model`, write answers.parquet to
    `job.out`, and return the summary."""
    rows = list(read_prompts(job.inputs["unlabelled"]))
    answers, resumed = generate_missing(job, rows, teacher_prompt)
    samples = range(teacher_prompt.teacher.answers_per_prompt)
    checks = write_answers(
        (_answer_row(row, sample, answers[answer_key(row["id"], sample)]) for row in rows for sample in samples),
        job.out,
    )
    seconds = sum(answer["seconds"] for answer in answers.values())
    tokens = sum(answer["answer_tokens"] for answer in answers.values())
    return {
        "prompts": len(rows),
        "wanted": len(rows) * len(samples),
        "answered": sum(answer["finish_reason"] != "context" for answer in answers.values()),
        "seconds": round(seconds, 2),
        "answer_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "resumed": resumed,
        "engine": "transformers",
        "checks": checks,
    }


def generate_missing(
    job: Job, rows: Sequence[dict[str, Any]], teacher_prompt: TeacherPrompt
) -> tuple[dict[str, JournalEntry], int]:
    """Generate the answers that the journal lacks.

    Returns (answers by row id and sample, number of them that the journal already had from an earlier run).
    """
    settings = teacher_prompt.teacher
    journal = Journal(job.work / "answers.jsonl")
    answers = journal.read()
    resumed, wanted = len(answers), len(rows) * settings.answers_per_prompt
    if resumed == wanted:
        return answers, resumed
    if resumed:
        job.report.log(f"{resumed} of {wanted} answers are kept from an earlier run")
    teacher = _Teacher(job, rows, teacher_prompt)
    started, generated_tokens = time.monotonic(), 0
    batches = list(_batches(teacher.lengths, settings.batch_size))
    for number, (sample, batch) in enumerate(product(range(settings.answers_per_prompt), batches)):
        missing = [row_id for row_id in batch if answer_key(row_id, sample) not in answers]
        if not missing:
            continue
        entries = teacher.answer(missing, seed=settings.seed + number)
        new_answers = {answer_key(row_id, sample): entry for row_id, entry in entries.items()}
        journal.append(new_answers)
        answers |= new_answers
        generated_tokens += sum(entry["answer_tokens"] for entry in new_answers.values())
        speed = generated_tokens / (time.monotonic() - started)
        job.report.progress(len(answers), wanted, tokens_per_second=speed)
    return answers, resumed


class _Teacher:
    """The loaded model, and the rendered prompts of all rows."""

    def __init__(self, job: Job, rows: Sequence[dict[str, Any]], teacher_prompt: TeacherPrompt) -> None:
        folder = job.inputs["base_model"]
        self.settings = teacher_prompt.teacher
        self.tokenizer: Any = load_tokenizer(folder)
        self.prompts = teacher_prompt.render_prompts(self.tokenizer, rows)
        self.lengths = token_lengths(self.tokenizer, self.prompts)
        self.tools = {row["id"]: row["tools"] for row in rows if row.get("tools")}
        self.model = load_model(folder, job.device)
        speed_up_products(self.model, trains=False)

    def answer(self, row_ids: Sequence[str], *, seed: int) -> dict[str, JournalEntry]:
        """Return the answers to these rows' prompts. A prompt that does not fit the model's context is not answered."""
        context = context_window(self.model.config)
        answer_tokens = self.settings.max_new_tokens
        fitting = [row_id for row_id in row_ids if not context or self.lengths[row_id] + answer_tokens <= context]
        started = time.monotonic()
        generations = generate(
            self.model,
            self.tokenizer,
            [self.prompts[row_id] for row_id in fitting],
            max_new_tokens=answer_tokens,
            batch_size=self.settings.batch_size,
            temperature=self.settings.temperature,
            seed=seed,
        )
        share = (time.monotonic() - started) / max(len(fitting), 1)
        answered = {
            row_id: {**_journal_entry(answer, share), **self._columns_of_calls(row_id, answer)}
            for row_id, answer in zip(fitting, generations, strict=True)
        }
        return {row_id: answered.get(row_id) or self._too_long(row_id) for row_id in row_ids}

    def _columns_of_calls(self, row_id: str, answer: Generation) -> dict[str, Any]:
        """Return the columns that replace those of an answer's text if it calls tools."""
        family = call_family(self.tokenizer) if row_id in self.tools else None
        calls = read_calls(family, answer.raw, self.tools[row_id])[1] if family else []
        return calling_answer_columns(calls) if calls else {}

    def _too_long(self, row_id: str) -> JournalEntry:
        return {**too_long_prompt_columns(self.lengths[row_id]), "seconds": 0.0}


def _batches(lengths: dict[str, int], size: int) -> Iterator[list[str]]:
    """Yield row ids in batches of similar prompt length, longest first. The same prompts always give the same batches.

    A resumed run therefore pads like an uninterrupted one. Padding changes rounding, and thus sometimes a greedy token.
    """
    order = sorted(lengths, key=lambda row_id: (-lengths[row_id], row_id))
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _journal_entry(answer: Generation, seconds: float) -> JournalEntry:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "seconds": seconds,
    }


def answer_key(row_id: str, sample: int) -> str:
    """Return the key of an answer in the journal."""
    return f"{row_id}:{sample}"


def _answer_row(row: dict[str, Any], sample: int, answer: JournalEntry) -> dict[str, Any]:
    return answer_row(row, sample, **{key: value for key, value in answer.items() if key != "seconds"})


class Journal:
    """The answers so far, one JSON line each. They are on disk before the next batch starts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, JournalEntry]:
        """Return the answers by row id and sample. Removes an incomplete last line, left by a kill, from the file."""
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return {entry.pop("id"): entry for entry in map(json.loads, whole.splitlines())}

    def append(self, answers: dict[str, JournalEntry]) -> None:
        """Add answers and wait until they are on disk."""
        lines = "".join(json.dumps({"id": key, **entry}, ensure_ascii=True) + "\n" for key, entry in answers.items())
        with self.path.open("a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
