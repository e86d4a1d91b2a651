"""Only changed files are read again, and cached files give the same table."""

import json
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline import tables
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.ingest import code_hash, hash_of_ids, key_of
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import write_jsonl

TABLES = ("rows.parquet", "set_aside.parquet", "files.parquet")


class Builds:
    """Builds tables from one folder, and records which files and how many rows were read."""

    def __init__(self, folder: Path, data_format: str = "alpaca", **cache_options):
        self.folder, self.data_format = folder, data_format
        self.cache = FolderCache(folder / "store", "tables", **cache_options)
        self.raw = folder / "raw"
        self.raw.mkdir()
        self.number = 0

    def source(self, path: Path) -> SourceFile:
        def fetch():
            self.fetched.append(path.name)
            return nullcontext(path)

        content = sha256(path.read_bytes()).hexdigest()
        return SourceFile(path.name, Path(path.name), content, self.sidecars.get(path.name), fetch=fetch)

    def build(self, sidecars=None, excluded=frozenset(), cached=True):
        self.fetched: list[str] = []
        self.rows_read, self.sidecars = 0, sidecars or {}
        self.number += 1
        self.out = self.folder / f"out-{self.number}"
        return build_table(
            self.data_format,
            [self.source(path) for path in sorted(self.raw.iterdir())],
            self.out,
            max_quarantined=0.9,
            excluded=excluded,
            progress=self._count,
            cache=self.cache if cached else None,
        )

    def _count(self, rows):
        self.rows_read += rows

    def tables(self):
        return {name: pq.read_table(self.out / name).to_pylist() for name in TABLES}


def alpaca_rows(start, end):
    return [
        {"instruction": f"Question {number}?", "output": f"Answer {number} stands here."}
        for number in range(start, end)
    ]


@pytest.fixture
def builds(tmp_path):
    builds = Builds(tmp_path)
    bad = [
        {"instruction": "Say [INST]", "output": "x"},
        "no json",
        {"instruction": "mail me@shop.example", "output": "y"},
    ]
    write_jsonl(builds.raw / "a.jsonl", alpaca_rows(0, 10) + bad)
    write_jsonl(builds.raw / "b.jsonl", alpaca_rows(8, 20))
    write_jsonl(builds.raw / "refused.jsonl", [])
    return builds


def same_report(first, second):
    return replace(first, files_from_cache=0) == replace(second, files_from_cache=0)


def test_unchanged_files_are_not_read_again(builds):
    first = builds.build()
    tables = builds.tables()
    assert builds.fetched == ["a.jsonl", "b.jsonl", "refused.jsonl"] and builds.rows_read == 25
    second = builds.build()
    assert builds.fetched == [] and builds.rows_read == 0
    assert same_report(second, first) and builds.tables() == tables
    assert (first.to_json()["files_read"], first.to_json()["files_from_cache"]) == (3, 0)
    assert (second.to_json()["files_read"], second.to_json()["files_from_cache"]) == (0, 3)
    assert second.files[2].error_code == "empty_file", "the cache also keeps why a file is refused"


def test_only_a_changed_file_is_read_and_compared_with_the_others(builds):
    builds.build()
    write_jsonl(builds.raw / "b.jsonl", alpaca_rows(5, 21))
    report = builds.build()
    assert builds.fetched == ["b.jsonl"] and builds.rows_read == 16
    assert report.files[1].duplicates == 5
    tables = builds.tables()
    assert same_report(builds.build(cached=False), report) and builds.tables() == tables


def test_a_renamed_file_is_recognized_by_its_content(builds):
    builds.build()
    (builds.raw / "a.jsonl").rename(builds.raw / "z.jsonl")
    report = builds.build()
    assert builds.fetched == [] and [file.file for file in report.files] == ["b.jsonl", "refused.jsonl", "z.jsonl"]
    assert {warning.file for warning in report.warnings} == {"z.jsonl"}
    assert {row["file"] for row in builds.tables()["rows.parquet"]} == {"b.jsonl", "z.jsonl"}


def test_a_new_sidecar_or_exclusion_reads_the_file_again(builds):
    first = builds.build()
    builds.build(sidecars={"b.jsonl": {"allow": ["duplicate"]}})
    assert builds.fetched == ["b.jsonl"]
    excluded_ids = frozenset(row["id"] for row in builds.tables()["rows.parquet"][:1])
    report = builds.build(excluded=excluded_ids)
    assert builds.fetched == ["a.jsonl", "b.jsonl", "refused.jsonl"]
    assert report.accepted == first.accepted - 1 and "excluded" in report.reasons
    assert builds.build().accepted == first.accepted and builds.fetched == []


def test_the_cache_key_depends_on_every_input():
    plain = ("0" * 64, "alpaca", ".jsonl", None, hash_of_ids([]))
    changes = [
        ("1" * 64,),
        ("0" * 64, "text"),
        (*plain[:2], ".csv"),
        (*plain[:3], {"split": "test"}),
        (*plain[:4], hash_of_ids(["id"])),
    ]
    keys = {key_of(*change, *plain[len(change) :]) for change in [(), *changes]}
    assert len(keys) == 6


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "list"])
def test_the_file_of_a_damaged_cache_entry_is_read_again(builds, damage):
    first = builds.build()
    for entry in builds.cache.root.iterdir():
        for path in entry.glob("entry.json" if damage == "list" else "*[sw]*.arrow"):
            content = path.read_bytes()
            path.unlink()  # the file may be linked elsewhere
            if damage != "gone":
                cut, flipped = content[: len(content) // 2], content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
                path.write_bytes({"cut": cut, "flip": flipped, "list": b"[]"}[damage])
    assert same_report(builds.build(), first) and {"a.jsonl", "b.jsonl"} <= set(builds.fetched)
    assert same_report(builds.build(), first) and builds.fetched == []


def test_a_full_cache_removes_the_least_recently_used_entries(tmp_path):
    builds = Builds(tmp_path)
    for number in range(4):
        write_jsonl(builds.raw / f"{number}.jsonl", alpaca_rows(100 * number, 100 * number + 50))
    builds.build()
    size = sum(path.stat().st_size for path in builds.cache.root.rglob("*") if path.is_file())
    builds.cache.max_bytes = size // 2 + size // 8
    for age, entry in enumerate(sorted(builds.cache.root.iterdir(), key=lambda entry: file_number(entry))):
        os.utime(entry / "entry.json", (1e9 - age, 1e9 - age))  # 3.jsonl is the least recently used
    write_jsonl(builds.raw / "4.jsonl", alpaca_rows(400, 450))
    (builds.raw / "0.jsonl").unlink()
    builds.build()
    assert builds.fetched == ["4.jsonl"]
    kept = sum(path.stat().st_size for path in builds.cache.root.rglob("*") if path.is_file())
    assert kept <= builds.cache.max_bytes


def file_number(entry: Path) -> int:
    return next(
        number
        for number in range(4)
        if f"Question {100 * number}?".encode() in b"".join(path.read_bytes() for path in entry.glob("rows-*"))
    )


def test_a_build_succeeds_if_the_cache_cannot_store_anything(tmp_path):
    builds = Builds(tmp_path, max_bytes=100)
    write_jsonl(builds.raw / "a.jsonl", alpaca_rows(0, 10))
    builds.build()
    assert not list(builds.cache.root.iterdir())
    (tmp_path / "file").write_text("")
    builds.cache = FolderCache(tmp_path / "file", "tables")
    assert builds.build().accepted == 10


@pytest.mark.parametrize("data_format", sorted(GOOD))
def test_cached_rows_of_each_format_equal_the_rows_read_first(tmp_path, data_format):
    builds = Builds(tmp_path, data_format)
    rows = [*GOOD[data_format], GOOD[data_format][0], {"nothing": json.dumps("known")}]
    if data_format == "preferences":
        pair = GOOD[data_format][1]
        rows.append(pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]})
    write_jsonl(builds.raw / "a.jsonl", rows)
    first = builds.build()
    tables = builds.tables()
    assert first.duplicates == 1 and first.quarantined == len(rows) - 3
    assert same_report(builds.build(), first) and builds.fetched == [] and builds.tables() == tables


def test_a_code_change_in_a_format_changes_the_code_hash(tmp_path):
    package = Path(tables.__file__).parent
    copies = [shutil.copytree(package, tmp_path / name) for name in ("same", "changed")]
    with (copies[1] / "formats" / "turns.py").open("a") as file:
        file.write("# another rule\n")
    assert code_hash(copies[0]) == code_hash(package)
    assert code_hash(copies[1]) != code_hash(package)
