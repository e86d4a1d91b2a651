"""A signed export, checked by its recipient: with public tools alone, in another place, without this project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.store.journal import replace_key
from ft_pipeline.store.manifest import read_manifest, sealed_manifest
from ft_pipeline.store.signing import read_public_key
from ft_pipeline_tests.release.trained import TALKS, Trained

DOCS = Path(__file__).parents[2] / "docs" / "exports.md"
OUTSIDER = """\
import runpy, socket, sys

class WithoutProject:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ft_pipeline", "ft_pipeline_tests"):
            raise ModuleNotFoundError(f"{name} is not installed here")

def refuse(*arguments):
    raise OSError("no connection is opened")

sys.meta_path.insert(0, WithoutProject())
socket.socket.connect = refuse
module = sys.argv.pop(1)
if module == "-c":
    exec(sys.argv[1], {"__name__": "__main__"})
else:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Python as an outsider has it: it runs a module or code, cannot import this project, and has no network."""


@pytest.fixture(scope="module")
def signed(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The signed export of a merged model, moved to another place, and the publisher's public key outside of it."""
    place = tmp_path_factory.mktemp("signed")
    shutil.copytree(trained.root, place / "shop")
    store = place / "shop" / "data" / "store"
    if read_public_key(store) is None:
        replace_key(store, "first key")
    arguments = [
        "export",
        "lora",
        str(place / "made" / "support"),
        "--merged",
        "--project",
        str(place / "shop"),
        "--json",
    ]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and json.loads(done.stdout)["signed"] is True, done.output
    elsewhere = place / "elsewhere" / "received"
    elsewhere.parent.mkdir()
    shutil.move(place / "made" / "support", elsewhere)
    key = place / "publisher.pub"
    shutil.copyfile(store / "signing_key.pub", key)
    shutil.rmtree(place / "shop")
    return elsewhere, key


@pytest.fixture
def received(signed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(signed[0], tmp_path / "received"))


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `python` and `model_signing` of somebody who does not have this project."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "outsider.py").write_text(OUTSIDER, encoding="utf-8")
    run = f'exec "{sys.executable}" -I "{folder}/outsider.py"'
    for name, module in (("python", ""), ("model_signing", " model_signing")):
        (folder / name).write_text(f'#!/bin/sh\n{run}{module} "$@"\n', encoding="utf-8")
        (folder / name).chmod(0o755)
    return folder


def commands() -> list[str]:
    """The commands of the page for recipients, in their order."""
    blocks = re.findall(r"^```sh\n(.+?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    return [block.replace("/tmp/", "$HOME/") for block in blocks]


def run(command: str, folder: Path, key: Path, tools: Path) -> subprocess.CompletedProcess[str]:
    home = tools / "home"
    home.mkdir(exist_ok=True)
    environment = {"PATH": f"{tools}:{os.defpath}:/usr/bin:/bin", "HOME": str(home), "PUBLISHER_KEY": str(key)}
    script = f"set -euo pipefail\n{command}"
    return subprocess.run(
        ["bash", "-c", script], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )


def test_outsiders_do_not_have_this_project(signed: tuple[Path, Path], tools: Path) -> None:
    done = run("python -c 'import ft_pipeline'", *signed, tools)
    assert done.returncode != 0 and "is not installed here" in done.stderr


def test_every_command_of_the_page_succeeds(signed: tuple[Path, Path], tools: Path) -> None:
    assert len(commands()) >= 8
    for command in commands():
        done = run(command, *signed, tools)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def test_the_code_on_the_card_finds_a_row(signed: tuple[Path, Path], tools: Path, tmp_path: Path) -> None:
    folder, key = signed
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.+?)```", card, re.S) if "training_rows" in block]
    roles = ("user", "assistant")
    for turns, found in ((TALKS["train"][0], "in the list"), (TALKS["test"][0], "not in the list")):
        messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=True)]
        (tmp_path / "check.py").write_text(
            re.sub(r"^row = .*$", lambda _, row=messages: f"row = {{'messages': {row!r}}}", code, flags=re.M),
            encoding="utf-8",
        )
        done = run(f'python -c "$(cat {tmp_path}/check.py)"', folder, key, tools)
        assert done.stdout.strip() == found, done.stderr


@pytest.mark.parametrize("kind", ["raw_alpaca", "training_data", "comparison", "merged_model"])
def test_what_was_changed_in_the_store_is_not_signed_again(trained: Trained, tmp_path: Path, kind: str) -> None:
    root = Path(shutil.copytree(trained.root, tmp_path / "shop"))
    store = root / "data" / "store"
    if read_public_key(store) is None:
        replace_key(store, "first key")
    for path in (store / "artifacts" / kind).rglob("manifest.json"):
        manifest = read_manifest(path.parent)
        path.write_bytes(sealed_manifest({**manifest, "created": "2020-01-01T00:00:00.000+00:00"}))
    arguments = ["export", "lora", str(tmp_path / "out"), "--merged", "--project", str(root)]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UserError) and "is not as it was signed" in str(done.exception)
    assert not (tmp_path / "out").exists()


def verification(folder: Path, key: Path, tools: Path) -> str:
    """What `model_signing` says against a folder; empty if it accepts it."""
    command = next(command for command in commands() if command.startswith("model_signing verify"))
    done = run(command, folder, key, tools)
    assert done.returncode in (0, 1)
    return re.sub(r"[\\'\"]", "", done.stdout + done.stderr) if done.returncode else ""


def test_changed_added_and_removed_files_are_found(received: Path, signed: tuple[Path, Path], tools: Path) -> None:
    changed = ("model.safetensors", "README.md", "SHA256SUMS", "signing_key.pub")
    for name in changed:
        with (received / name).open("ab") as file:
            file.write(b"\n")
    (received / "extra.txt").write_text("more", encoding="utf-8")
    (received / "training_rows.txt").unlink()
    found = verification(received, signed[1], tools)
    for name in changed:
        assert f"Hash mismatch for {name}:" in found
    assert re.search(r"Extra files.*extra\.txt", found) and re.search(r"Missing files.*training_rows\.txt", found)


def test_files_of_git_are_ignored(received: Path, signed: tuple[Path, Path], tools: Path) -> None:
    (received / ".gitattributes").write_text("*.safetensors filter=lfs", encoding="utf-8")
    assert verification(received, signed[1], tools) == ""


def test_another_key_is_found_in_both_signatures(signed: tuple[Path, Path], tools: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pub"
    script = f"openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -out {other}"
    assert run(script, signed[0], signed[1], tools).returncode == 0
    assert verification(signed[0], other, tools)
    envelope = next(command for command in commands() if "DSSEv1" in command)
    assert run(envelope, signed[0], other, tools).returncode != 0


def test_a_changed_statement_is_found(received: Path, signed: tuple[Path, Path], tools: Path) -> None:
    envelope = next(command for command in commands() if "DSSEv1" in command)
    assert run(envelope, received, signed[1], tools).returncode == 0
    path = received / "provenance.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1'), encoding="utf-8")
    statement = json.loads(path.read_text(encoding="utf-8"))
    statement["predicate"]["buildDefinition"]["externalParameters"]["form"] = "another"
    path.write_text(json.dumps(statement), encoding="utf-8")
    assert run(envelope, received, signed[1], tools).returncode != 0
