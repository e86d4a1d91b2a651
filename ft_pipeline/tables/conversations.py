"""Build the conversations: the rows of the conversational tables in one schema, each with its split.

Training rows that are near a held-out row are set aside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.store.parquet_files import open_parquet
from ft_pipeline.tables.accounts import FIRST_ROWS, CheckResult, RowWarning
from ft_pipeline.tables.build import PARQUET, PREVIEW_ROWS, cut
from ft_pipeline.tables.clusters import Clusters
from ft_pipeline.tables.conversation_rows import BATCH_ROWS, ConversationRows, load_conversation_rows, table_batches
from ft_pipeline.tables.dedup.keys import group_names, groups_of_prompts
from ft_pipeline.tables.dedup.matching import first_index
from ft_pipeline.tables.duplicates import conflicts
from ft_pipeline.tables.finished_tables import CONVERSATIONS, CONVERSATIONS_SET_ASIDE
from ft_pipeline.tables.formats.arrow_schema import ORIGIN
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.row_ids import RowsDigest
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.held_out import COMMON, SuiteTexts
from ft_pipeline.tables.languages import SAMPLED_ROWS, languages_of
from ft_pipeline.tables.near_groups import MAX_SHARE, near_groups
from ft_pipeline.tables.raw_text import raw_json
from ft_pipeline.tables.row_groups import RowGroupWriter
from ft_pipeline.tables.row_texts import SmallestIds
from ft_pipeline.tables.semantic import SemanticSearch
from ft_pipeline.tables.split_assignment import CODES, SplitAssignment, assign_splits
from ft_pipeline.tables.splits import SPLITS, TRAIN
from ft_pipeline.tables.table_schemas import TableCheck, together

MIN_LARGE = 20
"""Number of rows up to which a group is kept together, whatever its share: in small data, each group is large."""


SCHEMA = CONVERSATIONS.arrow_schema
"""Columns of rows.parquet."""
SET_ASIDE = CONVERSATIONS_SET_ASIDE.with_columns(CONVERSATIONS_SET_ASIDE.name, ORIGIN["id"])
"""By the id, a row is recognized that an older version of the table had in a split."""


@dataclass
class ConversationsReport:
    """Row counts, checks and warnings of the conversations."""

    read: int
    """Number of rows in the tables."""
    accepted: int
    set_aside: dict[str, int]
    """Code → number of rows."""
    splits: dict[str, int]
    """Split → number of rows."""
    tables: dict[str, dict[str, int]]
    """Table → split → number of rows."""
    checks: dict[str, CheckResult]
    """Keys: rows_accounted_for, no_prompt_straddles, every_split_has_rows, matches_schema."""
    warnings: list[RowWarning]
    rows_hash: str
    conflicting_rows: int = 0
    """Number of rows whose prompt also has a different answer. Equal prompts are in one split."""
    preview: list[dict[str, Any]] = field(default_factory=list)
    languages: dict[str, Any] = field(default_factory=dict)
    """rows, sampled, counts (ISO 639 code → sampled rows), see `Languages`."""

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks.values())

    def to_json(self) -> dict[str, Any]:
        document = asdict(self)
        document["warnings"] = [{**item, "rows": item["rows"][:FIRST_ROWS]} for item in document["warnings"]]
        return document


def build_conversations(
    folders: Mapping[str, Path],
    out: Path,
    *,
    settings: DataSettings,
    suite: SuiteTexts,
    semantic: SemanticSearch | None = None,
) -> ConversationsReport:
    """Write rows.parquet, set_aside.parquet, common_sequences.parquet and suite.json into `out`.

    folders: table → the folder of its artifact. A table may be empty. suite: texts that are not trained on either.
    semantic: also set aside what means the same as a held-out row.
    """
    out.mkdir(parents=True, exist_ok=True)
    suite = replace(suite, templates=settings.group_templates)
    rows = load_conversation_rows(folders, settings)
    large_groups = release_large_groups(rows)
    groups = near_groups(rows)
    rows.keys.group = groups.group
    assignment, questions = assign_splits(rows, settings, suite, semantic)
    kept = np.where(assignment.code == 0, assignment.split, TRAIN)
    written = _write(rows, assignment, questions.clusters(rows, kept), out)
    suite.write(out)
    report = _report(rows, assignment, settings, written)
    report.warnings += [
        RowWarning(
            "large_group",
            f"{count:,} of {len(rows):,} rows are near {origin} as a whole; so many are not kept in one split",
        )
        for origin, count in groups.large
    ]
    report.warnings += [
        RowWarning(
            "large_group",
            f"{count:,} of {len(rows):,} rows are in the named group of {origin}; so many are not kept in one split",
        )
        for origin, count in large_groups
    ]
    report.languages = languages_of(written.sample.sample("conversations"), written.rows).to_json()
    return report


@dataclass
class _Written:
    """What was written: numbers of rows, their digest, the first ones and a sample."""

    rows: int = 0
    aside: int = 0
    digest: RowsDigest = field(default_factory=RowsDigest)
    preview: list[dict[str, Any]] = field(default_factory=list)
    sample: SmallestIds = field(default_factory=lambda: SmallestIds(SCHEMA, SAMPLED_ROWS))
    rows_check: TableCheck = field(default_factory=lambda: TableCheck(CONVERSATIONS))
    aside_check: TableCheck = field(default_factory=lambda: TableCheck(SET_ASIDE))


def _write(rows: ConversationRows, assignment: SplitAssignment, clusters: Clusters, out: Path) -> _Written:
    written, begin = _Written(), 0
    groups = rows.keys.group
    with (
        RowGroupWriter(out / "rows.parquet", SCHEMA, written.rows_check.add, **PARQUET) as kept_rows,
        pq.ParquetWriter(out / "set_aside.parquet", SET_ASIDE.arrow_schema, compression="zstd") as aside,
    ):
        for name, folder in rows.folders.items():
            for source in table_batches(folder / "rows.parquet", FORMATS[name], *ORIGIN):
                part = slice(begin, begin + source.num_rows)
                columns = {
                    "id": source["id"],
                    "split": _names(assignment.split[part], SPLITS),
                    "group": group_names(groups[part]),
                    "cluster": clusters.column(part),
                    "messages": FORMATS[name].to_messages(source),
                    "tools": source["tools"],
                    "tags": source["tags"],
                    "table": pa.repeat(pa.scalar(name), source.num_rows),
                    "file": source["file"],
                    "row": source["row"],
                }
                table = pa.table(columns, schema=SCHEMA)
                stays = assignment.code[part] == 0
                kept = table if stays.all() else table.filter(pa.array(stays))
                kept_rows.write_table(kept)
                written.sample.add(kept)
                written.rows += kept.num_rows
                written.digest.add(kept["id"], kept["split"])
                if len(written.preview) < PREVIEW_ROWS:
                    written.preview += [
                        cut(row) for row in kept.slice(0, PREVIEW_ROWS - len(written.preview)).to_pylist()
                    ]
                if not stays.all():
                    set_aside = _set_aside(table, np.flatnonzero(~stays), assignment, begin)
                    written.aside_check.add(set_aside)
                    aside.write_table(set_aside)
                    written.aside += set_aside.num_rows
                begin += source.num_rows
    pq.write_table(pa.table({"sequence": assignment.common}), out / COMMON)
    return written


def _names(indices: np.ndarray, names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array(indices), pa.array(names)).cast(pa.string())


def _set_aside(table: pa.Table, positions: np.ndarray, assignment: SplitAssignment, begin: int) -> pa.Table:
    entries = []
    for position, row in zip(positions.tolist(), table.take(pa.array(positions)).to_pylist(), strict=True):
        message, copy_of = assignment.notes[begin + position]
        origin = {name: row[name] for name in ("id", "table", "file", "row")}
        code = CODES[assignment.code[begin + position]]
        entries.append(
            {**origin, "code": code, "message": message, "raw": raw_json(plain(row["messages"])), "copy_of": copy_of}
        )
    return pa.Table.from_pylist(entries, schema=SET_ASIDE.arrow_schema)


def _report(
    rows: ConversationRows, assignment: SplitAssignment, settings: DataSettings, written: _Written
) -> ConversationsReport:
    stays = assignment.code == 0
    tables = {
        name: _count_splits(assignment, stays & (rows.table == number)) for number, name in enumerate(rows.tables)
    }
    splits = {name: sum(counts[name] for counts in tables.values()) for name in SPLITS}
    codes = np.bincount(assignment.code, minlength=len(CODES)).tolist()
    conflicting_rows = len(conflicts(rows.keys.prompt[stays], rows.keys.answer[stays]))
    return ConversationsReport(
        read=len(rows),
        accepted=written.rows,
        set_aside={CODES[number]: count for number, count in enumerate(codes) if number and count},
        splits=splits,
        tables=tables,
        checks={
            "rows_accounted_for": _accounted(len(rows), written.rows, written.aside),
            "no_prompt_straddles": _straddling(rows, assignment, stays),
            "every_split_has_rows": _filled(splits, settings, bool(rows.golden.any())),
            "matches_schema": together(written.rows_check.result(rows.lenient[stays]), written.aside_check.result()),
        },
        warnings=_warnings(conflicting_rows),
        rows_hash=written.digest.hexdigest(),
        conflicting_rows=conflicting_rows,
        preview=written.preview,
    )


def _count_splits(assignment: SplitAssignment, rows: np.ndarray) -> dict[str, int]:
    counts = np.bincount(assignment.split[rows], minlength=len(SPLITS)).tolist()
    return dict(zip(SPLITS, counts, strict=True))


def _accounted(read: int, written: int, aside: int) -> CheckResult:
    passed = read == written + aside
    verb = "=" if passed else "is not"
    return CheckResult(
        passed, f"{read:,} rows read {verb} {written:,} conversations + {aside:,} set aside", read - written - aside
    )


def _straddling(rows: ConversationRows, assignment: SplitAssignment, stays: np.ndarray) -> CheckResult:
    groups, splits = rows.keys.group[stays, 1], assignment.split[stays]
    first = first_index(groups)
    straddling = len(np.unique(groups[splits != splits[first]]))
    return CheckResult(not straddling, f"{straddling} prompt(s) are in more than one split", straddling)


def _filled(splits: dict[str, int], settings: DataSettings, has_golden: bool) -> CheckResult:
    should_have_rows = {
        "train": True,
        "validation": settings.validation_share > 0,
        "test": settings.test_share > 0 or has_golden,
    }
    empty = [name for name in SPLITS if should_have_rows[name] and not splits[name]]
    if not empty:
        return CheckResult(True, ", ".join(f"{name} {splits[name]:,}" for name in SPLITS))
    return CheckResult(
        False,
        f"no rows in {', '.join(empty)}: add rows, or raise the split's share in project.yaml. Rows of one template "
        "(prompts that differ only in numbers) are in one split",
        len(empty),
    )


def _warnings(conflicting_rows: int) -> list[RowWarning]:
    if not conflicting_rows:
        return []
    message = (
        f"{conflicting_rows:,} row(s) share their prompt with rows that answer differently; each prompt is in one split"
    )
    return [RowWarning("conflicting_answers", message)]


def count_words(folder: Path) -> list[int]:
    """Return the number of words in each conversation of an artifact."""
    counts: list[int] = []
    with open_parquet(folder / "rows.parquet") as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=["messages"]):
            messages = batch["messages"]
            words = pc.count_substring_regex(messages.flatten().field("content"), r"\S+").to_numpy()
            sums = np.concatenate([[0], np.cumsum(words)])
            counts += np.diff(sums[messages.offsets.to_numpy() - messages.offsets[0].as_py()]).tolist()
    return counts


def release_large_groups(rows: ConversationRows) -> list[tuple[str, int]]:
    """Split the rows of groups that are too large to be kept together by their prompts.

    Returns (origin of a row, number of rows) of these groups.
    """
    named = np.flatnonzero(rows.keys.has_own_group)
    _, first, group, counts = np.unique(
        rows.keys.group[named, 1], return_index=True, return_inverse=True, return_counts=True
    )
    is_large = counts > max(MAX_SHARE * len(rows), MIN_LARGE)
    released = named[is_large[group]]
    rows.keys.group[released] = groups_of_prompts(rows.keys.prompt[released])
    rows.keys.has_own_group[released] = False
    return [(rows.origin(int(named[first[at]])), int(counts[at])) for at in np.flatnonzero(is_large)]
