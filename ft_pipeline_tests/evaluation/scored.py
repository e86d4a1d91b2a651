"""scores.json folders with made-up numbers, for tests of what is computed from them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.scored_twice import SECOND_SCORES
from ft_pipeline.evaluation.scoring.fingerprint import fingerprint
from ft_pipeline.evaluation.scoring.probe_answers import write_probes
from ft_pipeline.evaluation.scoring.records import GENERAL, TASKS

TOKENS = 10
BYTES = 40
PARTS = {"test_rows": "a", "template": "t", "generation": {"max_new_tokens": 8}}


def scored(
    folder: Path,
    rows: Mapping[str, Mapping[str, Any]],
    parts: Mapping[str, Any] = PARTS,
    metrics: Mapping[str, Any] | None = None,
    *,
    short: bool = False,
) -> Path:
    """Write a scores folder. A row: kind, losses (nats per token, one per item; a teacher has none), and where wanted
    nats (per byte, one per item), withheld, exact and chrf (one per item), correct (one per general question), tokens
    (per prompt), seconds (per call), technique, passages (that it looks up), computed_in, answer (to every item) or
    answers (one per item), probes (answers by the name of the probes), digest (of their questions), tasks (values by
    metric), again (losses of its second scores) with differing (how many of its answers were another one). short:
    whether the references are short, so that exact match decides; always with `exact`."""
    folder.mkdir(parents=True)
    document = {"rows": [_row(name, row, dict(parts)) for name, row in rows.items()], "evaluation": dict(parts)}
    document |= {"metrics": dict(metrics or {})}
    (folder / "scores.json").write_text(json.dumps(document), encoding="utf-8")
    short = short or any("exact" in row for row in rows.values())
    samples = [sample for name, row in rows.items() for sample in _samples(name, row, short)]
    pq.write_table(pa.Table.from_pylist(samples), folder / "samples.parquet")
    general = [
        {"name": name, "item": f"question:{number:03}", "kind": "question", "correct": bool(correct)}
        for name, row in rows.items()
        for number, correct in enumerate(row.get("correct", []))
    ]
    pq.write_table(pa.Table.from_pylist(general, schema=GENERAL), folder / "general.parquet")
    tasks = [
        {"name": name, "item": f"{metric.split('/')[0]}:{number:03}", "metric": metric, "value": float(value)}
        for name, row in rows.items()
        for metric, values in row.get("tasks", {}).items()
        for number, value in enumerate(values)
    ]
    if twice := [
        {**sample, "differs": number < row["differing"]}
        for name, row in rows.items()
        if "again" in row
        for number, sample in enumerate(_samples(name, {**row, "losses": row["again"]}, short))
    ]:
        pq.write_table(pa.Table.from_pylist(twice), folder / SECOND_SCORES)
    if tasks:
        pq.write_table(pa.Table.from_pylist(tasks, schema=TASKS), folder / "tasks.parquet")
    if probes := [answer for name, row in rows.items() for answer in _probe_answers(name, row)]:
        write_probes(folder, probes)
    return folder


def _probe_answers(name: str, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "item": f"{probes}:{number:03}",
            "probe": probes,
            "query": f"Could you please help me with question number {number}?",
            "answer": answer,
            "finish_reason": "stop",
        }
        for probes, answers in row.get("probes", {}).items()
        for number, answer in enumerate(answers)
    ]


def _row(name: str, row: Mapping[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
    correct: Sequence[int] = row.get("correct", [])
    return {
        "name": name,
        "kind": row["kind"],
        "scores": {},
        "prompt_tokens_per_call": float(row.get("tokens", 40)),
        "shared_prompt_tokens": row.get("shared", 0),
        "generated_tokens_per_call": float(TOKENS),
        "seconds_per_call": float(row.get("seconds", 0.5)),
        "cut_off": 0,
        "fingerprint": fingerprint(parts),
        "computed_in": row.get("computed_in"),
        "withheld": row.get("withheld", {}),
        "model": {
            "technique": row.get("technique"),
            "trainable_params": 100 if row.get("technique") else 0,
            "passages": row.get("passages", 0),
        },
        "general": {"accuracy": sum(correct) / len(correct)} if correct else None,
        "probes": dict.fromkeys(row.get("probes", {}), row.get("digest", "d")),
    }


def _samples(name: str, row: Mapping[str, Any], short: bool) -> list[dict[str, Any]]:
    losses = row.get("losses")
    chrfs = row.get("chrf") or [20.0] * len(losses or [])
    nats, exact = (row.get(key) or [None] * len(chrfs) for key in ("nats", "exact"))
    return [
        {
            "name": name,
            "item": f"{number:03}:1",
            "group": f"{number:03}",
            "prompt": f"question {number}",
            "reference": f"answer {number}" if short else f"This is the one and only answer {number}",
            "answer": row["answers"][number] if "answers" in row else row.get("answer", f"{name} says {number}"),
            "loss_sum": None if loss is None else loss * TOKENS,
            "content_nats": None if nats[number] is None else nats[number] * BYTES,
            "content_bytes": BYTES,
            "answer_bytes": BYTES,
            "stop_nats": None,
            "answer_tokens": TOKENS,
            "chrf": chrf,
            "rouge_l": 0.5,
            "exact_match": float(exact[number] or 0.0),
            "length_ratio": 1.0,
            "prompt_tokens": 40,
            "generated_tokens": TOKENS,
            "finish_reason": "stop",
        }
        for number, (loss, chrf) in enumerate(zip(losses or [None] * len(chrfs), chrfs, strict=True))
    ]


CONFIG = {"primary_metric": "loss"}
LOOP = "we will do it and then we will do it and then we will do it and then we will do it"
"""An answer that repeats itself."""


ITEMS = 40


NOISE = [(7 * number % 11) / 20 for number in range(ITEMS)]


CORRECT = [number % 4 > 0 for number in range(400)]
"""Answers to general questions: enough to show that equal models forget nothing."""


def losses(level: float) -> list[float]:
    """Losses with this level plus the mean of NOISE. Two levels differ by other amounts in each conversation."""
    begin = round(37 * level) % ITEMS
    return [level + noise for noise in NOISE[begin:] + NOISE[:begin]]
