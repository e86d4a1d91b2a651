"""The examples of docs/commands.md that change nothing, run word for word in a finished project."""

import re
import shlex

import pytest

from ft_pipeline.scaffold import example_folder
from ft_pipeline_tests.end_to_end.project import Finished, ft

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


@pytest.mark.parametrize("arguments", [words for words in examples() if words[0] in CHANGE_NOTHING], ids=" ".join)
def test_an_example_of_a_command_works(finished: Finished, arguments: list[str]) -> None:
    done = ft(finished.root, *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_each_of_these_commands_has_an_example() -> None:
    assert {words[0] for words in examples()} >= set(CHANGE_NOTHING)
