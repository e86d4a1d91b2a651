"""Which test conversations are in which slice: by tag, source, language, length and turns, and by the project's rules.

A slice is defined on the question and on what is known of its row, never on the answers of a model: otherwise a model
could choose where it is measured.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ft_pipeline.evaluation.comparison.result_records import SliceKind
from ft_pipeline.settings.slices import SliceSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import ArtifactReference
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.formats.turns import is_trained, spoken_text
from ft_pipeline.tables.languages import UNKNOWN, language_of

LISTED = 5
"""Conversations from which on a tag, a source or a language is a slice, without a rule of the project."""
MOST = 30
"""Largest number of slices by tag, by source and by language each: those with the most conversations."""
MAX_TAG_CHARS = 60
"""A longer tag is a text and no label, and is no slice."""
THIRDS = ("short", "middle", "long")


@dataclass(frozen=True)
class Talk:
    """What slices are defined on: a test conversation without the answers of models."""

    id: str
    question: str
    """The turns of the user."""
    turns: int
    """Number of turns of the user."""
    reference_chars: int
    """Characters of the reference answers."""
    tags: Sequence[str]
    table: str
    file: str
    language: str
    """ISO 639 code, or UNKNOWN."""


@dataclass(frozen=True)
class SliceMembers:
    """A slice with its conversations."""

    name: str
    kind: SliceKind
    about: str
    """What its conversations share, as the end of "conversations …"."""
    members: frozenset[str]
    """Ids of conversations."""


def find_slices(
    conversations: Path, ids: Collection[str], rules: Mapping[str, Mapping[str, Any]]
) -> list[SliceMembers]:
    """Return the slices of some conversations. Those of the project's rules come first, and may be empty.

    conversations: the folder of that artifact. ids: those of the test conversations. rules: `evaluation.slices` as
    JSON. A slice that all conversations are in, or the same ones as in an earlier slice, is left out unless it is a
    rule.
    """
    talks = read_talks(conversations, ids)
    found = [of_rule(name, SliceSettings.model_validate(rule), talks) for name, rule in rules.items()]
    known = {members.members for members in found} | {frozenset(talk.id for talk in talks)}
    for members in without_rules(talks):
        if members.members not in known:
            known.add(members.members)
            found.append(members)
    return found


def scored_conversations(
    store: ArtifactStore, inputs: Mapping[str, ArtifactReference], fingerprint: str | None
) -> Path | None:
    """Return the folder of the conversations that the scores of a comparison are from; None if they name none.

    inputs: those of the comparison. fingerprint: the evaluation that it compares. Its scores have equal test rows. Tags
    may differ, and are read from the newest.
    """
    scores = [store.require(*reference) for reference in inputs.values()]
    newest = max(
        (
            artifact
            for artifact in scores
            if "conversations" in artifact.inputs
            and fingerprint in {None, *(row.get("fingerprint") for row in artifact.summary.get("rows", ()))}
        ),
        key=lambda artifact: artifact.manifest["created"],
        default=None,
    )
    return store.require(*newest.inputs["conversations"]).path if newest else None


def slices_of_test_conversations(store: ArtifactStore, comparison: Artifact) -> dict[str, list[str]]:
    """Return test conversation → the names of its slices, for a comparison artifact. Those of an older
    comparison, which has no slices, are those that it would have now."""
    config = comparison.spec["config"]
    conversations = scored_conversations(store, comparison.inputs, config.get("fingerprint"))
    if conversations is None:
        return {}
    ids = set(pq.read_table(comparison.path / "samples.parquet", columns=["group"])["group"].to_pylist())
    return slices_by_conversation(find_slices(conversations, ids, config.get("slices", {})))


def slices_by_conversation(slices: Iterable[SliceMembers]) -> dict[str, list[str]]:
    """Return conversation → the names of its slices, in their order. Conversations in no slice are left out."""
    names: dict[str, list[str]] = {}
    for members in slices:
        for conversation in members.members:
            names.setdefault(conversation, []).append(members.name)
    return names


def read_talks(conversations: Path, ids: Collection[str]) -> list[Talk]:
    """Return the conversations with these ids, sorted by id. Those that were erased since are missing."""
    columns = ["id", "messages", "tags", "table", "file"]
    rows = read_columns(conversations / "rows.parquet", columns, filters=[("id", "in", sorted(ids))]).to_pylist()
    return sorted(map(_talk, rows), key=lambda talk: talk.id)


def _talk(row: Mapping[str, Any]) -> Talk:
    questions = [turn["content"] for turn in row["messages"] if turn["role"] == "user"]
    question = "\n".join(filter(None, questions))
    return Talk(
        row["id"],
        question,
        len(questions),
        sum(len(spoken_text(turn).strip()) for turn in row["messages"] if is_trained(turn)),
        row.get("tags") or (),
        row["table"],
        row["file"],
        language_of(question),
    )


def of_rule(name: str, rule: SliceSettings, talks: Sequence[Talk]) -> SliceMembers:
    """Return the slice of a rule, which may be empty."""
    pattern = None if rule.matches is None else re.compile(rule.matches, re.IGNORECASE)
    members = frozenset(
        talk.id
        for talk in talks
        if (pattern is None or pattern.search(talk.question))
        and (rule.tag is None or rule.tag in talk.tags)
        and (rule.source is None or rule.source in (talk.table, talk.file, f"{talk.table}/{talk.file}"))
        and (rule.language is None or rule.language == talk.language)
    )
    conditions = {
        "whose question matches": rule.matches,
        "with the tag": rule.tag,
        "from": rule.source,
        "in the language": rule.language,
    }
    return SliceMembers(
        name, "rule", " and ".join(f"{words} {value}" for words, value in conditions.items() if value), members
    )


def without_rules(talks: Sequence[Talk]) -> list[SliceMembers]:
    """Return the slices that need no setting."""
    slices = [
        *_by_value("tag", "tag {}", "with the tag {}", talks, lambda talk: talk.tags),
        *_by_value("source", "table {}", "from the table {}", talks, lambda talk: [talk.table]),
        *_by_value("source", "file {}", "from the file {}", talks, lambda talk: [f"{talk.table}/{talk.file}"]),
    ]
    languages = _by_value(
        "language", "language {}", "in the language {}", talks, lambda talk: {talk.language} - {UNKNOWN}
    )
    slices += languages if len(languages) > 1 else []
    slices += _thirds("questions", "with questions", talks, [len(talk.question) for talk in talks])
    slices += _thirds("references", "with reference answers", talks, [talk.reference_chars for talk in talks])
    for name, several in (("single turn", False), ("several turns", True)):
        members = frozenset(talk.id for talk in talks if (talk.turns > 1) == several)
        slices.append(SliceMembers(name, "turns", f"of a {name}" if not several else f"of {name}", members))
    return [members for members in slices if members.members]


def _by_value(
    kind: SliceKind, name: str, about: str, talks: Sequence[Talk], values_of: Callable[[Talk], Iterable[str]]
) -> list[SliceMembers]:
    """Return a slice per value that enough conversations have, but not all of them; the most frequent values first.

    name, about: with a place for the value.
    """
    values = [{value for value in values_of(talk) if len(value) <= MAX_TAG_CHARS or kind != "tag"} for talk in talks]
    counts = Counter(value for of_talk in values for value in of_talk)
    frequent = sorted((-count, value) for value, count in counts.items() if LISTED <= count < len(talks))[:MOST]
    return [
        SliceMembers(
            name.format(" ".join(value.split())),
            kind,
            about.format(" ".join(value.split())),
            frozenset(talk.id for talk, of_talk in zip(talks, values, strict=True) if value in of_talk),
        )
        for _, value in frequent
    ]


def _thirds(of: str, about: str, talks: Sequence[Talk], lengths: Sequence[int]) -> list[SliceMembers]:
    """Return the short, the middle and the long third. Equal lengths are in one third, so that sizes may differ."""
    if not talks:
        return []
    low, high = np.quantile(lengths, (1 / 3, 2 / 3), method="inverted_cdf").tolist()
    ranges = (f"of up to {low:,} characters", f"of {low + 1:,} to {high:,} characters", f"of over {high:,} characters")
    thirds = [0 if length <= low else 1 if length <= high else 2 for length in lengths]
    return [
        SliceMembers(
            f"{name} {of}",
            "length",
            f"{about} {ranges[number]}",
            frozenset(talk.id for talk, third in zip(talks, thirds, strict=True) if third == number),
        )
        for number, name in enumerate(THIRDS)
    ]
