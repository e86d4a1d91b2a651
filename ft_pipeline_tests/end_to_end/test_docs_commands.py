"""The examples of docs/commands.md that change nothing, and the commands of SKILL.md, run word for word."""

import re
import shlex
from pathlib import Path

import pytest

from ft_pipeline.scaffold import example_folder
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, ft_here

pytestmark = [pytest.mark.slow, pytest.mark.long]

CHANGE_NOTHING = (
    "audit",
    "champion",
    "compare",
    "doctor",
    "experiments",
    "exposures",
    "gc",
    "inspect",
    "memory",
    "recommend",
    "sql",
    "status",
    "upgrade",
)


def examples() -> list[list[str]]:
    text = (example_folder() / "docs" / "commands.md").read_text(encoding="utf-8")
    return [shlex.split(line) for line in re.findall(r"^```console\nft (.*)\n```$", text, re.MULTILINE)]


@pytest.fixture(scope="module")
def shop(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project in which a person released a model: so few test rows decide nothing."""
    root = copy_of(finished, tmp_path_factory.mktemp("shop"))
    (done,) = ft_here(root, ("promote", "qlora/merged", "--force", "--reason", "a first model"))
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("arguments", [words for words in examples() if words[0] in CHANGE_NOTHING], ids=" ".join)
def test_an_example_of_a_command_works(shop: Path, arguments: list[str]) -> None:
    (done,) = ft_here(shop, tuple(arguments))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_each_of_these_commands_has_an_example() -> None:
    assert {words[0] for words in examples()} >= set(CHANGE_NOTHING)


def test_the_commands_of_the_skill_work_in_their_order(shop: Path, tmp_path: Path) -> None:
    """Those before `ft run` in a new project, those after it in a finished one."""
    text = (example_folder() / "SKILL.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("ft ")]
    names = [words[0] for words in commands]
    assert names == ["init", "doctor", "validate", "plan", "run", "compare", "recommend"]
    folder = tmp_path / commands[0][1]
    for words in commands[:4]:
        words = ["init", str(folder), *words[2:]] if words[0] == "init" else words
        (done,) = ft_here(folder if folder.exists() else tmp_path, tuple(words))
        assert done.returncode == 0, (words, done.stderr[-2000:])
    for words in commands[5:]:
        (done,) = ft_here(shop, tuple(words))
        assert done.returncode == 0 and done.stdout.strip(), done.stderr[-2000:]
