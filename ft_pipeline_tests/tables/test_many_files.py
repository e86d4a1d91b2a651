"""Thousands of small files: few open files, and no work per file that grows with the number of files."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.finished_tables import SET_ASIDE
from ft_pipeline.tables.quarantine import QuarantineSummary
from ft_pipeline.tables.reading.sidecar import _PlainLoader
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.tables.helpers import build

WITH_FEW_DESCRIPTORS = """
import os, resource, sys
from pathlib import Path
from ft_pipeline.store.folder_cache import FolderCache
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.file_result import SourceFile

folder = Path(sys.argv[1])
cache = FolderCache(folder / "store", "tables")
inherited = {int(number) for number in os.listdir("/proc/self/fd")}  # of the test
limit = next(n for n in range(1024) if n - len([number for number in inherited if number < n]) == 60)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
files = [SourceFile(path.name, path, path.stem) for path in sorted((folder / "raw").iterdir())]
for name in ("first", "from_cache"):
    report = build_table("alpaca", files, folder / name, max_quarantined=0.5, cache=cache)
    print(report.accepted, report.duplicates, report.passed)
"""


def question(number):
    return {"instruction": f"What is number {number} called?", "output": f"Its name is entry {number}."}


def write_files(folder: Path, count: int) -> dict[str, list]:
    """Write files of three rows, the last of which is also the first row of the next file."""
    (folder / "raw").mkdir()
    files = {f"{number:04d}.jsonl": [question(n) for n in range(2 * number, 2 * number + 3)] for number in range(count)}
    for name, rows in files.items():
        (folder / "raw" / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def test_more_files_than_the_process_may_open(tmp_path):
    write_files(tmp_path, 70)
    process = ForkedProcess(WITH_FEW_DESCRIPTORS, str(tmp_path))
    output, errors = process.communicate()
    assert process.wait() == 0, errors[-2000:]
    assert output.split("\n")[:2] == ["141 69 True"] * 2


def test_rows_of_small_files_share_row_groups(tmp_path):
    files = write_files(tmp_path, 40)
    report = build(tmp_path, "alpaca", files)
    for name, rows in (("rows.parquet", report.accepted), ("set_aside.parquet", report.duplicates)):
        metadata = pq.read_metadata(tmp_path / "out" / name)
        assert (metadata.num_rows, metadata.num_row_groups) == (rows, 1)
    assert pq.read_table(tmp_path / "out" / "rows.parquet")["row"].to_pylist() == [1, 2, 3] + [2, 3] * 39


def store_entries(cache: FolderCache, folder: Path, count: int) -> None:
    for number in range(count):
        entry = folder / f"entry-{number}"
        entry.mkdir()
        (entry / "rows").write_bytes(bytes(100))
        cache.store(f"key-{number}", entry)


class CountedIds(frozenset):
    """Ids of erased rows, which count how often all of them are read."""

    read = 0

    def __iter__(self):
        CountedIds.read += 1
        return super().__iter__()


def test_the_ids_of_erased_rows_are_read_once_for_all_files(tmp_path):
    files = write_files(tmp_path, 20)
    sources = [SourceFile(name, tmp_path / "raw" / name, name) for name in files]
    excluded, cache = CountedIds({"a", "b"}), FolderCache(tmp_path / "store", "tables")
    build_table("alpaca", sources, tmp_path / "out", max_quarantined=0.5, excluded=excluded, cache=cache)
    assert CountedIds.read == 1


def count_listings(monkeypatch, root: Path) -> list[Path]:
    """Return a list that gets an item for each time that the folder is listed."""
    listed, iterdir = [], Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda path: (listed.append(path) if path == root else None, iterdir(path))[1])
    return listed


def test_the_cache_is_not_listed_for_each_new_entry(tmp_path, monkeypatch):
    cache = FolderCache(tmp_path / "store", "tables")
    listed = count_listings(monkeypatch, cache.root)
    store_entries(cache, tmp_path, 50)
    assert len(listed) == 1 and len(list(cache.root.iterdir())) == 50


def test_a_full_cache_makes_room_for_several_entries_at_once(tmp_path, monkeypatch):
    cache = FolderCache(tmp_path / "store", "tables", max_bytes=14_000)  # of 100 bytes, and their hashes
    listed = count_listings(monkeypatch, cache.root)
    store_entries(cache, tmp_path, 400)
    used = sum(path.stat().st_size for path in cache.root.rglob("rows"))
    assert len(listed) < 100 and 5_000 < used <= 14_000
    assert cache.restore("key-399", tmp_path / "newest") and not cache.restore("key-0", tmp_path / "oldest")


def lines_run(function) -> int:
    """Return the number of lines that Python runs in a call."""
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


def summary_of(files: int) -> QuarantineSummary:
    """Return the summary of files that each have one row set aside."""
    summary = QuarantineSummary()
    row = dict.fromkeys(SET_ASIDE.descriptions, "") | {"table": "alpaca", "row": 1, "code": "empty_output"}
    summary.add(pa.Table.from_pylist([row | {"file": str(number)} for number in range(files)]))
    account = {"table": "alpaca", "status": "accepted", "error_code": None, "error_message": None}
    counts = dict.fromkeys(("read", "accepted", "quarantined", "duplicates"), 1)
    summary._files = [account | counts | {"file": str(number)} for number in range(files)]
    return summary


def test_the_work_for_the_accounts_grows_with_the_number_of_files():
    few, many = (lines_run(summary_of(files).overview) for files in (400, 800))
    assert many < 2.5 * few


def test_the_summary_shows_the_files_with_the_most_unused_rows():
    summary = summary_of(1000)
    summary._files[700]["quarantined"] = 5
    summary._files[990]["status"] = "refused"
    shown = [account["file"] for account in summary.overview()["accounts"]]
    assert shown == [str(number) for number in range(298)] + ["700", "990"]


class CountedText(str):
    """A text that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other):
        CountedText.compared += 1
        return str.__eq__(self, other)


def test_each_key_of_a_sidecar_is_not_compared_with_all_others():
    pairs = [
        (
            yaml.ScalarNode("tag:yaml.org,2002:str", CountedText(f"key-{number}")),
            yaml.ScalarNode("tag:yaml.org,2002:str", "x"),
        )
        for number in range(300)
    ]
    node = yaml.MappingNode("tag:yaml.org,2002:map", pairs)
    _PlainLoader("").construct_mapping(node)
    assert CountedText.compared < 3000
