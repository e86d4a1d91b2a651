"""From the teacher's answers to rows for training. Every answer is kept, or set aside with its reason.

Kept rows are train rows only. None of them is near a held-out row, a human row or another answer.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.distillation import answer_filters
from ft_pipeline.distillation.best_of_n import agreements, best_of
from ft_pipeline.tables.checks.content_checks import find_faults
from ft_pipeline.tables.conversations import ASIDE_SCHEMA, SCHEMA
from ft_pipeline.tables.dedup.contamination import Phrases, heldout_rows, origin, overlap_with_heldout
from ft_pipeline.tables.dedup.keys import group_names, keys_of_messages, prompt_of
from ft_pipeline.tables.dedup.minhash import find_duplicates, match_against
from ft_pipeline.tables.formats import sharegpt
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.formats.turns import plain
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
GIVEN = ("file", "row", "prompt_tokens", "answer_tokens", "answered_at", "request_id")
SAMPLES = 8
"""Number of answers shown of those kept, and of those set aside (of these at least one per reason)."""


@dataclass
class _Answer:
    """One answer, and the reason if it is set aside."""

    given: Mapping[str, Any]
    """Its row in answers.parquet."""
    code: str = ""
    """Reason code; empty while the answer is kept."""
    message: str = ""
    copy_of: str | None = None

    @property
    def messages(self) -> list[dict[str, str]]:
        return [*plain(self.given["prompt_messages"]), {"role": "assistant", "content": self.given["answer"]}]

    @property
    def origin(self) -> str:
        return f"{TABLE}/{self.given['file']}:{self.given['row']}"

    def drop(self, code: str, message: str, copy_of: str | None = None) -> None:
        self.code, self.message, self.copy_of = code, message, copy_of


def distil(
    answers: Path, conversations: Path, out: Path, *, teacher: Mapping[str, Any], general_questions: Sequence[str] = ()
) -> dict[str, Any]:
    """Write rows.parquet and set_aside.parquet to `out`, from the folders of teacher_answers and conversations.

    teacher: `model` (its name) and `fingerprint` (its artifact's). general_questions: texts of the general suite; no
    prompt may share 13 words in a row with them. Returns the summary: answers, kept, set_aside, reasons, length_range,
    thresholds, samples, checks.
    """
    asked = json.loads((answers / "teacher.json").read_text(encoding="utf-8"))
    all_answers = [_Answer(row) for row in pq.read_table(answers / "answers.parquet").to_pylist()]
    train = _train_rows(conversations)
    context = answer_filters.Context(asked["system_prompt"] or "", asked["examples"], _human_lengths(train))
    _drop_faulty(all_answers, context)
    _drop_invalid(all_answers)
    _drop_held_out(all_answers, conversations, general_questions)
    _drop_copies_of_people(all_answers, train)
    _drop_all_but_best(all_answers)
    _drop_copies(all_answers)
    kept = [answer for answer in all_answers if not answer.code]
    dropped = [answer for answer in all_answers if answer.code]
    provenance = {
        "teacher": teacher["model"],
        "teacher_fingerprint": teacher["fingerprint"],
        "prompt_sha256": asked["prompt_sha256"],
        "template_sha256": asked["template_sha256"],
        "sampling": json.dumps(asked["sampling"], sort_keys=True),
        "endpoint_host": asked["endpoint_host"],
    }
    _write(out / "rows.parquet", [_row(answer) | provenance for answer in kept], DISTILLED)
    _write(out / "set_aside.parquet", [_set_aside(answer) for answer in dropped], ASIDE_SCHEMA)
    return _summary(all_answers, kept, dropped, context, out)


def _train_rows(conversations: Path) -> list[dict[str, Any]]:
    return pq.read_table(conversations / "rows.parquet", filters=[("split", "=", "train")]).to_pylist()


def _human_lengths(train: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    turns = [turn for row in train for turn in row["messages"]]
    return answer_filters.length_range([turn["content"] for turn in turns if turn["role"] == "assistant"])


def _drop_faulty(found: Sequence[_Answer], context: answer_filters.Context) -> None:
    for answer in found:
        if (fault := answer_filters.check_answer(answer.given, context)) is not None:
            answer.drop(fault.code, fault.message)


def _drop_invalid(found: Sequence[_Answer]) -> None:
    """Set aside answers whose whole conversation fails the checks of human rows."""
    left = [answer for answer in found if not answer.code]
    frame = pd.DataFrame({"messages": pd.Series([answer.messages for answer in left], dtype=object)})
    for position, fault in find_faults(sharegpt.FORMAT, frame, frozenset()).items():
        left[position].drop(fault.code, fault.message.partition("; or allow it")[0])


def _drop_held_out(found: Sequence[_Answer], conversations: Path, general_questions: Sequence[str]) -> None:
    left = [answer for answer in found if not answer.code]
    near = overlap_with_heldout([{"messages": answer.messages} for answer in left], heldout_rows(conversations))
    shared = Phrases(general_questions).shared_by([prompt_of(answer.messages) for answer in left])
    for answer, row, phrase in zip(left, near, shared.tolist(), strict=True):
        if row is not None:
            answer.drop("train_test_overlap", f"near the held-out row {row}, or has the same prompt", row)
        elif phrase:
            answer.drop("train_test_overlap", "its prompt shares 13 words in a row with the general suite")


def _drop_copies_of_people(found: Sequence[_Answer], train: Sequence[Mapping[str, Any]]) -> None:
    left = [answer for answer in found if not answer.code]
    copies = match_against(
        keys_of_messages([answer.messages for answer in left]), keys_of_messages([row["messages"] for row in train])
    )
    for answer, position, exact in zip(left, copies.of.tolist(), copies.exact.tolist(), strict=True):
        if position >= 0:
            _drop_copy(answer, origin(train[position]), exact)


def _drop_all_but_best(found: Sequence[_Answer]) -> None:
    """Keep one of several valid answers to one prompt: the one that best_of_n.py chooses."""
    by_prompt: dict[str, list[_Answer]] = {}
    for answer in found:
        if not answer.code:
            by_prompt.setdefault(answer.given["id"], []).append(answer)
    for answers in by_prompt.values():
        texts = [answer.given["answer"] for answer in answers]
        best, agreed = best_of(texts), agreements(texts)
        for position, answer in enumerate(answers):
            if position != best:
                message = (
                    f"agreement of {agreed[position]:.2f} with the other answers to its prompt; the kept answer has "
                    f"{agreed[best]:.2f}"
                )
                answer.drop("not_best", message, answers[best].origin)


def _drop_copies(found: Sequence[_Answer]) -> None:
    """Set aside exact and near duplicates of earlier answers to other prompts."""
    left = [answer for answer in found if not answer.code]
    copies = find_duplicates(keys_of_messages([answer.messages for answer in left]))
    for answer, position, exact in zip(left, copies.of.tolist(), copies.exact.tolist(), strict=True):
        if position >= 0:
            _drop_copy(answer, left[position].origin, exact)


def _drop_copy(answer: _Answer, of: str, exact: bool) -> None:
    code, words = ("duplicate", "equal to") if exact else ("near_duplicate", "nearly equal to")
    answer.drop(code, f"{words} {of}", of)


def _row(answer: _Answer) -> dict[str, Any]:
    return {
        "id": row_id({"messages": answer.messages}),
        "split": "train",
        "group": group_names(keys_of_messages([answer.messages]).group)[0],
        "messages": answer.messages,
        "table": TABLE,
        **{key: answer.given[key] for key in GIVEN},
    }


def _set_aside(answer: _Answer) -> dict[str, Any]:
    return {
        "table": TABLE,
        "file": answer.given["file"],
        "row": answer.given["row"],
        "code": answer.code,
        "message": answer.message,
        "raw": raw_json(answer.messages),
        "copy_of": answer.copy_of,
    }


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, compression="zstd")


def _summary(
    found: list[_Answer], kept: list[_Answer], dropped: list[_Answer], context: answer_filters.Context, out: Path
) -> dict[str, Any]:
    reasons = dict(sorted(Counter(answer.code for answer in dropped).items()))
    return {
        "answers": len(found),
        "kept": len(kept),
        "set_aside": len(dropped),
        "reasons": reasons,
        "length_range": list(context.length_range) if context.length_range else None,
        "thresholds": {
            "repetition": answer_filters.MAX_REPETITION,
            "copy_of_prompt": answer_filters.MAX_COPY,
            "copy_of_example": answer_filters.MAX_EXAMPLE_COPY,
        },
        "samples": {
            "kept": [_shown(answer) for answer in kept[:SAMPLES]],
            "set_aside": [_shown(answer) for answer in _spread(dropped)],
        },
        "checks": {
            "answers_accounted_for": _accounted(len(found), out),
            "some_answers_kept": _some_kept(found, reasons),
        },
    }


def _spread(dropped: Sequence[_Answer]) -> list[_Answer]:
    """The first answer of each reason, then others, up to SAMPLES."""
    firsts = list({answer.code: answer for answer in reversed(dropped)}.values())[::-1]
    others = [answer for answer in dropped if answer not in firsts]
    return firsts + others[: max(SAMPLES - len(firsts), 0)]


def _shown(answer: _Answer) -> dict[str, str]:
    prompt = answer.given["prompt_messages"][-1]["content"]
    reason = {"code": answer.code, "message": answer.message} if answer.code else {}
    return {**reason, "prompt": prompt, "answer": answer.given["answer"]}


def _accounted(answers: int, out: Path) -> dict[str, Any]:
    """The check that the two files contain every answer; rows are counted in the files themselves."""
    kept, aside = (pq.read_metadata(out / name).num_rows for name in ("rows.parquet", "set_aside.parquet"))
    passed = answers == kept + aside
    message = f"{answers} answers {'=' if passed else '≠'} {kept} kept + {aside} set aside"
    return {"passed": passed, "message": message}


def _some_kept(found: Sequence[_Answer], reasons: Mapping[str, int]) -> dict[str, Any]:
    """The check that some answers are kept. Not blocking: an experiment can train without distilled rows."""
    kept = len(found) - sum(reasons.values())
    commonest = max(reasons, key=lambda code: reasons[code], default=None)
    message = f"{kept} of {len(found)} answers are kept"
    if commonest:
        message += f"; the most common fault is {commonest} ({reasons[commonest]})"
    return {"passed": kept > 0 or not found, "blocking": False, "message": message}
