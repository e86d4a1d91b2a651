"""Data sets of the hub, against a STUB of the hub on loopback (hub_stub.py), not against the real one.

The client is real: our own requests for single files, and the library `datasets` in its own process for whole data
sets. The stub stands for the server because tests have no network.
"""

import io
from collections.abc import Iterator

import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.sources.declaration import read_source
from ft_pipeline.sources.fetch import look_for_revision
from ft_pipeline_tests.remote.hub_stub import HubStub, hub_stub
from ft_pipeline_tests.remote.remote_folder import LINES, ROWS, RemoteFolder, all_logs, files_with, remote
from ft_pipeline_tests.remote.test_web import make_due

__all__ = ["all_logs", "remote"]
FIRST, SECOND = "1" * 40, "2" * 40
TOKEN = "hf_geheim53b9"
FILES = {"README.md": b"# Shop\n", "data/train.jsonl": LINES, "data/test.jsonl": LINES[: LINES.index(b"\n") + 1] * 2}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[HubStub]:
    """The stub as the hub of this process and of its children."""
    with hub_stub() as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        stub.commit("acme/shop", FIRST, FILES)
        yield stub


def test_one_file_of_a_data_set(remote: RemoteFolder, hub: HubStub) -> None:
    remote.declare("shop.yaml", "hf://datasets/acme/shop/data/train.jsonl")
    entry = remote.fetch_one()
    assert (entry.name, entry.revision) == ("shop.jsonl", FIRST) and remote.content(entry) == LINES
    hub.requests.clear()
    assert remote.plan().entries == [entry] and hub.requests == []


def test_the_rows_of_a_split(remote: RemoteFolder, hub: HubStub) -> None:
    remote.declare("shop.yaml", "hf://datasets/acme/shop", split="train")
    entry = remote.fetch_one()
    assert (entry.name, entry.revision) == ("shop.parquet", FIRST)
    assert pq.read_table(io.BytesIO(remote.content(entry))).to_pylist() == ROWS
    assert list((remote.store.root / "drafts").iterdir()) == []


def test_a_data_set_of_several_splits_needs_the_name_of_one(remote: RemoteFolder, hub: HubStub) -> None:
    remote.declare("shop.yaml", "hf://datasets/acme/shop")
    with pytest.raises(UserError) as raised:
        remote.fetch()
    message = str(raised.value)
    assert message.startswith("hf://datasets/acme/shop cannot be read: the data set has the splits")
    assert "train" in message and "test" in message and "Traceback" not in message


def test_a_new_commit_is_noticed_and_a_pinned_one_is_not_asked(remote: RemoteFolder, hub: HubStub) -> None:
    source = "hf://datasets/acme/shop/data/train.jsonl"
    remote.declare("branch.yaml", source, revision="main")
    remote.declare("pinned.yaml", source, revision=FIRST)
    remote.declare("also.yaml", source.replace("shop/", f"shop@{FIRST}/"))
    before = remote.fetch()
    hub.commit("acme/shop", SECOND, {**FILES, "data/train.jsonl": LINES * 2})
    hub.requests.clear()
    asked = {}
    for name in ("branch.yaml", "pinned.yaml", "also.yaml"):
        make_due(remote, name)
        asked[name] = look_for_revision(read_source(remote.folder / name), remote.store.root)
    assert asked == {"branch.yaml": True, "pinned.yaml": False, "also.yaml": False}
    assert [path for _, path, _ in hub.requests] == ["/api/datasets/acme/shop/revision/main?expand=sha"]
    assert remote.plan() != before
    also, branch, pinned = remote.fetch().entries
    assert (branch.revision, remote.content(branch)) == (SECOND, LINES * 2)
    assert remote.content(also) == remote.content(pinned) == LINES


def test_the_token_of_the_environment_is_sent_and_never_written(
    remote: RemoteFolder, hub: HubStub, monkeypatch: pytest.MonkeyPatch, all_logs: pytest.LogCaptureFixture
) -> None:
    hub.token = TOKEN
    remote.declare("shop.yaml", "hf://datasets/acme/shop/data/train.jsonl")
    with pytest.raises(UserError, match=r"answered 401 Unauthorized\. Set HF_TOKEN in the environment"):
        remote.fetch()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert remote.content(remote.fetch_one()) == LINES
    remote.declare("shop.yaml", "hf://datasets/acme/shop/data/nothing.jsonl")
    with pytest.raises(UserError) as raised:
        remote.fetch()
    assert "answered 404" in str(raised.value)
    assert TOKEN not in all_logs.text + str(raised.value)
    assert files_with(remote.store.root, TOKEN) == []


@pytest.mark.long
def test_the_token_is_not_written_by_the_process_that_reads_a_split(
    remote: RemoteFolder, hub: HubStub, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    hub.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    remote.declare("shop.yaml", "hf://datasets/acme/shop", split="validation")
    with pytest.raises(UserError, match="validation") as raised:
        remote.fetch()
    remote.declare("shop.yaml", "hf://datasets/acme/shop", split="train")
    assert remote.fetch_one().bytes
    assert {header for _, _, header in hub.requests} == {f"Bearer {TOKEN}"}
    assert TOKEN not in str(raised.value) and files_with(tmp_path, TOKEN) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf://datasets/acme/nothing/a.jsonl", "answered 404 Not Found. Correct `source`"),
        ("hf://datasets/acme/shop@no-branch/a.jsonl", "answered 404 Not Found. Correct `source`"),
        ("hf://datasets/acme/shop/data/nothing.jsonl", "answered 404 Not Found. Correct `source`"),
    ],
)
def test_what_is_missing_on_the_hub(remote: RemoteFolder, hub: HubStub, source: str, message: str) -> None:
    remote.declare("shop.yaml", source)
    with pytest.raises(UserError) as raised:
        remote.fetch()
    assert message in str(raised.value)


def test_an_offline_hub_is_not_asked(remote: RemoteFolder, hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    remote.declare("shop.yaml", "hf://datasets/acme/shop/data/train.jsonl")
    with pytest.raises(UserError, match=r"HF_HUB_OFFLINE is set\. Unset HF_HUB_OFFLINE"):
        remote.fetch()
    assert hub.requests == []
