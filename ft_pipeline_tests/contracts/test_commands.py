"""What every command of `ft` promises: help, a page, one JSON document, and one sentence for a mistake."""

import contextlib
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.core import TyperCommand, TyperGroup

from ft_pipeline.cli import main
from ft_pipeline.cli.app import COMMANDS, HIDDEN, load_command, summary_of
from ft_pipeline.cli.common import REFUSED
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.forked_process import ForkedProcess
from ft_pipeline_tests.tables.helpers import write_jsonl

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "commands.md").read_text(encoding="utf-8")
PACKED = Path(__file__).parents[1] / "fixtures" / "store_a73cd80.tar.zst"


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Ft = Callable[..., Said]


def members(name: str, command: Any) -> Iterator[tuple[str, TyperCommand]]:
    """(words, command) of a command, or of each command of a group."""
    if isinstance(command, TyperGroup):
        for member, each in command.commands.items():
            yield from members(f"{name} {member}", each)
    else:
        yield name, command


LEAVES: dict[str, TyperCommand] = {
    words: command for name in COMMANDS if name not in HIDDEN for words, command in members(name, load_command(name))
}


def has(words: str, option: str) -> bool:
    """Whether a command has an option."""
    return any(option in param.opts for param in LEAVES[words].params)


class Given(NamedTuple):
    """How a command is called. {folder}: an empty folder, {rows}: a file of rows, {raw}: a raw file of the project."""

    arguments: str = ""
    before: str | None = None
    """A command that makes what it needs."""
    prints_here: bool = True
    """Whether its JSON document is asked for here, on a finished project."""


ELSEWHERE = False
MATERIAL = {
    "init": Given("{folder}/shop"),
    "run": Given("--plan"),
    "plan": Given("lora"),
    "status": Given(),
    "experiments": Given(),
    "compare": Given(),
    "recommend": Given(),
    "champion": Given(),
    "exposures": Given(),
    "report": Given(),
    "upgrade": Given("--plan"),
    "inspect": Given("text"),
    "validate": Given("{rows} --format alpaca"),
    "sql": Given("'select 1 as one'"),
    "audit": Given("champion"),
    "export": Given("lora {folder}/model", prints_here=ELSEWHERE),  # test_exports.py
    "export-data": Given("{folder}/rows.jsonl --format openai"),
    "backup": Given("{folder}/backup"),
    "restore": Given("{folder}/first {folder}/restored", before="backup {folder}/first"),
    "store push": Given("{folder}/copy --yes"),
    "store pull": Given("{folder}/pushed", before="store push {folder}/pushed --yes"),
    "rate": Given(),
    "approve": Given(),
    "gc": Given("--dry-run"),
    "keys new": Given("--reason test"),
    "keys accept": Given("--reason test", before="keys new --reason test"),
    "anchor": Given("{folder}/anchor", before="keys new --reason test"),
    "erase": Given("{raw} 3 --reason asked"),
    "logs": Given("x"),
    "cancel": Given("x"),
    "ui": Given(),
    "serve": Given("lora"),
    "memory": Given("-e lora", prints_here=ELSEWHERE),  # the old project names its model by a relative path
    "doctor": Given(prints_here=ELSEWHERE),  # it measures this machine
    "sweep": Given("lora --over training.seed=1,2", prints_here=ELSEWHERE),  # it trains
    "worth": Given(prints_here=ELSEWHERE),  # the answers of the old project are no labels
    "relabel": Given(prints_here=ELSEWHERE),  # as worth
    "prompt": Given("lora", prints_here=ELSEWHERE),  # it searches
    "promote": Given("lora", prints_here=ELSEWHERE),  # it makes the release again, as `rollback` does
    "rollback": Given(prints_here=ELSEWHERE),
    "push": Given("lora s3://bucket/x --yes", prints_here=ELSEWHERE),  # it needs a server
    "import llamafactory": Given("{folder} --into {folder}/new", prints_here=ELSEWHERE),  # they need files of others
    "import axolotl": Given("{folder} --into {folder}/new", prints_here=ELSEWHERE),
    "import openai": Given("{rows} --into {folder}/new", prints_here=ELSEWHERE),
    "import traces": Given("{rows} --into {folder}/new", prints_here=ELSEWHERE),
    "inbox show": Given("x", prints_here=ELSEWHERE),  # the old project has no inbox
    "inbox accept": Given("x", prints_here=ELSEWHERE),
    "inbox reject": Given("x", prints_here=ELSEWHERE),
}
"""By command. Those that change the project come last."""


class Place(NamedTuple):
    """Where the commands run."""

    root: Path
    folder: Path

    def words(self, text: str) -> list[str]:
        """The words of a command."""
        raw = next(
            path for path in sorted((self.root / "data" / "raw" / "alpaca").iterdir()) if path.suffix == ".jsonl"
        )
        return shlex.split(text.format(folder=self.folder, rows=self.folder / "a.jsonl", raw=raw))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project."""
    return unpack(PACKED, tmp_path_factory.mktemp("old") / "shop")


@pytest.fixture
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("folder")
    write_jsonl(folder / "a.jsonl", GOOD["alpaca"])
    return Place(finished, folder)


@pytest.fixture
def ft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Ft:
    """`ft WORDS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what a command sets is undone
        monkeypatch.delenv(name)

    def run(*arguments: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["ft", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            main()
        except SystemExit as ending:
            code = ending.code or 0
        return Said(code, *capsys.readouterr())

    return run


def test_every_command_has_material() -> None:
    assert set(MATERIAL) == set(LEAVES), "add how it is called to MATERIAL in contracts/test_commands.py"


NAMES = [*LEAVES, *(name for name in COMMANDS if name not in LEAVES)]


WAYS: tuple[Callable[[str], tuple[str, ...]], ...] = (
    lambda name: (*name.split(), "--help"),
    lambda name: (*name.split(), "-h"),
    lambda name: ("help", *name.split()),
)
ASKED_IN_ALL_WAYS = ("run", "store", "store push")
"""A command, a group and a command of it. Of the others, this is long."""


@pytest.fixture(scope="module")
def helped(tmp_path_factory: pytest.TempPathFactory) -> Ft:
    """The help of every command, and of a few in all ways, in a process of its own."""
    asked = [("-h",), *(WAYS[0](name) for name in NAMES), *(WAYS[1](name) for name in HIDDEN)]
    return help_of([*asked, *(way(name) for name in ASKED_IN_ALL_WAYS for way in WAYS[1:])], tmp_path_factory)


IN_TURN = "ft_pipeline_tests.commands_in_turn"


def help_of(asked: list[tuple[str, ...]], folders: pytest.TempPathFactory) -> Ft:
    """What `ft` prints for each of these words, all in one process."""
    with contextlib.chdir(folders.mktemp("empty")):
        output, errors = ForkedProcess(IN_TURN, "--json", *map(shlex.join, asked)).communicate()
    assert errors == ""
    found = {words: Said(*said) for words, said in zip(asked, json.loads(output), strict=True)}
    return lambda *words: found[words]


@pytest.mark.parametrize("words", NAMES)
def test_its_help_is_shown(words: str, helped: Ft) -> None:
    ft = helped
    if words in HIDDEN:
        assert ft(words, "-h").code == 0 and f"`{words}`" not in ft("-h").out
        return
    said = ft(*WAYS[0](words))
    assert said.code == 0 and said.err == ""
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said.out).split())
    if words in COMMANDS:
        assert summary_of(COMMANDS[words]) in shown.replace("- ", "-")
    assert "Usage:" in shown and all(max(param.opts, key=len) in said.out for param in options_of(words))


@pytest.mark.parametrize("words", ASKED_IN_ALL_WAYS)
def test_its_help_is_shown_however_it_is_asked_for(words: str, helped: Ft) -> None:
    assert len({helped(*way(words)) for way in WAYS}) == 1


@pytest.mark.long
def test_every_help_is_shown_however_it_is_asked_for(tmp_path_factory: pytest.TempPathFactory) -> None:
    names = [name for name in NAMES if name not in HIDDEN]
    ft = help_of([way(name) for name in names for way in WAYS], tmp_path_factory)
    assert [name for name in names if len({ft(*way(name)) for way in WAYS}) > 1] == []


def options_of(words: str) -> list[Any]:
    """The options of a command; none for a group."""
    return [param for param in LEAVES[words].params if param.param_type_name == "option"] if words in LEAVES else []


@pytest.mark.parametrize("words", LEAVES)
def test_the_page_of_commands_has_it_with_its_options(words: str) -> None:
    section = re.search(rf"^##+ ft {words}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert section, "run `make docs`"
    for param in options_of(words):
        assert param.name == "help" or any(f"`{name}`" in section[1] for name in param.opts), param.opts


@pytest.mark.parametrize("words", LEAVES)
def test_an_unknown_option_is_refused_in_one_sentence(words: str, ft: Ft, place: Place) -> None:
    said = ft(*words.split(), *place.words(MATERIAL[words].arguments), "--no-such-option")
    assert (said.code, said.out) == (REFUSED, "")
    assert "No such option: --no-such-option" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("words", [words for words in LEAVES if has(words, "--project")])
def test_outside_a_project_it_says_so_in_one_line(words: str, ft: Ft, place: Place, tmp_path: Path) -> None:
    said = ft(*words.split(), *place.words(MATERIAL[words].arguments))
    assert (said.code, said.out) == (REFUSED, "")
    assert said.err.startswith("ft: ") and "has no project.yaml" in said.err and "ft init DIR" in said.err
    assert said.err.count(". ") <= 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [words for words, given in MATERIAL.items() if has(words, "--json") and given[2]])
def test_its_json_is_one_document_and_nothing_else(words: str, ft: Ft, place: Place) -> None:
    given, where = MATERIAL[words], ["--project", str(place.root)]
    if given.before:
        assert ft(*place.words(given.before), *where).code == 0
    said = ft(*words.split(), *place.words(given.arguments), *(where if has(words, "--project") else []), "--json")
    assert said.code == 0, said.err
    assert isinstance(json.loads(said.out), dict) or words == "approve"  # null: no request is open
