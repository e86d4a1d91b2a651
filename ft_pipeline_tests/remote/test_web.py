"""Files of a real web server on loopback: downloads, revisions, faults, redirects, and tokens that stay secret."""

import gzip
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx2
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.remote import addresses, web
from ft_pipeline.remote.addresses import Reach
from ft_pipeline.sources import fetch, transfer
from ft_pipeline.sources.declaration import read_source
from ft_pipeline.sources.fetch import look_for_revision
from ft_pipeline.store.blobs import BlobStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline_tests.remote.file_server import FileServer, file_server
from ft_pipeline_tests.remote.remote_folder import LINES, RemoteFolder, all_logs, files_with, remote

__all__ = ["all_logs", "remote"]
TOKEN = "geheim-9f27c1"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with file_server() as running:
        yield running


def test_a_remote_file_is_listed_like_a_local_one(remote: RemoteFolder, server: FileServer) -> None:
    packed = gzip.compress(LINES)
    server.put("/more/rows.jsonl.gz", packed, etag="one")
    path = remote.declare("support.yaml", f"{server.url}/more/rows.jsonl.gz", columns={"body": "text"})
    entry = remote.fetch_one()
    assert (entry.name, entry.bytes, entry.source) == (
        "support.jsonl.gz",
        len(packed),
        f"{server.url}/more/rows.jsonl.gz",
    )
    assert (entry.revision, entry.sidecar, entry.error_code) == ('"one"', sha256_of_file(path), None)
    assert remote.content(entry) == packed, "the bytes that were sent"
    assert remote.reports[-1] == (entry.source, len(packed), len(packed))
    assert list((remote.store.root / "drafts").iterdir()) == []


def test_a_plan_asks_nothing(remote: RemoteFolder, server: FileServer) -> None:
    server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    before = remote.plan()
    assert before.entries[0].error_code == "not_found" and server.requests == []
    fetched = remote.fetch()
    assert fetched.spec("text").hash != before.spec("text").hash
    server.methods()
    assert remote.plan() == fetched and server.requests == []


def test_an_unchanged_file_is_asked_and_not_downloaded_again(remote: RemoteFolder, server: FileServer) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    first = remote.fetch()
    assert server.methods() == ["HEAD", "GET"]
    assert remote.fetch() == first and server.methods() == ["HEAD"]
    served.content, served.headers = LINES * 2, {"ETag": '"two"'}
    second = remote.fetch()
    assert server.methods() == ["HEAD", "GET"]
    assert (second.entries[0].revision, second.entries[0].bytes) == ('"two"', 2 * len(LINES))
    assert remote.content(first.entries[0]) == LINES, "the earlier snapshot can still be read"


def test_a_new_revision_with_the_same_bytes_is_the_same_snapshot(remote: RemoteFolder, server: FileServer) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    first = remote.fetch()
    served.headers = {"ETag": '"two"'}
    assert remote.fetch() == first == remote.plan()
    server.methods()
    assert remote.fetch() == first and server.methods() == ["HEAD"], "the new revision is known now"


@pytest.mark.parametrize("headers", [{"Last-Modified": "Fri, 27 Nov 2026 10:00:00 GMT"}, {}])
def test_a_server_without_etags_and_heads(remote: RemoteFolder, server: FileServer, headers: dict[str, str]) -> None:
    served = server.put("/a.jsonl", LINES, knows_head=False)
    served.headers = headers
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    entry = remote.fetch_one()
    assert entry.revision == headers.get("Last-Modified", f"sha256:{entry.sha256}")
    assert remote.fetch_one() == entry
    served.content, served.headers = LINES * 2, {"Last-Modified": "Sat, 28 Nov 2026 10:00:00 GMT"} if headers else {}
    assert remote.fetch_one().sha256 != entry.sha256


def test_a_server_that_names_a_file_differently_when_it_sends_it(remote: RemoteFolder, server: FileServer) -> None:
    server.put("/a.jsonl", LINES, etag="one").headers_of_get = {"ETag": '"one-gzip"'}
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    entry = remote.fetch_one()
    assert entry.revision == '"one"'
    server.methods()
    assert remote.fetch_one() == entry and server.methods() == ["HEAD"], "it is not downloaded each time"


# --- new revisions ----------------------------------------------------------------------------------------------------


def make_due(remote: RemoteFolder, name: str = "a.yaml") -> None:
    """Let the interval pass since the source was last asked."""
    source, records = read_source(remote.folder / name), remote.records()
    records.write(source, replace(records.read(source), asked=time.time() - fetch.ASK_SECONDS - 1))


def test_the_sensor_notices_a_new_revision_once_the_interval_is_over(remote: RemoteFolder, server: FileServer) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    source, fetched = read_source(remote.folder / "a.yaml"), remote.fetch()
    served.content, served.headers = LINES * 2, {"ETag": '"two"'}
    server.methods()
    assert not look_for_revision(source, remote.store.root) and server.requests == [], "it was asked just now"
    make_due(remote)
    assert look_for_revision(source, remote.store.root) and server.methods() == ["HEAD"]
    planned = remote.plan()
    assert planned != fetched and planned.entries[0].revision == '"two"'
    assert not look_for_revision(source, remote.store.root) and server.methods() == []
    assert remote.fetch_one().bytes == 2 * len(LINES)
    assert remote.plan() == remote.fetch()


def test_a_pinned_file_is_not_asked_again(remote: RemoteFolder, server: FileServer) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    pin = BlobStore(remote.store.root).add(_file(remote, LINES))
    path = remote.declare("a.yaml", f"{server.url}/a.jsonl", revision=f"sha256:{pin}")
    first = remote.fetch()
    served.content, served.headers = b"other\n", {"ETag": '"two"'}
    server.methods()
    make_due(remote)
    assert not look_for_revision(read_source(path), remote.store.root)
    assert remote.fetch() == first == remote.plan() and server.requests == []


def test_other_bytes_than_the_pinned_ones_are_refused(remote: RemoteFolder, server: FileServer) -> None:
    server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl", revision=f"sha256:{'ab' * 32}")
    with pytest.raises(UserError, match="is not the one that `revision` names"):
        remote.fetch()
    assert BlobStore(remote.store.root).stored() == {sha256_of_file(remote.folder / "a.yaml")}


def _file(remote: RemoteFolder, content: bytes):
    path = remote.store.root / "file"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "advice"),
    [(404, "Correct `source`"), (403, "Set FT_SOURCE_TOKEN"), (500, "Run again later"), (204, "Run again later")],
)
def test_an_answer_without_a_file_is_one_clear_error(
    remote: RemoteFolder, server: FileServer, status: int, advice: str
) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    snapshot = remote.fetch()
    served.status, served.content = status, b""
    with pytest.raises(UserError) as raised:
        remote.fetch()
    message = str(raised.value)
    assert message.startswith(f"{server.url}/a.jsonl cannot be read: 127.0.0.1 answered {status} ")
    assert advice in message and message.count(". ") == 1
    assert remote.plan() == snapshot and remote.content(snapshot.entries[0]) == LINES, "the earlier one is usable"


def test_a_server_that_is_down(remote: RemoteFolder) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.jsonl"
    remote.declare("a.yaml", url)
    with pytest.raises(UserError, match=f"^{url} cannot be read: no connection .*refused.*Check the URL"):
        remote.fetch()
    assert remote.plan().entries[0].error_code == "not_found"


@pytest.mark.parametrize(("faults", "attempts"), [([503, 429], 3), ([503, 503, 503], 3), ([404], 1)])
def test_what_may_pass_is_tried_again(
    remote: RemoteFolder, server: FileServer, faults: list[int], attempts: int
) -> None:
    server.put("/a.jsonl", LINES, etag="one", faults=list(faults))
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    if len(faults) < attempts:
        assert remote.content(remote.fetch_one()) == LINES
    else:
        with pytest.raises(UserError, match=f"answered {faults[-1]}"):
            remote.fetch()
    assert server.methods().count("GET") == attempts


@pytest.mark.parametrize("sent", [0, 40])
def test_a_transfer_that_is_cut_off_is_never_used(remote: RemoteFolder, server: FileServer, sent: int) -> None:
    served = server.put("/a.jsonl", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    served.sent = sent
    with pytest.raises(UserError, match=f"the transfer ended after {sent} of {len(LINES)} bytes. Run again"):
        remote.fetch()
    assert BlobStore(remote.store.root).stored() == {sha256_of_file(remote.folder / "a.yaml")}
    assert list((remote.store.root / "drafts").iterdir()) == []
    served.sent = None
    assert remote.content(remote.fetch_one()) == LINES


def test_a_file_that_the_server_compresses_on_the_way(remote: RemoteFolder, server: FileServer) -> None:
    served = server.put("/a.jsonl", gzip.compress(LINES))
    served.headers = {"Content-Encoding": "gzip"}
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    assert gzip.decompress(remote.content(remote.fetch_one())) == LINES
    served.content, served.headers = b"other", {"Content-Encoding": "br", "ETag": "other"}
    with pytest.raises(UserError, match="the answer has the encoding br"):
        remote.fetch()


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_that_is_too_large_is_refused(
    remote: RemoteFolder, server: FileServer, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(transfer, "MAX_DOWNLOAD_BYTES", len(LINES) - 1)
    server.put("/a.jsonl", LINES, announced=announced)
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    with pytest.raises(UserError, match="is larger than"):
        remote.fetch()


# --- secrets and addresses --------------------------------------------------------------------------------------------


def test_a_token_goes_only_to_its_host_and_is_never_written(
    remote: RemoteFolder, server: FileServer, monkeypatch: pytest.MonkeyPatch, all_logs: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FT_SOURCE_TOKEN", TOKEN)
    with file_server() as other:
        other.put("/stored", LINES, etag="one")
        signed = f"{other.url}/stored?signature=signed-4711"
        server.files["/a.jsonl"] = server.put("/a", b"", status=302, token=TOKEN)
        server.files["/a.jsonl"].headers = {"Location": signed}
        remote.declare("a.yaml", f"{server.url}/a.jsonl")
        remote.fetch()
        assert {header for _, _, header in server.requests} == {f"Bearer {TOKEN}"}
        assert {header for _, _, header in other.requests} == {None}
        other.files.clear()
        with pytest.raises(UserError) as raised:
            remote.fetch()
    assert "404" in str(raised.value)
    written = " ".join([str(raised.value), all_logs.text])
    assert TOKEN not in written and "signed-4711" not in written
    assert files_with(remote.store.root, TOKEN) == files_with(remote.store.root, "signed-4711") == []


def test_a_token_can_be_limited_to_hosts(
    remote: RemoteFolder, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_SOURCE_TOKEN", TOKEN)
    monkeypatch.setenv("FT_SOURCE_HOSTS", "data.example.com, files.example.com")
    server.put("/a.jsonl", LINES, token=TOKEN)
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    with pytest.raises(UserError, match=r"answered 401 Unauthorized\. Set FT_SOURCE_TOKEN"):
        remote.fetch()
    assert {header for _, _, header in server.requests} == {None}
    monkeypatch.setenv("FT_SOURCE_HOSTS", "data.example.com, 127.0.0.1")
    assert remote.content(remote.fetch_one()) == LINES


@pytest.mark.parametrize(
    "source",
    [
        f"https://ada:{TOKEN}@example.com/a.jsonl",
        f"https://{TOKEN}@example.com/a.jsonl",
        f"https://example.com/a.jsonl?X-Amz-Signature={TOKEN}",
        f"https://example.com/a.jsonl?sv=2026&sig={TOKEN}",
        f"https://example.com/a.jsonl?access_token={TOKEN}",
        f"s3://ada:{TOKEN}@bucket/a.jsonl",
    ],
)
def test_a_url_with_a_secret_is_refused_and_not_stored(
    remote: RemoteFolder, source: str, all_logs: pytest.LogCaptureFixture
) -> None:
    remote.declare("a.yaml", source)
    for snapshot in (remote.plan(), remote.fetch()):
        (entry,) = snapshot.entries
        assert (entry.name, entry.error_code, entry.sha256) == ("a.yaml", "unknown_format", None)
        assert "set the secret in the environment" in entry.error_message
        assert TOKEN not in str(snapshot.to_json())
    assert files_with(remote.store.root, TOKEN) == [] and TOKEN not in all_logs.text


def test_values_of_a_query_are_not_shown(remote: RemoteFolder, server: FileServer) -> None:
    server.put("/export", LINES, etag="one")
    remote.declare("a.yaml", f"{server.url}/export?customer=4711&format=a.jsonl")
    assert remote.fetch_one().source == f"{server.url}/export?…"
    assert server.requests[-1][1] == "/export?customer=4711&format=a.jsonl"
    server.files.clear()
    with pytest.raises(UserError) as raised:
        remote.fetch()
    assert "4711" not in str(raised.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://169.254.169.254/latest/meta-data", "is not asked"),
        ("http://192.0.2.7/a.jsonl", "without encryption"),
        ("ftp://127.0.0.1/a.jsonl", "without encryption"),
        ("/a.jsonl", "more than 5 redirects"),
    ],
)
def test_a_redirect_to_an_address_that_is_not_asked(
    remote: RemoteFolder, server: FileServer, location: str, message: str
) -> None:
    server.put("/a.jsonl", b"", status=302).headers = {"Location": location}
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    with pytest.raises(UserError, match=message):
        remote.fetch()


def test_a_redirect_never_leads_to_a_more_private_address(remote: RemoteFolder, server: FileServer) -> None:
    server.put("/a.jsonl", b"", status=302).headers = {"Location": f"http://localhost:{server.port}/b.jsonl"}
    server.put("/b.jsonl", LINES)
    remote.declare("a.yaml", f"{server.url}/a.jsonl")
    assert remote.content(remote.fetch_one()) == LINES, "from this machine to itself"
    source = read_source(remote.folder / "a.yaml")
    for host, before in (("localhost", Reach.PRIVATE), ("127.0.0.1", Reach.PUBLIC), ("10.1.2.3", Reach.PUBLIC)):
        with pytest.raises(UserError, match=f"redirects to {host}, a more private address"):
            web.checked_redirect(source, httpx2.URL(f"https://{host}/b.jsonl"), before)
    assert web.checked_redirect(source, httpx2.URL("https://10.1.2.3/"), Reach.PRIVATE) is Reach.PRIVATE


@pytest.mark.parametrize(
    ("host", "reach"),
    [
        ("127.0.0.1", Reach.LOOPBACK),
        ("localhost", Reach.LOOPBACK),
        ("::1", Reach.LOOPBACK),
        ("::ffff:127.0.0.1", Reach.LOOPBACK),
        ("192.168.1.4", Reach.PRIVATE),
        ("fd00:ec2::254", Reach.PRIVATE),
        ("1.1.1.1", Reach.PUBLIC),
        ("no-such-host.invalid", Reach.PUBLIC),
    ],
)
def test_from_where_an_address_can_be_reached(host: str, reach: Reach) -> None:
    assert addresses.reach_of(host, 443) is reach


@pytest.mark.parametrize("host", ["169.254.169.254", "fe80::1", "0.0.0.0", "::ffff:169.254.169.254", "224.0.0.1"])
def test_addresses_that_are_never_asked(host: str) -> None:
    with pytest.raises(UserError, match="is not asked"):
        addresses.reach_of(host, 443)
