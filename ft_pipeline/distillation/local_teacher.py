"""A teacher on this machine: answers in batches of similar length, written to disk as they arrive."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from ft_pipeline.distillation.answer_table import answer_row, read_prompts, unasked, write_answers
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt, token_lengths
from ft_pipeline.job import Job
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.generate import Generation, generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.models.model_structure import context_window

Entry = dict[str, Any]
"""An answer in the journal: answer, finish_reason, prompt_tokens, answer_tokens, seconds (its share of the batch)."""


def answer_all(job: Job, prompter: TeacherPrompt) -> dict[str, Any]:
    """Answer every row of the input `unlabelled` with the model of the input `base_model`, write answers.parquet to
    `job.out`, and return the summary."""
    rows = list(read_prompts(job.inputs["unlabelled"]))
    answers, resumed = _answer_all(job, rows, prompter)
    samples = range(prompter.teacher.answers_per_prompt)
    write_answers((_row(row, sample, answers[_key(row["id"], sample)]) for row in rows for sample in samples), job.out)
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
    }


def _answer_all(job: Job, rows: Sequence[dict[str, Any]], prompter: TeacherPrompt) -> tuple[dict[str, Entry], int]:
    """(answers by row id and sample, number of them that were in the work folder from an earlier run)."""
    settings = prompter.teacher
    journal = Journal(job.work / "answers.jsonl")
    answers = journal.read()
    resumed, wanted = len(answers), len(rows) * settings.answers_per_prompt
    if resumed == wanted:
        return answers, resumed
    if resumed:
        job.report.log(f"{resumed} of {wanted} answers are kept from an earlier run")
    teacher = _Teacher(job, rows, prompter)
    started, written = time.monotonic(), 0
    batches = list(_batches(teacher.lengths, settings.batch_size))
    for number, (sample, batch) in enumerate(product(range(settings.answers_per_prompt), batches)):
        missing = [row for row in batch if _key(row, sample) not in answers]
        if not missing:
            continue
        entries = teacher.answer(missing, seed=settings.seed + number)
        arrived = {_key(row, sample): entry for row, entry in entries.items()}
        journal.append(arrived)
        answers |= arrived
        written += sum(entry["answer_tokens"] for entry in arrived.values())
        speed = written / (time.monotonic() - started)
        job.report.progress(len(answers), wanted, tokens_per_second=speed)
    return answers, resumed


class _Teacher:
    """The loaded model and all rendered prompts."""

    def __init__(self, job: Job, rows: Sequence[dict[str, Any]], prompter: TeacherPrompt) -> None:
        folder = job.inputs["base_model"]
        self.settings = prompter.teacher
        self.tokenizer: Any = load_tokenizer(folder)
        self.prompts = prompter.rendered(self.tokenizer, rows)
        self.lengths = token_lengths(self.tokenizer, self.prompts)
        self.model = load_model(folder, job.device)
        speed_up_products(self.model, trains=False)

    def answer(self, keys: Sequence[str], *, seed: int) -> dict[str, Entry]:
        """The answers to these prompts. A prompt that does not fit the model's context is not answered."""
        context = context_window(self.model.config)
        fitting = [k for k in keys if not context or self.lengths[k] + self.settings.max_new_tokens <= context]
        begun = time.monotonic()
        generations = generate(
            self.model,
            self.tokenizer,
            [self.prompts[key] for key in fitting],
            max_new_tokens=self.settings.max_new_tokens,
            batch_size=self.settings.batch_size,
            temperature=self.settings.temperature,
            seed=seed,
        )
        share = (time.monotonic() - begun) / max(len(fitting), 1)
        answered = {key: _entry(answer, share) for key, answer in zip(fitting, generations, strict=True)}
        return {key: answered.get(key) or {**unasked(self.lengths[key]), "seconds": 0.0} for key in keys}


def _batches(lengths: dict[str, int], size: int) -> Iterator[list[str]]:
    """Ids in batches of similar length, longest first. Every run over the same prompts has the same batches.

    Batches are fixed so that a resumed run pads like an uninterrupted one: rounding, and thus sometimes a greedy token,
    depends on the padding.
    """
    order = sorted(lengths, key=lambda key: (-lengths[key], key))
    for begin in range(0, len(order), size):
        yield order[begin : begin + size]


def _entry(answer: Generation, seconds: float) -> Entry:
    return {
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "answer_tokens": answer.answer_tokens,
        "seconds": seconds,
    }


def _key(row: str, sample: int) -> str:
    return f"{row}:{sample}"


def _row(row: dict[str, Any], sample: int, answer: Entry) -> dict[str, Any]:
    return answer_row(row, sample, **{key: value for key, value in answer.items() if key != "seconds"})


class Journal:
    """Answers so far, one JSON line each, on disk before the next batch starts. An incomplete line is ignored."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Entry]:
        """The answers by id. An incomplete last line, left by a kill, is also removed from the file."""
        if not self.path.is_file():
            return {}
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        return {entry.pop("id"): entry for entry in map(json.loads, whole.splitlines())}

    def append(self, answers: dict[str, Entry]) -> None:
        """Add answers and wait until they are on disk."""
        lines = "".join(json.dumps({"id": key, **entry}, ensure_ascii=True) + "\n" for key, entry in answers.items())
        with self.path.open("a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
