"""Invented scores with the conversations that they are of, for tests of slices."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.tables.conversations import SCHEMA
from ft_pipeline_tests.evaluation.scored import CONFIG, CORRECT, scored

REFUNDS = 25
"""The first conversations ask for a refund."""
COUNT = 90
REFUND = {"refund": {"matches": "refund|money back"}}


def talk(number: int, *turns: str, tags: Sequence[str] | None = None, **origin: str) -> dict[str, Any]:
    """A test conversation with the id that scored() gives its item of this number."""
    messages = [
        {"role": ("user", "assistant")[position % 2], "content": text, "weight": None}
        for position, text in enumerate(turns)
    ]
    place = {"table": "alpaca", "file": "support.jsonl", **origin}
    return {"id": f"{number:03}", "split": "test", "group": "", "messages": messages, "tags": tags, **place}


def write_talks(folder: Path, talks: Sequence[dict[str, Any]]) -> Path:
    """Write a conversations artifact's folder; return it."""
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(talks), schema=SCHEMA), folder / "rows.parquet")
    return folder


def shop_talks(refunds: int = REFUNDS) -> list[dict[str, Any]]:
    """Conversations of which the first ones ask for their money, in two files; every third has the tag vip."""
    return [
        talk(
            number,
            "I want my MONEY BACK, please" if number < refunds else f"Where is my parcel {number}?" + " now" * number,
            "The refund takes five days.",
            tags=["vip"] if number % 3 == 0 else None,
            file="mails.jsonl" if number % 2 else "chats.jsonl",
        )
        for number in range(COUNT)
    ]


def spread(seed: int, count: int = COUNT, scale: float = 0.3) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(count)


def case(
    folder: Path,
    change_of_refunds: float,
    rules: dict[str, Any] | None = None,
    talks: Sequence[dict[str, Any]] | None = None,
    count: int = COUNT,
    champion: float | None = None,
) -> Comparison:
    """A comparison in which a tuned model is better by 1 nat per token, and by `change_of_refunds` where the customer
    wants money. count: only the first conversations. champion: it is better by so much than the base
    model, everywhere."""
    gain = np.ones(COUNT) + spread(1)
    gain[:REFUNDS] += change_of_refunds - 1
    before = 3 + spread(2)
    rows = {"plain": {"kind": "base", "losses": before[:count].tolist(), "correct": CORRECT}}
    tuned = {"losses": (before - gain)[:count].tolist(), "correct": CORRECT, "technique": "lora"}
    inputs = {
        "a/prompt_baseline": scored(folder / "base", rows),
        "a/scores": scored(
            folder / "tuned", {"adapter": {"kind": "adapter", **tuned}, "merged": {"kind": "merged", **tuned}}
        ),
    }
    config: dict[str, Any] = {**CONFIG, "slices": rules or {}}
    if champion is not None:
        losses = (before - champion + spread(3))[:count].tolist()
        rows = {"merged": {**tuned, "kind": "merged", "losses": losses}}
        inputs["champion/scores"] = scored(folder / "champion", rows)
        config["champion"] = {"name": "b/merged", "experiment": "b", "fingerprint": "b" * 64}
    conversations = write_talks(folder / "conversations", (talks or shop_talks())[:count])
    return compare(inputs, config, conversations=conversations)
