"""Rows of remote files: the kept copies are redacted, and so is what is downloaded while the source has the row."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ft_pipeline.erasure.downloads import replace_erased_rows
from ft_pipeline.erasure.erase import erase
from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.sources.declaration import read_source
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.records import SourceRecords
from ft_pipeline.sources.remote_listing import Fetching
from ft_pipeline_tests.audit.shop import ALPACA, Shop
from ft_pipeline_tests.erasure.test_lineage import person
from ft_pipeline_tests.erasure.traces import traces
from ft_pipeline_tests.remote.file_server import FileServer, file_server


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


def serve(server: FileServer, rows: list[dict[str, str]], etag: str) -> None:
    server.put("/people.jsonl.gz", gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()), etag=etag)


def fetch(shop: Shop) -> None:
    clean = partial(replace_erased_rows, Project(shop.root), "alpaca")
    fetching = Fetching(lambda source, size, total: None, clean)
    snapshot_folder(shop.root / "data" / "raw" / "alpaca", shop.store, fetching=fetching)


def declare(shop: Shop, server: FileServer) -> Path:
    path = shop.raw("alpaca", "people.yaml")
    path.write_text(f"source: {server.url}/people.jsonl.gz\n")
    return path


def test_a_row_is_erased_from_the_kept_copy(shop: Shop, server: FileServer) -> None:
    rows = [ALPACA[0], person("english"), person("hindi")]
    serve(server, rows, etag="one")
    path = declare(shop, server)
    fetch(shop)
    shop.materialize()
    assert len(traces(shop.root, *rows[1].values())) >= 3
    with pytest.raises(UserError, match=r"alpaca/people\.yaml has no row 4; its rows are 1 to 3"):
        erase(Project(shop.root), path, [4], "request 99")
    result = erase(Project(shop.root), path, [2], "request 99")
    assert [(row["file"], row["row"]) for row in result.rows] == [("people.jsonl.gz", 2)]
    assert result.raw_files == 1 and result.files == []
    assert any(note.startswith("people.yaml names a remote file that still has erased rows") for note in result.notes)
    assert traces(shop.root, *rows[1].values()) == []
    assert traces(shop.root, rows[2]["output"]), "another row of the same file stays"
    with pytest.raises(UserError, match="already erased"):
        erase(Project(shop.root), path, [2], "request 99")


@pytest.mark.parametrize("name", ["people.jsonl.gz", pytest.param("people.csv", marks=pytest.mark.long)])
def test_an_erased_row_that_the_source_still_has_is_not_stored_again(shop: Shop, server: FileServer, name: str) -> None:
    rows = [ALPACA[0], person("english"), person("hindi")]

    def serve_as(etag: str) -> None:
        serve(server, rows, etag)
        if name.endswith("csv"):
            lines = io.StringIO()
            table = csv.DictWriter(lines, ["instruction", "output"], extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
            server.put("/people.csv", lines.getvalue().encode(), etag=etag)

    records = SourceRecords(shop.store.root)
    serve_as("one")
    path = shop.raw("alpaca", "people.yaml")
    path.write_text(f"source: {server.url}/{name}\n")
    fetch(shop)
    shop.materialize()
    before = records.revisions([read_source(path)])
    erase(Project(shop.root), path, [2], "request 99")
    assert records.revisions([read_source(path)]) != before, "the sensor notices it"
    for etag in ("one", "two"):
        serve_as(etag)
        fetch(shop)
        assert traces(shop.root, *rows[1].values()) == []
        table = shop.materialize()["alpaca"]
        assert table.summary["reasons"]["excluded"] == 1
        assert traces(shop.root, rows[2]["output"]), "another row of the same file stays"


def test_a_row_is_erased_before_a_snapshot_lists_its_file(shop: Shop, server: FileServer) -> None:
    """The run ended after the download. The YAML alone says what the kept copy is."""
    texts = ["Ada Fenwick, 7 Mill Lane, asks for her lamp.", "The shop opens at seven."]
    server.put("/rows.jsonl.gz", gzip.compress("".join(json.dumps({"body": text}) + "\n" for text in texts).encode()))
    path = shop.raw("text", "notes.yaml")
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"source: {server.url}/rows.jsonl.gz\ncolumns: {{body: text}}\n")
    snapshot_folder(path.parent, shop.store, fetching=Fetching(lambda source, size, total: None))
    assert traces(shop.root, texts[0]) != []
    result = erase(Project(shop.root), path, [1], "request 99")
    assert [(row["format"], row["file"], row["row"]) for row in result.rows] == [("text", "notes.jsonl.gz", 1)]
    assert traces(shop.root, texts[0]) == [] and traces(shop.root, texts[1]) != []


def test_a_row_of_a_local_file_is_erased_from_remote_copies(shop: Shop, server: FileServer) -> None:
    serve(server, [ALPACA[0], person("english")], etag="one")
    declare(shop, server)
    fetch(shop)
    shop.materialize()
    local = shop.write("alpaca", "local.jsonl", [person("english")])
    result = erase(Project(shop.root), local, [1], "request 99")
    assert result.files == ["data/raw/alpaca/local.jsonl"] and result.raw_files == 1
    assert traces(shop.root, *person("english").values()) == []
