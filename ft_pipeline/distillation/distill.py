"""Turn the teacher's answers into training rows. Every answer is kept, or set aside with its reason.

All kept rows are in the train split. Answers near a held-out row, a human row or an earlier kept answer are set aside.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.distillation import answer_filters
from ft_pipeline.distillation.answer_table import BATCH_ROWS, write_rows
from ft_pipeline.distillation.judged_answers import TABLE, JudgedAnswers, Reason
from ft_pipeline.tables.accounts import CheckResult
from ft_pipeline.tables.checks.row_rules import Rows, find_faults
from ft_pipeline.tables.dedup.keys import Keys, group_names, keys_of_messages, merge
from ft_pipeline.tables.dedup.matching import find_duplicates, match_against
from ft_pipeline.tables.dedup.tokens import words_of
from ft_pipeline.tables.finished_tables import CONVERSATIONS, CONVERSATIONS_SET_ASIDE
from ft_pipeline.tables.formats import sharegpt
from ft_pipeline.tables.formats.arrow_schema import columns_of, read_columns
from ft_pipeline.tables.formats.base import Column
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.held_out import origin, read_held_out, read_message_shingles
from ft_pipeline.tables.raw_text import raw_json
from ft_pipeline.tables.table_schemas import together

DISTILLED_TABLE = CONVERSATIONS.with_columns(
    "distilled",
    Column("teacher", "The teacher's name"),
    Column("teacher_fingerprint", "Hash of a local model, or of an endpoint's address and model name", nullable=True),
    Column("prompt_sha256", "Hash of the teacher's system prompt and examples"),
    Column("template_sha256", "Hash of the chat template, or of the text around an endpoint's prompts", nullable=True),
    Column("sampling", "The teacher's sampling, as JSON"),
    Column("prompt_tokens", "Tokens of the prompt", pa.int32(), nullable=True),
    Column("answer_tokens", "Tokens of the answer", pa.int32(), nullable=True),
    Column("endpoint_host", "The endpoint's host", nullable=True),
    Column("answered_at", "Time of an endpoint's answer (UTC, ISO 8601)", nullable=True),
    Column("request_id", "The endpoint's id of the request", nullable=True),
)
"""A conversation and the origin of its answer."""
COPIED_COLUMNS = ("tools", "tags", "file", "row", "prompt_tokens", "answer_tokens", "answered_at", "request_id")
"""Columns that a kept row takes unchanged from answers.parquet. Answers of older versions have no tools and tags."""
SAMPLES = 8
"""Number of kept answers, and of answers set aside, in the summary. If more reasons than this occur, each reason still
has one answer."""


def distill(answers: Path, conversations: Path, out: Path, *, teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Write rows.parquet and set_aside.parquet to `out`, from the folders of teacher_answers and conversations.

    teacher: `model` (its name) and `fingerprint` (its artifact's). Returns the summary: answers, kept, set_aside,
    reasons, length_range, thresholds, samples, checks.
    """
    teacher_facts = json.loads((answers / "teacher.json").read_text(encoding="utf-8"))
    judged = JudgedAnswers.read(answers)
    human = _read_human_rows(conversations)
    length_range = answer_filters.length_range(_answer_lengths(human))
    context = answer_filters.Context(teacher_facts["system_prompt"] or "", teacher_facts["examples"], length_range)
    _set_aside_filtered(judged, context)
    _set_aside_invalid(judged)
    _set_aside_contaminated(judged, conversations)
    _set_aside_copies_of_human_rows(judged, human)
    _set_aside_all_but_best(judged)
    _set_aside_duplicates(judged)
    kept = _kept_rows(judged, _provenance(teacher, teacher_facts))
    check = together(
        write_rows(kept, out / "rows.parquet", DISTILLED_TABLE),
        write_rows(_set_aside_rows(judged), out / "set_aside.parquet", CONVERSATIONS_SET_ASIDE),
    )
    return _summary(judged, context, out, check)


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
    human: pa.Table, judged: JudgedAnswers, kept: np.ndarray, positions: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return the compared parts of some rows. Positions ascend and count the human rows, then the kept answers."""
    of_human = positions[positions < len(human)]
    messages = [human["messages"][at].as_py() for at in of_human.tolist()]
    parts = [
        read_message_shingles(messages, np.arange(len(messages))),
        judged.read_shingles(kept[positions[len(of_human) :] - len(human)]),
    ]
    return tuple(map(np.concatenate, zip(*parts, strict=True)))


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


def _set_aside_filtered(judged: JudgedAnswers, context: answer_filters.Context) -> None:
    for batch in judged.batches(judged.kept):
        for answer in batch:
            if (fault := answer_filters.check_answer(answer.columns, context)) is not None:
                judged.reasons[answer.position] = Reason(fault.code, fault.message)


def _set_aside_invalid(judged: JudgedAnswers) -> None:
    """Set aside answers whose whole conversation fails the checks of human rows."""
    for batch in judged.batches(judged.kept):
        records = [(answer.messages, answer.columns.get("tools"), answer.columns.get("tags")) for answer in batch]
        columns = columns_of(sharegpt.FORMAT, records)
        rows = Rows.of(sharegpt.FORMAT, columns, sharegpt.FORMAT.comparison_texts(columns))
        for position, fault in find_faults(rows, frozenset()).items():
            judged.reasons[batch[position].position] = Reason(fault.code, fault.message)


def _set_aside_contaminated(judged: JudgedAnswers, conversations: Path) -> None:
    """Set aside answers whose conversation shows a held-out row, or a text of the evaluation suites."""
    held_out = read_held_out(conversations)
    for batch in judged.batches(judged.kept):
        names = held_out.in_conversations([answer.messages for answer in batch])
        for answer, name in zip(batch, names, strict=True):
            if name is not None:
                message = f"near {name}, contains it, or has the same prompt"
                judged.reasons[answer.position] = Reason("train_test_overlap", message, name)


def _set_aside_copies_of_human_rows(judged: JudgedAnswers, human: pa.Table) -> None:
    kept = judged.kept
    read = partial(_read_shingles, human, judged, kept)
    matches = match_against(judged.keys(kept), _keys_of_human_rows(human), read, same_answer=True)
    for at in np.flatnonzero(matches.of >= 0).tolist():
        (row,) = human.slice(matches.of[at], 1).to_pylist()
        judged.reasons[int(kept[at])] = _copy_of(origin(row), matches.exact[at])


def _set_aside_all_but_best(judged: JudgedAnswers) -> None:
    """Keep one of several valid answers to one prompt: the one that best_of_n.py chooses."""
    by_prompt: dict[str, list[int]] = {}
    for position, prompt in zip(judged.kept.tolist(), judged.table["id"].take(pa.array(judged.kept)), strict=True):
        by_prompt.setdefault(prompt.as_py(), []).append(position)
    for positions in by_prompt.values():
        if len(positions) == 1:
            continue
        scores = agreements([answer.columns["answer"] for answer in judged.take(positions)])
        best = best_of(scores)
        for position, score in zip(positions, scores, strict=True):
            if position != positions[best]:
                message = (
                    f"agreement of {score:.2f} with the other answers to its prompt; the kept answer has "
                    f"{scores[best]:.2f}"
                )
                judged.reasons[position] = Reason("not_best", message, judged.origin(positions[best]))


def _set_aside_duplicates(judged: JudgedAnswers) -> None:
    """Set aside exact and near duplicates of earlier answers to other prompts."""
    kept = judged.kept
    matches = find_duplicates(judged.keys(kept), lambda positions: judged.read_shingles(kept[positions]))
    for at in np.flatnonzero(matches.of >= 0).tolist():
        judged.reasons[int(kept[at])] = _copy_of(judged.origin(int(kept[matches.of[at]])), matches.exact[at])


def _copy_of(original: str, exact: bool) -> Reason:
    code, relation = ("duplicate", "equal to") if exact else ("near_duplicate", "nearly equal to")
    return Reason(code, f"{relation} {original}", original)


def _kept_rows(judged: JudgedAnswers, provenance: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the rows of rows.parquet."""
    for batch in judged.batches(judged.kept):
        groups = group_names(keys_of_messages([answer.messages for answer in batch]).group)
        for answer, group in zip(batch, groups, strict=True):
            yield {
                "id": row_id({"messages": answer.messages, "tools": answer.columns.get("tools")}),
                "split": "train",
                "group": group,
                "messages": answer.messages,
                "table": TABLE,
                **{name: answer.columns.get(name) for name in COPIED_COLUMNS},
                **provenance,
            }


def _set_aside_rows(judged: JudgedAnswers) -> Iterator[dict[str, Any]]:
    """Yield the rows of set_aside.parquet."""
    for batch in judged.batches(judged.set_aside):
        for answer in batch:
            reason = judged.reasons[answer.position]
            yield {
                "table": TABLE,
                "file": answer.columns["file"],
                "row": answer.columns["row"],
                "code": reason.code,
                "message": reason.message,
                "raw": raw_json(answer.messages),
                "copy_of": reason.related_row,
            }


def _summary(judged: JudgedAnswers, context: answer_filters.Context, out: Path, check: CheckResult) -> dict[str, Any]:
    kept, set_aside = judged.kept, judged.set_aside
    reasons = dict(sorted(Counter(reason.code for reason in judged.reasons.values()).items()))
    return {
        "answers": len(judged),
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
            "kept": _samples(judged, kept[:SAMPLES].tolist()),
            "set_aside": _samples(judged, _choose_samples(judged)),
        },
        "checks": {
            "answers_accounted_for": _check_accounted_for(len(judged), out),
            "some_answers_kept": _check_some_kept(len(kept), len(judged), reasons),
            "matches_schema": asdict(check),
        },
    }


def _choose_samples(judged: JudgedAnswers) -> list[int]:
    """Return the position of the first answer of each reason, then others until there are SAMPLES of them."""
    first_of_reason: dict[str, int] = {}
    for position in judged.set_aside:
        first_of_reason.setdefault(judged.reasons[position].code, position)
    firsts = list(first_of_reason.values())
    others = [position for position in judged.set_aside if position not in firsts]
    return firsts + others[: max(SAMPLES - len(firsts), 0)]


def _samples(judged: JudgedAnswers, positions: list[int]) -> list[dict[str, str]]:
    samples = []
    for answer in judged.take(positions):
        reason = judged.reasons.get(answer.position)
        sample = {"code": reason.code, "message": reason.message} if reason else {}
        prompt = answer.columns["prompt_messages"][-1]["content"]
        samples.append({**sample, "prompt": prompt, "answer": answer.columns["answer"]})
    return samples


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


def agreements(answers: Sequence[str]) -> list[float]:
    """Return each answer's mean agreement with the others (0 to 1); 1 for a single answer."""
    if len(answers) == 1:
        return [1.0]
    features = [_features(answer) for answer in answers]
    return [
        sum(_similarity(own, rival) for index, rival in enumerate(features) if index != position) / (len(features) - 1)
        for position, own in enumerate(features)
    ]


def best_of(scores: Sequence[float]) -> int:
    """Return the position of the answer to keep. scores: each answer's agreement with the others."""
    return max(range(len(scores)), key=lambda position: (scores[position], -position))


def _features(answer: str) -> set[tuple[str, ...]]:
    """Return the words of the answer, and its pairs of consecutive words."""
    words = words_of(answer)
    return {(word,) for word in words} | set(pairwise(words))


def _similarity(left: set[tuple[str, ...]], right: set[tuple[str, ...]]) -> float:
    """Return the Jaccard similarity: the size of the intersection divided by the size of the union."""
    return len(left & right) / len(left | right) if left | right else 1.0
