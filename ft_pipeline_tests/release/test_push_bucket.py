"""`ft push` to S3: moto's server on loopback, through s3fs."""

import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.release.push.bucket import BucketPrefix
from ft_pipeline.release.push.parcel import Parcel, parcel_of
from ft_pipeline_tests.release.test_disclosure import export_to, sha256sum
from ft_pipeline_tests.release.trained import RAW_FILE, TALKS, Trained
from ft_pipeline_tests.s3_server import SECRET, connect_empty, s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client, and the bucket `models`, which is empty."""
    return connect_empty(endpoint, monkeypatch, "models")


@pytest.fixture(scope="module")
def parcel(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Parcel:
    """An export of an adapter with its base model in a folder of its own."""
    return parcel_of(export_to(tmp_path_factory.mktemp("exported") / "support", trained, "lora", merged=False))


def objects(s3: Any) -> dict[str, bytes]:
    listed = s3.list_objects_v2(Bucket="models").get("Contents", [])
    return {entry["Key"]: s3.get_object(Bucket="models", Key=entry["Key"])["Body"].read() for entry in listed}


def test_the_bucket_gets_the_whole_export_and_no_row(s3: Any, parcel: Parcel, tmp_path: Path) -> None:
    destination, arrived = BucketPrefix("s3://models/support/v1/"), []
    plan = destination.plan(parcel)
    assert plan.address == "s3://models/support/v1" and objects(s3) == {}
    assert destination.send(parcel, arrived.append) == plan.address
    assert arrived == list(parcel.hashes) and arrived[-1] == "SHA256SUMS", "the list comes last"
    texts = [text for turns in (*TALKS["train"], *TALKS["test"]) for text in turns if len(text) > 12]
    for key, content in objects(s3).items():
        path = tmp_path / key.removeprefix("support/v1/")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        for text in (*texts, RAW_FILE, str(parcel.folder)):
            assert text.encode() not in content and json.dumps(text)[1:-1].encode() not in content
    sha256sum(tmp_path, "SHA256SUMS")


@pytest.mark.long
def test_the_command_pushes_an_experiment_to_a_bucket(s3: Any, trained: Trained) -> None:
    arguments = ["push", "whole", "s3://models/by-hand", "--yes", "--json", "--project", str(trained.root)]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["address"] == "s3://models/by-hand"
    assert objects(s3).keys() == {f"by-hand/{name}" for name in document["files"]}
    assert "Who can read it is decided by the rules of the bucket" in done.stderr and SECRET not in done.output
    assert list((trained.root / "data" / "store" / "drafts").glob("push-*")) == []


@pytest.mark.long
def test_an_interrupted_push_is_completed_and_a_finished_one_sends_nothing(s3: Any, parcel: Parcel) -> None:
    destination = BucketPrefix("s3://models/support")

    def stop(name: str) -> None:
        if name == "adapter_model.safetensors":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        destination.send(parcel, stop)
    first = {entry["Key"]: entry["LastModified"] for entry in s3.list_objects_v2(Bucket="models")["Contents"]}
    assert 0 < len(first) < len(parcel.hashes)
    assert any("are there already, with the same content" in note for note in destination.plan(parcel).notes)
    destination.send(parcel, lambda name: None)
    complete = objects(s3)
    assert complete.keys() == {f"support/{name}" for name in parcel.hashes}
    s3.delete_object(Bucket="models", Key="support/README.md")
    s3.put_object(Bucket="models", Key="support/config", Body=b"")
    s3.delete_object(Bucket="models", Key="support/config")
    destination.send(parcel, lambda name: None)
    assert objects(s3) == complete


def test_a_folder_with_other_content_is_refused(s3: Any, parcel: Parcel, trained: Trained, tmp_path: Path) -> None:
    destination = BucketPrefix("s3://models/support")
    destination.send(parcel, lambda name: None)
    before = objects(s3)
    other = parcel_of(export_to(tmp_path / "other", trained, "lora", merged=True))
    with pytest.raises(UserError, match=r"is not a file of this export\. Choose another folder of the bucket"):
        destination.plan(other)
    s3.put_object(Bucket="models", Key="support/thesis.pdf", Body=b"mine")
    with pytest.raises(UserError, match=r"support/thesis\.pdf is not a file of this export"):
        destination.send(parcel, lambda name: None)
    assert objects(s3) == {**before, "support/thesis.pdf": b"mine"}


@pytest.mark.long
def test_only_signatures_are_replaced(s3: Any, parcel: Parcel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(parcel.folder, tmp_path / "support"))
    destination = BucketPrefix("s3://models/support")
    for text in ("one", "two"):
        (folder / "model.sig").write_text(text, encoding="utf-8")
        destination.send(parcel_of(folder), lambda name: None)
        assert objects(s3)["support/model.sig"].decode() == text
    assert list(parcel_of(folder).hashes)[-1] == "model.sig"


def test_a_neighbour_with_the_same_beginning_is_not_touched(s3: Any, parcel: Parcel) -> None:
    s3.put_object(Bucket="models", Key="support-old/a.txt", Body=b"old")
    BucketPrefix("s3://models/support").send(parcel, lambda name: None)
    assert objects(s3)["support-old/a.txt"] == b"old"


@pytest.mark.long
def test_a_missing_bucket_no_server_and_no_extra_are_one_line(
    s3: Any, parcel: Parcel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"^There is no bucket 'nothing'\. Create it, or correct the address\.$"):
        BucketPrefix("s3://nothing/support").send(parcel, lambda name: None)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(UserError) as raised:
        BucketPrefix("s3://models/support").send(parcel, lambda name: None)
    assert "Check the network and AWS_ENDPOINT_URL" in str(raised.value)
    assert SECRET not in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"needs the extra `s3`\. Run: pip install 'ft-pipeline\[s3\]'"):
        BucketPrefix("s3://models/support").plan(parcel)
