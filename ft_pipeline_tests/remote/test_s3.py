"""Files in S3: moto's server on loopback, asked through s3fs."""

import gzip
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.sources.declaration import read_source
from ft_pipeline.sources.fetch import look_for_revision
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.remote.remote_folder import LINES, RemoteFolder, files_with, remote
from ft_pipeline_tests.remote.test_web import make_due
from ft_pipeline_tests.s3_server import SECRET, connect, s3_server

__all__ = ["remote"]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, with two buckets: `plain`, and `versions`, which keeps old versions."""
    client = connect(endpoint, monkeypatch, "plain", "versions")
    client.put_bucket_versioning(Bucket="versions", VersioningConfiguration={"Status": "Enabled"})
    return client


def test_a_file_is_downloaded_once_and_its_etag_is_the_revision(remote: RemoteFolder, s3: Any) -> None:
    packed = gzip.compress(LINES, mtime=0)
    etag = s3.put_object(Bucket="plain", Key="more rows/a.jsonl.gz", Body=packed)["ETag"].strip('"')
    path = remote.declare("support.yaml", "s3://plain/more rows/a.jsonl.gz")
    entry = remote.fetch_one()
    assert (entry.name, entry.source, entry.revision) == ("support.jsonl.gz", "s3://plain/more rows/a.jsonl.gz", etag)
    assert remote.content(entry) == packed and entry.sidecar == sha256_of_file(path)
    reports = len(remote.reports)
    assert remote.fetch_one() == entry and len(remote.reports) == reports, "it is not downloaded again"
    s3.put_object(Bucket="plain", Key="more rows/a.jsonl.gz", Body=packed * 2)
    assert remote.fetch_one().bytes == 2 * len(packed) and len(remote.reports) > reports


def test_a_new_version_is_noticed_and_a_pinned_one_stays(remote: RemoteFolder, s3: Any) -> None:
    first = s3.put_object(Bucket="versions", Key="a.jsonl", Body=LINES)["VersionId"]
    remote.declare("newest.yaml", "s3://versions/a.jsonl")
    remote.declare("pinned.yaml", "s3://versions/a.jsonl", revision=first)
    before = remote.fetch()
    assert [entry.revision for entry in before.entries] == [first, first]
    second = s3.put_object(Bucket="versions", Key="a.jsonl", Body=LINES * 2)["VersionId"]
    for name in ("newest.yaml", "pinned.yaml"):
        make_due(remote, name)
    asked = [
        look_for_revision(read_source(remote.folder / name), remote.store.root)
        for name in ("newest.yaml", "pinned.yaml")
    ]
    assert asked == [True, False]
    planned = remote.plan()
    assert [entry.revision for entry in planned.entries] == [second, first] and planned != before
    newest, pinned = remote.fetch().entries
    assert (remote.content(newest), remote.content(pinned)) == (LINES * 2, LINES)


def test_an_old_version_can_be_pinned_later(remote: RemoteFolder, s3: Any) -> None:
    first = s3.put_object(Bucket="versions", Key="b.jsonl", Body=LINES)["VersionId"]
    s3.put_object(Bucket="versions", Key="b.jsonl", Body=b"other")
    remote.declare("b.yaml", "s3://versions/b.jsonl", revision=first)
    assert remote.content(remote.fetch_one()) == LINES


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://plain/nothing.jsonl", "S3 answered that there is no such file or version. Correct the YAML"),
        ("s3://no-such-bucket/a.jsonl", "S3 answered that there is no such file or version. Correct the YAML"),
    ],
)
def test_a_file_that_is_missing(remote: RemoteFolder, s3: Any, source: str, message: str) -> None:
    remote.declare("a.yaml", source)
    with pytest.raises(UserError) as raised:
        remote.fetch()
    assert str(raised.value).startswith(f"{source} cannot be read: {message}")


def test_a_server_that_is_down(remote: RemoteFolder, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="plain", Key="c.jsonl", Body=LINES)
    remote.declare("c.yaml", "s3://plain/c.jsonl")
    snapshot = remote.fetch()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(UserError, match=r"^s3://plain/c\.jsonl cannot be read: .*Check the network and AWS_"):
        remote.fetch()
    assert remote.plan() == snapshot and remote.content(snapshot.entries[0]) == LINES


def test_credentials_are_never_written(
    remote: RemoteFolder, s3: Any, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    s3.put_object(Bucket="plain", Key="d.jsonl", Body=LINES)
    remote.declare("d.yaml", "s3://plain/d.jsonl")
    remote.fetch()
    httpx2.post(f"{endpoint}/moto-api/reset-auth", content=b"0")  # from now on, moto checks the keys
    try:
        with pytest.raises(UserError, match=r"S3 answered .*Set AWS_ACCESS_KEY_ID and its secret") as raised:
            remote.fetch()
    finally:
        httpx2.post(f"{endpoint}/moto-api/reset-auth", content=b"inf")
    for secret in (SECRET, "access-4711"):
        assert secret not in caplog.text + str(raised.value)
        assert files_with(remote.store.root, secret) == []


@pytest.mark.parametrize("module", ["s3fs", "botocore"])
def test_without_the_extra_the_error_names_it(
    remote: RemoteFolder, s3: Any, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    remote.declare("a.yaml", "s3://plain/a.jsonl")
    with pytest.raises(UserError, match=r"need the extra `s3`\. Run: pip install 'ft-pipeline\[s3\]'"):
        remote.fetch()


def test_a_public_file_needs_no_credentials(remote: RemoteFolder, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="plain", Key="e.jsonl", Body=LINES, ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    remote.declare("e.yaml", "s3://plain/e.jsonl")
    assert remote.content(remote.fetch_one()) == LINES


def test_a_file_of_several_blocks_arrives_whole(remote: RemoteFolder, s3: Any) -> None:
    content = b"".join(b'{"text": "Row %09d of a long file"}\n' % number for number in range(600_000))
    assert len(content) > 16 << 20
    s3.put_object(Bucket="plain", Key="long.jsonl", Body=content)
    remote.declare("long.yaml", "s3://plain/long.jsonl")
    entry = remote.fetch_one()
    assert remote.content(entry) == content
    sizes = [size for _, size, total in remote.reports if total == len(content)]
    assert sizes == sorted(sizes) and sizes[-1] == len(content) and len(sizes) > 10
    assert BlobStore(remote.store.root).state(entry.sha256) == "copy"
