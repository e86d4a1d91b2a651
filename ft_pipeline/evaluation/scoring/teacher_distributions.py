"""The worker for `teacher_distributions`: a teacher on this machine answers prompts, and its token distributions at
each token of its answers are kept: the most likely tokens, and the probability of all others.

With the experiment's own base model under a prompt variant as teacher, this is context distillation (Snell et al. 2022,
arXiv 2209.15189).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.distillation.answer_table import read_prompts
from ft_pipeline.distillation.local_teacher import answer_key, generate_missing
from ft_pipeline.distillation.teacher_prompt import TeacherPrompt
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.prompt_sources import read_prompt
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.job import Job
from ft_pipeline.models.chat import Message, prompt_and_target, with_prompt
from ft_pipeline.models.cpu.fast_linear import speed_up_products
from ft_pipeline.models.decoding.target_logits import Pair, read_targets
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.teacher import TeacherSettings
from ft_pipeline.tables.formats.arrow_schema import MESSAGES, TOOLS, read_columns
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.raw_text import raw_json
from ft_pipeline.tables.reason_codes import Fault
from ft_pipeline.training.tokens.chat_tokens import MASKED, Rendered, encode
from ft_pipeline.training.trainer.distribution_loss import distribution_columns

FILE_NAME, SET_ASIDE = "rows.parquet", "set_aside.parquet"
_CHUNK_ROWS = 512
"""Answers whose distributions are in memory at a time."""
_FLOATS = pa.list_(pa.float32())
_ORIGIN = [("id", pa.string()), ("sample", pa.int16()), ("table", pa.string()), ("file", pa.string())]
_ROWS = pa.schema(
    [
        *_ORIGIN,
        ("row", pa.int64()),
        ("split", pa.string()),
        ("prompt_messages", MESSAGES),
        ("tools", TOOLS.arrow_type),
        ("teacher_prompt", pa.string()),
        ("answer", pa.string()),
        ("target_ids", pa.list_(pa.int32())),
        ("top_ids", pa.list_(pa.int32())),
        ("top_log_probabilities", _FLOATS),
        ("rest", _FLOATS),
    ]
)
"""split: that of a conversation; null for an unlabelled prompt, which its hash decides. teacher_prompt: what it read
before the answer, as text, from which an erased example can be removed. target_ids: the tokens of the answer, with the
stop token. top_ids, top_log_probabilities: k values for each of them, one token after the other.
rest: the probability of all other tokens, one value for each of them."""
_ASIDE = pa.schema(
    [*_ORIGIN, ("row", pa.int64()), ("code", pa.string()), ("message", pa.string()), ("raw", pa.string())]
)
_CODES = {
    "length": ("answer_cut_off", "no end within max_new_tokens"),
    "context": ("teacher_failed", "prompt and answer do not fit the context of the teacher"),
    "failed": ("teacher_failed", "the answer calls a tool"),
}
"""finish_reason → code and message of an answer that is set aside."""


@dataclass(frozen=True)
class _VariantPrompt(TeacherPrompt):
    """The teacher's sampling, and a prompt variant before each question."""

    prompt: Prompt = field(default_factory=Prompt)

    def full_prompt(self, messages: Sequence[Message]) -> list[Message]:
        return self.prompt.prepend_to(plain(messages))


def run(job: Job) -> dict[str, Any]:
    """Let the teacher answer the prompts, and write its distributions to rows.parquet. Answers that cannot train are
    listed in set_aside.parquet with their reason.

    Inputs: base_model (the teacher's), conversations, unlabelled if it is asked for, text if the variant has passages,
    and student, the base model of the experiment if it is not the teacher. Config: distill (DistillSettings), variant
    (PromptVariant), system_prompt (the student's), seed (of the variant's examples).
    UserError if the teacher has another vocabulary than the student. Summary: prompts, answers, kept, set_aside,
    reasons, tokens, rest (the mean probability of tokens that are not stored), resumed.
    """
    settings = DistillSettings.model_validate(job.config["distill"])
    teacher_tokenizer = load_tokenizer(job.inputs["base_model"])
    student_tokenizer = load_tokenizer(job.inputs["student"]) if "student" in job.inputs else teacher_tokenizer
    require_same_vocabulary(teacher_tokenizer, student_tokenizer)
    prompt = read_prompt(job.inputs, job.config["variant"], job.config["seed"])
    rows = list(_prompts(job, settings))
    if not rows:
        raise UserError(f"There are no prompts in {' and '.join(settings.rows)}. Add some, or change distill.rows.")
    answers, resumed = generate_missing(job, rows, _VariantPrompt(_sampling(settings), [], prompt))
    renderer = _Renderer(teacher_tokenizer, student_tokenizer, prompt, job.config["system_prompt"])
    total = len(rows) * settings.answers_per_prompt
    aside: list[dict[str, Any]] = []
    with _DistributionWriter(job, settings, renderer.vocabulary) as writer:
        for done, (row, found) in enumerate(_judged(rows, answers, settings.answers_per_prompt, renderer), 1):
            if isinstance(found, Fault):
                aside.append(_aside(row, found))
            else:
                writer.chunk.append((row, found))
            if len(writer.chunk) == _CHUNK_ROWS or done == total:
                writer.write_chunk()
                job.report.progress(done, total)
    pq.write_table(pa.Table.from_pylist(aside, schema=_ASIDE), job.out / SET_ASIDE, compression="zstd")
    summary = {
        "prompts": len(rows),
        "answers": total,
        "kept": writer.kept,
        "set_aside": len(aside),
        "reasons": dict(Counter(row["code"] for row in aside)),
        "tokens": writer.tokens,
        "rest": writer.rest / max(writer.tokens, 1),
        "resumed": resumed,
    }
    job.report.log(_describe(summary, settings.top_k))
    return summary


def _describe(summary: Mapping[str, Any], k: int) -> str:
    """Return the line that is logged at the end."""
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(summary["reasons"].items()))
    aside = f" ({reasons})" if reasons else ""
    return (
        f"{summary['kept']} of {summary['answers']} answers kept, {summary['set_aside']} set aside{aside}; "
        f"{summary['rest']:.1%} of the probability is not in the {k} tokens that are stored"
    )


def require_same_vocabulary(teacher: Any, student: Any) -> None:
    """Raise UserError if two tokenizers do not give the same number to the same token."""
    theirs, ours = teacher.get_vocab(), student.get_vocab()
    if theirs != ours:
        differing = len(theirs.items() ^ ours.items())
        raise UserError(
            f"The teacher's vocabulary ({len(theirs):,} tokens) differs from that of the base model ({len(ours):,}) in "
            f"{differing:,} entries. Choose a teacher of the same family, or train on its answers (data.weights)."
        )


def _sampling(settings: DistillSettings) -> TeacherSettings:
    keys = ("temperature", "max_new_tokens", "answers_per_prompt", "batch_size", "seed")
    return TeacherSettings(few_shot=0, **{key: getattr(settings, key) for key in keys})


def _prompts(job: Job, settings: DistillSettings) -> Iterator[dict[str, Any]]:
    """Yield the prompts, each with its origin. Of a conversation, the turns before its last answer are the prompt."""
    if "unlabelled" in settings.rows:
        for row in read_prompts(job.inputs["unlabelled"]):
            yield {**row, "table": "unlabelled", "split": None}
    if "conversations" in settings.rows:
        columns = ["id", "split", "table", "file", "row", "messages", "tools"]
        for row in read_columns(job.inputs["conversations"] / "rows.parquet", columns).to_pylist():
            last = max(index for index, turn in enumerate(row["messages"]) if turn["role"] == "assistant")
            if last and row["split"] != "test":
                yield {**row, "messages": row["messages"][:last]}


@dataclass(frozen=True)
class _Reading:
    """An answer as the teacher reads it."""

    context: str
    pair: Pair
    """The tokens of the context, and those of the answer."""


@dataclass(frozen=True)
class _Renderer:
    """Renders an answer as the teacher reads it and as the student learns it."""

    teacher_tokenizer: Any
    student_tokenizer: Any
    prompt: Prompt
    system_prompt: str | None

    @cached_property
    def vocabulary(self) -> int:
        """The number of tokens. A model may have more logits, which no tokenizer uses."""
        return max(self.student_tokenizer.get_vocab().values()) + 1

    def read(self, row: Mapping[str, Any]) -> _Reading | None:
        """Return an answer as the teacher reads it; None if the student would learn other tokens.

        row: prompt_messages, tools and answer.
        """
        messages = [*plain(row["prompt_messages"]), {"role": "assistant", "content": row["answer"]}]
        tools = row["tools"]
        text, context, target = _tokens(self.teacher_tokenizer, self.prompt.prepend_to(messages), tools)
        *_, learned = _tokens(self.student_tokenizer, with_prompt(messages, self.system_prompt, []), tools)
        return _Reading(text, (context, target)) if target == learned else None


def _tokens(tokenizer: Any, messages: Sequence[Message], tools: str | None) -> tuple[str, list[int], list[int]]:
    """Return a conversation before its last answer as text and in tokens, and the tokens of this answer with its stop
    token."""
    context, target = prompt_and_target(tokenizer, messages, tools)
    rendered = Rendered(context + target, ((len(context), len(context) + len(target)),), split_by_turn=False)
    (encoded,) = encode(tokenizer, [rendered])
    answer = [label for label in encoded.labels if label != MASKED]
    return context, encoded.input_ids[: len(encoded.input_ids) - len(answer)], answer


def _judged(
    rows: Sequence[dict[str, Any]], answers: Mapping[str, dict[str, Any]], samples: int, renderer: _Renderer
) -> Iterator[tuple[dict[str, Any], _Reading | Fault]]:
    """Yield each answer as a row of rows.parquet without its tokens, with its reading, or why it cannot train."""
    for row in rows:
        for sample in range(samples):
            answer = answers[answer_key(row["id"], sample)]
            learned = {
                **{name: row[name] for name in ("id", "table", "file", "row", "split")},
                "sample": sample,
                "prompt_messages": row["messages"],
                "tools": row.get("tools"),
                "answer": answer["answer"],
            }
            yield learned, _judge(learned, answer["finish_reason"], renderer)


def _judge(row: Mapping[str, Any], finish_reason: str, renderer: _Renderer) -> _Reading | Fault:
    """Return the reading of an answer, or why it cannot train."""
    if finish_reason in _CODES:
        return Fault(*_CODES[finish_reason])
    if not row["answer"].strip():
        return Fault("empty_output", "the answer is empty")
    try:
        reading = renderer.read(row)
    except UserError as error:
        return Fault("teacher_failed", str(error))
    return reading or Fault("tokens_differ", "teacher and student have other tokens for this answer")


def _aside(row: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
    """Return the row of set_aside.parquet of an answer that cannot train."""
    raw = raw_json([*row["prompt_messages"], {"role": "assistant", "content": row["answer"]}])
    return {
        **{name: row[name] for name in _ASIDE.names if name in row},
        "code": fault.code,
        "message": fault.message,
        "raw": raw,
    }


class _DistributionWriter:
    """Writes answers with the teacher's distributions to rows.parquet, a chunk of them at a time."""

    def __init__(self, job: Job, settings: DistillSettings, vocabulary: int) -> None:
        self._job, self._settings, self._vocabulary = job, settings, vocabulary
        self._file = pq.ParquetWriter(job.out / FILE_NAME, _ROWS, compression="zstd")
        self.chunk: list[tuple[dict[str, Any], _Reading]] = []
        """The answers that `write_chunk` writes."""
        self.kept, self.tokens = 0, 0
        self.rest = 0.0
        """The sum of the probabilities that are not stored."""

    def __enter__(self) -> "_DistributionWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @cached_property
    def _model(self) -> Any:
        model = load_model(self._job.inputs["base_model"], self._job.device)
        speed_up_products(model, trains=False)
        return model

    def write_chunk(self) -> None:
        """Write the answers of `chunk`, and empty it."""
        if not self.chunk:
            return
        distributions = read_targets(
            self._model,
            [reading.pair for _, reading in self.chunk],
            lambda logits, _: distribution_columns(logits[:, : self._vocabulary], self._settings.top_k),
            batch_size=self._settings.batch_size,
        )
        rows = [
            {**row, "teacher_prompt": reading.context, "target_ids": reading.pair[1], **columns}
            for (row, reading), columns in zip(self.chunk, distributions, strict=True)
        ]
        self._file.write_table(pa.Table.from_pylist(rows, schema=_ROWS))
        self.kept += len(rows)
        self.tokens += sum(len(row["target_ids"]) for row in rows)
        self.rest += sum(float(row["rest"].sum()) for row in rows)
        self.chunk = []
