"""The local teacher: answers to the unlabelled prompts, written down as they arrive."""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.job import Job
from ft_pipeline.models.base_model import template_sha256
from ft_pipeline.models.chat import Message, pick_examples, render, with_prompt
from ft_pipeline.models.generate import Generation, generate
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings import TeacherSettings
from ft_pipeline.tables.columns import MESSAGES

ANSWERS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_messages", MESSAGES),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
        ("prompt_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
    ]
)
"""finish_reason: `stop`, `length` (cut off), or `context` (prompt and answer do not fit the model: never asked)."""


Entry = dict[str, Any]
"""An answer in the journal: answer, finish_reason, prompt_tokens, answer_tokens, seconds (its share of the batch)."""


def run(job: Job) -> dict[str, Any]:
    """Answer every row of `unlabelled` under the teacher's system prompt and fixed examples of the train split.

    Inputs: unlabelled, conversations, base_model (the teacher's). Config: `teacher` (TeacherSettings; the model's name
    and terms are not looked at). Files: answers.parquet, teacher.json (system prompt, examples, template hash,
    sampling).
    A run that was killed is asked only for what is missing, in the same batches. Summary: prompts, answered, seconds,
    answer_tokens, tokens_per_second, resumed.
    """
    settings = TeacherSettings.model_validate(job.config["teacher"])
    rows = pq.read_table(job.inputs["unlabelled"] / "rows.parquet").to_pylist()
    examples = _examples(job.inputs["conversations"], settings)
    answers, resumed = _answer_all(job, rows, examples, settings)
    table = pa.Table.from_pylist([_answer_row(row, answers[row["id"]]) for row in rows], schema=ANSWERS)
    pq.write_table(table, job.out / "answers.parquet")
    _write_json(job.out / "teacher.json", _provenance(job.inputs["base_model"], settings, examples))
    seconds = sum(answer["seconds"] for answer in answers.values())
    tokens = sum(answer["answer_tokens"] for answer in answers.values())
    return {
        "prompts": len(rows),
        "answered": sum(answer["finish_reason"] != "context" for answer in answers.values()),
        "seconds": round(seconds, 2),
        "answer_tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "resumed": resumed,
    }


def _examples(conversations: Path, settings: TeacherSettings) -> list[list[Message]]:
    if not settings.few_shot:
        return []
    rows = pq.read_table(conversations / "rows.parquet", filters=[("split", "=", "train")]).to_pylist()
    return pick_examples(rows, settings.few_shot, settings.seed)


def _answer_all(
    job: Job, rows: Sequence[dict[str, Any]], examples: list[list[Message]], settings: TeacherSettings
) -> tuple[dict[str, Entry], int]:
    """Every answer by row id, and how many of them an earlier run had left in the work folder."""
    journal = Journal(job.work / "answers.jsonl")
    answers = journal.read()
    resumed = len(answers)
    if resumed == len(rows):
        return answers, resumed
    if resumed:
        job.report.log(f"{resumed} of {len(rows)} answers are there from an earlier run")
    teacher = _Teacher(job, rows, examples, settings)
    started, written = time.monotonic(), 0
    for number, batch in enumerate(_batches(teacher.lengths, settings.batch_size)):
        missing = [key for key in batch if key not in answers]
        if not missing:
            continue
        arrived = teacher.answer(missing, seed=settings.seed + number)
        journal.append(arrived)
        answers |= arrived
        written += sum(entry["answer_tokens"] for entry in arrived.values())
        speed = written / (time.monotonic() - started)
        job.report.progress(len(answers), len(rows), tokens_per_second=speed)
    return answers, resumed


class _Teacher:
    """The model, loaded, with every prompt as it will see it."""

    def __init__(
        self, job: Job, rows: Sequence[dict[str, Any]], examples: list[list[Message]], settings: TeacherSettings
    ) -> None:
        folder = job.inputs["base_model"]
        self.settings = settings
        self.tokenizer: Any = load_tokenizer(folder)
        self.prompts = {row["id"]: self._prompt(row["messages"], examples) for row in rows}
        self.lengths = {
            key: len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) for key, text in self.prompts.items()
        }
        self.model = load_model(folder, job.device)

    def answer(self, keys: Sequence[str], *, seed: int) -> dict[str, Entry]:
        """The answers to these prompts; one that does not fit the model's context is not asked."""
        context = getattr(self.model.config, "max_position_embeddings", None)
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
        return {key: answered.get(key) or _unasked(self.lengths[key]) for key in keys}

    def _prompt(self, messages: Sequence[Message], examples: list[list[Message]]) -> str:
        turns = with_prompt(messages, self.settings.system_prompt, examples)
        return render(self.tokenizer, turns, add_generation_prompt=True)


def _batches(lengths: dict[str, int], size: int) -> Iterator[list[str]]:
    """Ids in batches of similar length, longest first; the same for every run over the same prompts.

    Batches are fixed so that a resumed run pads as the unbroken one did: rounding, hence now and then a greedy token,
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


def _unasked(prompt_tokens: int) -> Entry:
    return {
        "answer": "",
        "finish_reason": "context",
        "prompt_tokens": prompt_tokens,
        "answer_tokens": 0,
        "seconds": 0.0,
    }


def _answer_row(row: dict[str, Any], answer: Entry) -> dict[str, Any]:
    kept = {name: answer[name] for name in ("answer", "finish_reason", "prompt_tokens", "answer_tokens")}
    return {"id": row["id"], "prompt_messages": row["messages"], "file": row["file"], "row": row["row"], **kept}


def _provenance(folder: Path, settings: TeacherSettings, examples: list[list[Message]]) -> dict[str, Any]:
    """What every answer of this run has in common."""
    prompt = json.dumps([settings.system_prompt, examples], ensure_ascii=False, sort_keys=True)
    return {
        "system_prompt": settings.system_prompt,
        "examples": examples,
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "template_sha256": template_sha256(folder),
        "sampling": {
            "temperature": settings.temperature,
            "max_new_tokens": settings.max_new_tokens,
            "seed": settings.seed,
        },
    }


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=2), encoding="utf-8")


class Journal:
    """Answers so far, one JSON line each: on disk before the next batch is asked for, whole or not counted."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Entry]:
        """The answers by id; a last line that a kill cut off is dropped, from the file too."""
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
