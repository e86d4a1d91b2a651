"""Turn the teacher's answers into training rows. Every answer is kept, or set aside with its reason.

All kept rows are in the train split. Answers near a held-out row, a human row or an earlier kept answer are set aside.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.distillation import answer_filters
from ft_pipeline.distillation.answer_table import BATCH_ROWS, write_rows
from ft_pipeline.distillation.best_of_n import agreements, best_of
from ft_pipeline.tables.checks.content_checks import TEXT, find_faults
from ft_pipeline.tables.conversations import ASIDE_SCHEMA, SCHEMA
from ft_pipeline.tables.dedup.keys import Keys, group_names, keys_of_messages, merge
from ft_pipeline.tables.dedup.matching import find_duplicates, match_against
from ft_pipeline.tables.formats import sharegpt
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.formats.turns import Message, plain
from ft_pipeline.tables.held_out import origin, read_held_out, read_message_shingles
from ft_pipeline.tables.process_batch import raw_json

TABLE = "unlabelled"
DISTILLED = pa.schema(
    [
        *SCHEMA,
        ("teacher", pa.string()),
        ("teacher_fingerprint", pa.string()),
        ("prompt_sha256", pa.string()),
        ("template_sha256", pa.string()),
        ("sampling", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("answer_tokens", pa.int32()),
        ("endpoint_host", pa.string()),
        ("answered_at", pa.string()),
        ("request_id", pa.string()),
    ]
)
"""A conversation and the origin of its answer. `sampling` is JSON. `template_sha256` is the hash of the chat template,
or, for an endpoint, which does not show its template, the hash of the text around each prompt."""
COPIED_COLUMNS = ("tools", "tags", "file", "row", "prompt_tokens", "answer_tokens", "answered_at", "request_id")
"""Columns that a kept row takes unchanged from answers.parquet. Answers of older versions have no tools and tags."""
SAMPLES = 8
"""Number of kept answers, and of answers set aside, in the summary. If more reasons than this occur, each reason still
has one answer."""


@dataclass
class _Answer:
    """One answer, and the reason if it is set aside."""

    columns: Mapping[str, Any]
    """Its row in answers.parquet, by column."""
    code: str = ""
    """Reason code; empty while the answer is kept."""
    message: str = ""
    related_row: str | None = None
    """The row that is the reason ("table/file:row"): the one that it duplicates, a held-out row, or the answer to the
    same prompt that is kept instead."""

    @property
    def messages(self) -> list[Message]:
        return [*plain(self.columns["prompt_messages"]), {"role": "assistant", "content": self.columns["answer"]}]

    @property
    def origin(self) -> str:
        return f"{TABLE}/{self.columns['file']}:{self.columns['row']}"

    def set_aside(self, code: str, message: str, related_row: str | None = None) -> None:
        self.code, self.message, self.related_row = code, message, related_row


def distill(answers: Path, conversations: Path, out: Path, *, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows.parquet and set_aside.parquet to `out`, from the folders of teacher_answers and conversations.

    teacher: `model` (its name) and `fingerprint` (its artifact's). Returns the summary: answers, kept, set_aside,
    reasons, length_range, thresholds, samples, checks.
    """
    teacher_facts = json.loads((answers / "teacher.json").read_text(encoding="utf-8"))
    all_answers = [_Answer(row) for row in pq.read_table(answers / "answers.parquet").to_pylist()]
    human = _read_human_rows(conversations)
    length_range = answer_filters.length_range(_answer_lengths(human))
    context = answer_filters.Context(teacher_facts["system_prompt"] or "", teacher_facts["examples"], length_range)
    _set_aside_filtered(all_answers, context)
    _set_aside_invalid(all_answers)
    _set_aside_contaminated(all_answers, conversations)
    _set_aside_copies_of_human_rows(all_answers, human)
    _set_aside_all_but_best(all_answers)
    _set_aside_duplicates(all_answers)
    kept = _kept(all_answers)
    set_aside = [answer for answer in all_answers if answer.code]
    provenance = _provenance(teacher, teacher_facts)
    groups = group_names(_keys_of(kept).group)
    kept_rows = (_kept_row(answer, group) | provenance for answer, group in zip(kept, groups, strict=True))
    write_rows(kept_rows, out / "rows.parquet", DISTILLED)
    write_rows(map(_set_aside_row, set_aside), out / "set_aside.parquet", ASIDE_SCHEMA)
    return _summary(kept, set_aside, context, out)


def _read_human_rows(conversations: Path) -> pa.Table:
    """Return the train split: messages, table, file, row."""
    columns = ["messages", "table", "file", "row"]
    return read_columns(conversations / "rows.parquet", columns, filters=pc.field("split") == "train")


def _human_batches(human: pa.Table) -> Iterator[pa.Table]:
    return (human.slice(begin, BATCH_ROWS) for begin in range(0, len(human), BATCH_ROWS))


def _answer_lengths(human: pa.Table) -> list[int]:
    """Return the length of each assistant turn, in characters."""
    lengths: list[int] = []
    for batch in _human_batches(human):
        turns = pc.list_flatten(batch["messages"].combine_chunks())
        answers = turns.field("content").filter(pc.equal(turns.field("role"), "assistant"))
        lengths += pc.utf8_length(answers).to_pylist()
    return lengths


def _keys_of_human_rows(human: pa.Table) -> Keys:
    return merge([keys_of_messages(batch["messages"].to_pylist()) for batch in _human_batches(human)])


def _read_shingles(
    human: pa.Table, new: Sequence[Sequence[Message]], positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return read_message_shingles of some rows. Positions count the human rows, then the new ones."""
    messages, count = human["messages"], len(human)
    rows = [messages[at].as_py() if at < count else new[at - count] for at in positions.tolist()]
    return read_message_shingles(rows, np.arange(len(rows)))


def _provenance(teacher: Mapping[str, Any], teacher_facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that all kept rows have in common."""
    return {
        "teacher": teacher["model"],
        "teacher_fingerprint": teacher["fingerprint"],
        "prompt_sha256": teacher_facts["prompt_sha256"],
        "template_sha256": teacher_facts["template_sha256"],
        "sampling": json.dumps(teacher_facts["sampling"], sort_keys=True),
        "endpoint_host": teacher_facts["endpoint_host"],
    }


def _kept(answers: Sequence[_Answer]) -> list[_Answer]:
    """Return the answers that are not set aside (so far)."""
    return [answer for answer in answers if not answer.code]


def _set_aside_filtered(answers: Sequence[_Answer], context: answer_filters.Context) -> None:
    for answer in answers:
        if (fault := answer_filters.check_answer(answer.columns, context)) is not None:
            answer.set_aside(fault.code, fault.message)


def _set_aside_invalid(answers: Sequence[_Answer]) -> None:
    """Set aside answers whose whole conversation fails the checks of human rows."""
    for batch in _batches(_kept(answers)):
        frame = pd.DataFrame({"messages": pd.Series([answer.messages for answer in batch], dtype=object)})
        frame["tools"] = pd.Series([answer.columns.get("tools") for answer in batch], dtype=TEXT)
        frame["tags"] = pd.Series([answer.columns.get("tags") for answer in batch], dtype=object)
        for position, fault in find_faults(sharegpt.FORMAT, frame, frozenset()).items():
            batch[position].set_aside(fault.code, fault.message)


def _set_aside_contaminated(answers: Sequence[_Answer], conversations: Path) -> None:
    """Set aside answers whose conversation shows a held-out row, or a text of the evaluation suites."""
    kept = _kept(answers)
    names = read_held_out(conversations).in_conversations([answer.messages for answer in kept])
    for answer, name in zip(kept, names, strict=True):
        if name is not None:
            answer.set_aside("train_test_overlap", f"near {name}, contains it, or has the same prompt", name)


def _set_aside_copies_of_human_rows(answers: Sequence[_Answer], human: pa.Table) -> None:
    kept = _kept(answers)
    new = [answer.messages for answer in kept]
    matches = match_against(_keys_of(kept), _keys_of_human_rows(human), partial(_read_shingles, human, new))
    for answer, position, exact in zip(kept, matches.of.tolist(), matches.exact.tolist(), strict=True):
        if position >= 0:
            (row,) = human.slice(position, 1).to_pylist()
            _set_aside_copy(answer, origin(row), exact)


def _set_aside_all_but_best(answers: Sequence[_Answer]) -> None:
    """Keep one of several valid answers to one prompt: the one that best_of_n.py chooses."""
    by_prompt: dict[str, list[_Answer]] = {}
    for answer in _kept(answers):
        by_prompt.setdefault(answer.columns["id"], []).append(answer)
    for same_prompt in by_prompt.values():
        texts = [answer.columns["answer"] for answer in same_prompt]
        scores = agreements(texts)
        best = best_of(scores)
        for position, answer in enumerate(same_prompt):
            if position != best:
                message = (
                    f"agreement of {scores[position]:.2f} with the other answers to its prompt; the kept answer has "
                    f"{scores[best]:.2f}"
                )
                answer.set_aside("not_best", message, same_prompt[best].origin)


def _set_aside_duplicates(answers: Sequence[_Answer]) -> None:
    """Set aside exact and near duplicates of earlier answers to other prompts."""
    kept = _kept(answers)
    conversations = [answer.messages for answer in kept]
    matches = find_duplicates(_keys_of(kept), partial(read_message_shingles, conversations))
    for answer, position, exact in zip(kept, matches.of.tolist(), matches.exact.tolist(), strict=True):
        if position >= 0:
            _set_aside_copy(answer, kept[position].origin, exact)


def _set_aside_copy(answer: _Answer, original: str, exact: bool) -> None:
    code, relation = ("duplicate", "equal to") if exact else ("near_duplicate", "nearly equal to")
    answer.set_aside(code, f"{relation} {original}", original)


def _batches(answers: Sequence[_Answer]) -> Iterator[Sequence[_Answer]]:
    return (answers[begin : begin + BATCH_ROWS] for begin in range(0, len(answers), BATCH_ROWS))


def _keys_of(answers: Sequence[_Answer]) -> Keys:
    """Return the keys of the whole conversations."""
    return merge([keys_of_messages([answer.messages for answer in batch]) for batch in _batches(answers)])


def _kept_row(answer: _Answer, group: str) -> dict[str, Any]:
    """Return the row of rows.parquet, without the columns of `_provenance`."""
    return {
        "id": row_id({"messages": answer.messages, "tools": answer.columns.get("tools")}),
        "split": "train",
        "group": group,
        "messages": answer.messages,
        "table": TABLE,
        **{name: answer.columns.get(name) for name in COPIED_COLUMNS},
    }


def _set_aside_row(answer: _Answer) -> dict[str, Any]:
    """Return the row of set_aside.parquet."""
    return {
        "table": TABLE,
        "file": answer.columns["file"],
        "row": answer.columns["row"],
        "code": answer.code,
        "message": answer.message,
        "raw": raw_json(answer.messages),
        "copy_of": answer.related_row,
    }


def _summary(
    kept: Sequence[_Answer], set_aside: Sequence[_Answer], context: answer_filters.Context, out: Path
) -> dict[str, Any]:
    reasons = dict(sorted(Counter(answer.code for answer in set_aside).items()))
    total = len(kept) + len(set_aside)
    return {
        "answers": total,
        "kept": len(kept),
        "set_aside": len(set_aside),
        "reasons": reasons,
        "length_range": list(context.length_range) if context.length_range else None,
        "thresholds": {
            "repetition": answer_filters.MAX_REPETITION,
            "copy_of_prompt": answer_filters.MAX_COPY,
            "copy_of_example": answer_filters.MAX_EXAMPLE_COPY,
        },
        "samples": {
            "kept": [_sample(answer) for answer in kept[:SAMPLES]],
            "set_aside": [_sample(answer) for answer in _choose_samples(set_aside)],
        },
        "checks": {
            "answers_accounted_for": _check_accounted_for(total, out),
            "some_answers_kept": _check_some_kept(len(kept), total, reasons),
        },
    }


def _choose_samples(set_aside: Sequence[_Answer]) -> list[_Answer]:
    """Return the first answer of each reason, then other answers until there are SAMPLES of them."""
    first_of_reason = {answer.code: answer for answer in reversed(set_aside)}
    firsts = list(reversed(first_of_reason.values()))
    others = [answer for answer in set_aside if answer is not first_of_reason[answer.code]]
    return firsts + others[: max(SAMPLES - len(firsts), 0)]


def _sample(answer: _Answer) -> dict[str, str]:
    prompt = answer.columns["prompt_messages"][-1]["content"]
    reason = {"code": answer.code, "message": answer.message} if answer.code else {}
    return {**reason, "prompt": prompt, "answer": answer.columns["answer"]}


def _check_accounted_for(total: int, out: Path) -> dict[str, Any]:
    """Check that the two files contain every answer. Rows are counted in the files themselves."""
    kept, aside = (pq.read_metadata(out / name).num_rows for name in ("rows.parquet", "set_aside.parquet"))
    passed = total == kept + aside
    message = f"{total} answers {'=' if passed else '≠'} {kept} kept + {aside} set aside"
    return {"passed": passed, "message": message}


def _check_some_kept(kept: int, total: int, reasons: Mapping[str, int]) -> dict[str, Any]:
    """Check that some answers are kept. Not blocking: an experiment can train without distilled rows."""
    most_common = max(reasons, key=lambda code: reasons[code], default=None)
    message = f"{kept} of {total} answers are kept"
    if most_common:
        message += f"; the most common fault is {most_common} ({reasons[most_common]})"
    return {"passed": kept > 0 or not total, "blocking": False, "message": message}
