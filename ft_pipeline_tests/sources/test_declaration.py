"""What a YAML may say about a remote source, and which YAMLs are refused."""

import json

import pytest

from ft_pipeline.sources.declaration import BadSource, RemoteSource, parse_source, read_source, reading_keys
from ft_pipeline.sources.local_folder import remote_sources
from ft_pipeline.tables.reading.sidecar import parse_sidecar
from ft_pipeline_tests.remote.remote_folder import LINES, RemoteFolder, remote

__all__ = ["remote"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("s3://bucket/more/rows.jsonl.gz", "support.jsonl.gz"),
        ("s3://bucket/a%20file?.csv", "support.csv"),
        ("hf://datasets/owner/name/data/rows.Parquet", "support.Parquet"),
        ("hf://datasets/owner/name", "support.parquet"),
        ("https://example.com/export.csv.zst?format=full", "support.csv.zst"),
        ("https://example.com/v1.2/download", "support"),
        ("http://127.0.0.1:8000/a.json", "support.json"),
        ("http://localhost/a.json", "support.json"),
        ("http://[::1]:80/a.json", "support.json"),
    ],
)
def test_the_suffixes_of_the_remote_file_stay(source: str, name: str) -> None:
    assert parse_source({"source": source}).file_name("support") == name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"source": "file:///etc/passwd"}, "local path: put the file itself into this folder"),
        ({"source": "/etc/passwd"}, "local path"),
        ({"source": "../secrets.jsonl"}, "local path"),
        ({"source": "gs://bucket/a.jsonl"}, "the scheme 'gs'. Use s3://BUCKET/KEY"),
        ({"source": "http://example.com/a.jsonl"}, "plain http"),
        ({"source": "http://localhost.example.com/a.jsonl"}, "plain http"),
        ({"source": "https://example.com"}, "names no file"),
        ({"source": "https:///a.jsonl"}, "names no file"),
        ({"source": "s3://bucket"}, "names no file"),
        ({"source": "s3://bucket/folder/"}, "names no file"),
        ({"source": "https://example.com/a.jsonl#part"}, "contains #"),
        ({"source": "https://exa mple.com:port/a.jsonl"}, "is not a URL"),
        ({"source": "https://example.com/a\njsonl"}, "is not a text on one line"),
        ({"source": ["s3://bucket/a.jsonl"]}, "is not a text on one line"),
        ({"source": "hf://models/owner/name"}, "is not a data set of the hub"),
        ({"source": "hf://datasets/owner"}, "is not a data set of the hub"),
        ({"source": "hf://datasets/owner/name/../other/a.jsonl"}, "names no single file"),
        ({"source": "hf://datasets/owner/name/data/*.jsonl"}, "names no single file"),
        ({"source": "hf://datasets/owner/name@main", "revision": "main"}, "name it once"),
        ({"source": "s3://bucket/a.jsonl", "revision": 7}, "`revision` is not a text"),
        ({"source": "s3://bucket/a.jsonl", "revision": "sha256:AB"}, "is not a SHA-256"),
        ({"source": "https://example.com/a.jsonl", "revision": "v2"}, "a web server, which keeps none"),
        ({"source": "s3://bucket/a.jsonl", "subset": "en"}, "`subset` for a single file"),
        ({"source": "s3://bucket/a.jsonl", "token": "geheim"}, "key 'token': remove it, and set the secret"),
        ({"source": "s3://bucket/a.jsonl", "AWS_SECRET_ACCESS_KEY": "geheim"}, "remove it, and set the secret"),
    ],
)
def test_a_source_that_is_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(BadSource) as raised:
        parse_source(keys)
    assert message in str(raised.value) and "geheim" not in str(raised.value)


@pytest.mark.parametrize(
    ("keys", "pinned"),
    [
        ({"source": "s3://bucket/a.jsonl"}, False),
        ({"source": "s3://bucket/a.jsonl", "revision": "version-1"}, True),
        ({"source": "https://example.com/a.jsonl", "revision": f"sha256:{'ab' * 32}"}, True),
        ({"source": "hf://datasets/owner/name", "revision": "main"}, False),
        ({"source": "hf://datasets/owner/name@refs%2Fpr%2F1"}, False),
        ({"source": "hf://datasets/owner/name", "revision": "c" * 40}, True),
        ({"source": f"hf://datasets/owner/name@{'c' * 40}/a.jsonl"}, True),
    ],
)
def test_a_branch_is_not_pinned(keys: dict[str, object], pinned: bool) -> None:
    assert parse_source(keys).is_pinned is pinned


def test_a_revision_may_be_a_part_of_the_url() -> None:
    source = parse_source({"source": "hf://datasets/owner/name@refs%2Fpr%2F1/a.jsonl"})
    assert source == RemoteSource("hf://datasets/owner/name/a.jsonl", "refs/pr/1")
    assert source.hub_data.path == "a.jsonl"


def test_the_keys_of_the_source_do_not_say_how_rows_are_read() -> None:
    hub = {"source": "hf://datasets/owner/name", "revision": "main", "subset": "en", "columns": {"body": "text"}}
    assert reading_keys({**hub, "split": "train"}) == {"columns": {"body": "text"}}
    assert parse_source({**hub, "split": "train"}).split == "train"
    assert parse_sidecar({**hub, "split": "test"}).split == "test" == parse_source({**hub, "split": "test"}).split
    file = {"source": "s3://bucket/a.jsonl", "split": "test"}
    assert parse_source(file).split is None and parse_sidecar(file).split == "test"
    assert reading_keys({"revision": "1"}) == {"revision": "1"}, "without a source it is an unknown key"


def test_only_a_yaml_without_a_data_file_names_a_source(remote: RemoteFolder) -> None:
    remote.declare("a.yaml", "s3://bucket/a.jsonl")
    assert list(remote_sources(remote.folder)) == ["a.yaml"]
    (remote.folder / "a.jsonl.gz").write_bytes(LINES)
    assert remote_sources(remote.folder) == {}
    (entry,) = remote.plan().entries
    assert (entry.name, entry.error_code) == ("a.jsonl.gz", "unknown_format")
    assert entry.error_message == (
        "its sidecar a.yaml is a YAML with a source, although the file itself is here: remove one"
    )


@pytest.mark.parametrize(
    ("content", "refused"),
    [
        ("columns: {body: text}\n", False),
        ("{broken", False),
        ("source: [s3://bucket/a.jsonl\n", True),
        ("[source]\n", False),
        ("source:\n", False),
    ],
)
def test_a_yaml_without_a_source_is_an_unused_sidecar(remote: RemoteFolder, content: str, refused: bool) -> None:
    (remote.folder / "a.yaml").write_text(content)
    snapshot = remote.plan()
    assert ([entry.error_code for entry in snapshot.entries] == ["unknown_format"]) is refused
    assert (snapshot.unused_sidecars == ["a.yaml"]) is not refused


def test_a_link_out_of_the_folder_is_not_read(remote: RemoteFolder, tmp_path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text(json.dumps({"source": "s3://bucket/a.jsonl"}))
    (remote.folder / "a.yaml").symlink_to(outside)
    assert remote_sources(remote.folder) == {} and remote.plan().entries == []
    assert read_source(outside) is not None
