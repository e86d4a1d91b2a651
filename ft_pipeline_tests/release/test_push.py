"""`ft push` to a STUB of the hub on loopback (model_hub_stub.py), not to the real one. The client library is real."""

import base64
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest
from click.testing import Result
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.cli import push as push_command
from ft_pipeline.errors import UserError
from ft_pipeline_tests.release.model_hub_stub import ModelHub, Repository, model_hub
from ft_pipeline_tests.release.test_disclosure import export_to, sha256sum
from ft_pipeline_tests.release.trained import RAW_FILE, TALKS, Trained

TOKEN = "hf_geheim77c2"
DOCUMENTS = {"README.md", "SHA256SUMS", "bom.cdx.json", "provenance.json", "training_rows.txt"}
Push = Callable[..., Result]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelHub]:
    """The stub as the hub of this process."""
    with model_hub() as stub:
        stub.token = TOKEN
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the stub takes large files by LFS
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-logins"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield stub


@pytest.fixture(scope="module")
def exported(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a merged model, not signed."""
    return export_to(tmp_path_factory.mktemp("exported") / "support", trained, "lora", merged=True)


@pytest.fixture
def push(trained: Trained) -> Push:
    """`ft push …` in this process, without a terminal."""

    def run(*arguments: str, **options: str) -> Result:
        return CliRunner().invoke(app, ["push", *arguments, "--project", str(trained.root)], **options)

    return run


def message(done: Result) -> str:
    assert isinstance(done.exception, UserError), (done.output, done.exception)
    return str(done.exception)


def sent(hub: ModelHub) -> bytes:
    """All that the hub received, with its encoded files decoded."""
    texts = []
    for _, path, body in hub.requests:
        texts.append(body)
        if "/commit/" in path:
            operations = [json.loads(line)["value"] for line in body.splitlines()]
            texts += [base64.b64decode(value["content"]) for value in operations if "content" in value]
        if path.endswith(("/preupload/main", "/preupload/next")):
            texts += [base64.b64decode(file["sample"]) for file in json.loads(body)["files"]]
    return b"\n".join(texts)


def test_a_new_private_repository_gets_the_whole_export(hub: ModelHub, push: Push, tmp_path: Path) -> None:
    done = push("lora", "hub", "--merged", "--name", "acme/support", "--yes", "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    repository = hub.repositories["acme/support"]
    assert repository.private
    files = hub.files("acme/support")
    assert {"model.safetensors", "config.json", "tokenizer.json", *DOCUMENTS} <= files.keys()
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    sha256sum(tmp_path, "SHA256SUMS")
    assert ModelCard(files["README.md"].decode()).data.eval_results
    document = json.loads(done.stdout)
    assert document["files"].keys() == files.keys() and document["address"].startswith(hub.url)
    created = [json.loads(body) for _, path, body in hub.requests if path == "/api/repos/create"]
    assert len(created) == 1 and TOKEN not in done.output
    assert sum(path.endswith("/commit/main") for _, path, _ in hub.requests) == 1, "one commit"


@pytest.mark.long
def test_an_adapter_with_its_base_names_no_path(hub: ModelHub, push: Push, trained: Trained) -> None:
    assert push("lora", "hub", "--yes").exit_code == 0
    files = hub.files("acme/shop")  # the owner of the token, and the name of the project
    assert {"adapter_model.safetensors", "base/model.safetensors", *DOCUMENTS} <= files.keys()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "base"


def test_no_request_holds_a_row_a_file_name_or_a_path(hub: ModelHub, push: Push, trained: Trained) -> None:
    assert push("whole", "hub", "--yes").exit_code == 0
    received = sent(hub)
    assert b"# whole/merged" in received, "the card was decoded"
    texts = [text for turns in (*TALKS["train"], *TALKS["test"]) for text in turns if len(text) > 12]
    for text in (*texts, RAW_FILE, str(trained.root), "drafts/push-"):
        assert text.encode() not in received and json.dumps(text)[1:-1].encode() not in received, text


def test_an_export_folder_is_sent_as_it_is(hub: ModelHub, push: Push, exported: Path) -> None:
    assert push(str(exported), "hub", "--name", "support", "--yes", "--branch", "next").exit_code == 0
    files = hub.files("acme/support", "next")
    assert files == {path.name: path.read_bytes() for path in exported.iterdir()}
    assert hub.files("acme/support") == {}


@pytest.mark.parametrize("name", ["rows.jsonl", "train.parquet", "notes.txt"])
def test_files_that_the_export_did_not_write_stop_the_push(
    hub: ModelHub, push: Push, exported: Path, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "support"))
    (folder / name).write_text("My name is Ada Fenwick", encoding="utf-8")
    assert f"{name} is not a file of this export" in message(push(str(folder), "hub", "--yes"))
    with (folder / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  {name}\n")
    assert f"{name} " in message(push(str(folder), "hub", "--yes"))
    assert hub.requests == []


def test_changed_missing_and_linked_files_stop_the_push(
    hub: ModelHub, push: Push, exported: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "support"))
    config = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(config + b" ")
    assert "config.json was changed after the export" in message(push(str(folder), "hub", "--yes"))
    (folder / "config.json").unlink()
    assert "config.json is missing" in message(push(str(folder), "hub", "--yes"))
    (folder / "config.json").symlink_to(exported / "config.json")
    assert "config.json is a link" in message(push(str(folder), "hub", "--yes"))
    assert hub.requests == []


def test_a_push_is_shown_and_confirmed_first(
    hub: ModelHub, push: Push, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Add --yes" in message(push(str(exported), "hub"))
    assert hub.requests == []
    monkeypatch.setattr(push_command, "_has_terminal", lambda: True)
    refused = push(str(exported), "hub", "--name", "acme/support", input="n\n")
    assert message(refused) == "Nothing was sent." and hub.repositories == {}
    for shown in ("acme/support", "model.safetensors", "It is private", "No data rows are sent", "not signed"):
        assert shown in refused.stderr, shown
    assert push(str(exported), "hub", "--name", "acme/support", input="y\n").exit_code == 0
    assert hub.files("acme/support")


@pytest.mark.long
def test_a_second_push_sends_no_weights_again_and_removes_what_is_gone(
    hub: ModelHub, push: Push, exported: Path, trained: Trained
) -> None:
    assert push("lora", "hub", "--name", "acme/support", "--yes").exit_code == 0
    uploads = len(hub.uploads)
    assert push("lora", "hub", "--name", "acme/support", "--yes").exit_code == 0
    assert len(hub.uploads) == uploads
    done = push(str(exported), "hub", "--name", "acme/support", "--yes")
    assert done.exit_code == 0 and "Files of an earlier push that are removed: adapter_config.json" in done.stderr
    assert hub.files("acme/support").keys() == {path.name for path in exported.iterdir()}


def test_an_interrupted_push_is_completed_by_the_next_one(hub: ModelHub, push: Push, exported: Path) -> None:
    hub.refused = {"/commit/main": 400}
    assert "The hub answered 400" in message(push(str(exported), "hub", "--name", "acme/support", "--yes"))
    assert hub.files("acme/support") == {} and len(hub.uploads) == 1
    hub.refused = {}
    assert push(str(exported), "hub", "--name", "acme/support", "--yes").exit_code == 0
    assert len(hub.uploads) == 1 and hub.files("acme/support").keys() == {path.name for path in exported.iterdir()}


def test_a_public_repository_is_refused(hub: ModelHub, push: Push, exported: Path) -> None:
    hub.repositories["acme/support"] = Repository(private=False)
    assert "acme/support is public" in message(push(str(exported), "hub", "--name", "acme/support", "--yes"))
    hub.creates_public = True  # as an organization may do
    assert "acme/other is public" in message(push(str(exported), "hub", "--name", "acme/other", "--yes"))
    assert hub.uploads == [] and hub.files("acme/support") == hub.files("acme/other") == {}


def test_a_repository_of_others_is_not_overwritten(hub: ModelHub, push: Push, exported: Path) -> None:
    hub.repositories["acme/support"] = Repository(branches={"main": {"thesis.pdf": b"mine"}})
    assert "did not write, such as thesis.pdf" in message(push(str(exported), "hub", "--name", "acme/support", "--yes"))
    assert hub.files("acme/support") == {"thesis.pdf": b"mine"}


def test_a_file_that_the_hub_ignores_is_reported(hub: ModelHub, push: Push, exported: Path) -> None:
    hub.ignored = frozenset({"bom.cdx.json"})
    assert "did not take bom.cdx.json" in message(push(str(exported), "hub", "--name", "acme/support", "--yes"))


@pytest.mark.parametrize(
    ("refused", "text"),
    [
        ({"/whoami-v2": 401}, "The hub does not accept the token. Set HF_TOKEN"),
        ({"/repos/create": 403}, "does not let this token write to acme/support. Use a token with write access"),
        ({"/preupload/main": 404}, "has no acme/support, or does not show it to this token. Check --name"),
        ({"/preupload/main": 413}, "does not take a file of this size"),
    ],
)
def test_answers_of_the_hub_are_one_line(
    hub: ModelHub, push: Push, exported: Path, refused: dict[str, int], text: str
) -> None:
    hub.refused = refused
    told = message(push(str(exported), "hub", "--name", "acme/support", "--yes"))
    assert text in told and "\n" not in told and TOKEN not in told


def test_a_wrong_token_no_token_and_no_network_are_one_line(
    hub: ModelHub, push: Push, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong91d4")
    told = message(push(str(exported), "hub", "--yes"))
    assert "does not accept the token" in told and "hf_wrong91d4" not in told
    monkeypatch.delenv("HF_TOKEN")
    assert "There is no token for the hub" in message(push(str(exported), "hub", "--yes"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert "The hub cannot be reached" in message(push(str(exported), "hub", "--yes"))


def test_an_offline_hub_is_not_asked(
    hub: ModelHub, push: Push, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in message(push(str(exported), "hub", "--yes"))
    assert hub.requests == []


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("lora", "ftp://host"), "'ftp://host' is not a place to push to. Use `hub`"),
        (("lora", "hub", "--name", "a/b/c"), "'a/b/c' is not a name of a repository"),
        (("lora", "s3://bucket"), "'s3://bucket' names no folder in a bucket"),
        (("lora", "s3://bucket/x", "--name", "a/b"), "--name and --branch are for the hub"),
        (("few_shot", "hub"), "there is no trained model to export"),
        (("nobody", "hub"), "There is no model 'nobody'"),
    ],
)
def test_wrong_arguments_are_refused(hub: ModelHub, push: Push, arguments: tuple[str, ...], text: str) -> None:
    assert text in message(push(*arguments, "--yes"))
    assert hub.requests == []
