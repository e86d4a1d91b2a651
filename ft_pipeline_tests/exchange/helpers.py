"""Small projects of other trainers, and what an import makes of them."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.execution.metadata import NOT_RECORDED
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.project import Project
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.tables.accounts import FileAccount
from ft_pipeline.tables.validate import validate_file
from ft_pipeline_tests.graph import ASSETS

SUBJECTS = ("kettle", "lamp", "teapot", "desk", "rug", "clock", "towel", "shelf", "candle", "mirror", "pillow", "vase")
VERBS = ("return", "exchange", "repair", "clean", "assemble", "track", "insure", "wrap")


class Imported:
    """A project that `ft import` made, and its report."""

    def __init__(self, root: Path, report: dict[str, Any]) -> None:
        self.root, self.report = root, report
        self.project = Project(root)

    def experiment(self, name: str) -> ExperimentSettings:
        return self.project.experiment(name)

    def lines(self, kind: str) -> dict[str, str]:
        """Theirs → the effect (or ours, for what was taken over)."""
        shown = "ours" if kind == "taken_over" else "effect"
        return {line["theirs"]: line[shown] for line in self.report["lines"] if line["kind"] == kind}

    def effect(self, theirs: str) -> str:
        """The effect of the only line that begins with `theirs`, whatever its kind."""
        (line,) = [line for line in self.report["lines"] if line["theirs"].startswith(theirs)]
        return str(line["effect"])

    def sidecar(self, file: str) -> dict[str, Any]:
        return dict(yaml.safe_load((self.root / "data" / "raw" / file).read_text(encoding="utf-8")))

    def rows(self, file: str) -> list[Any]:
        text = (self.root / "data" / "raw" / file).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def account(self, file: str) -> FileAccount:
        """What `ft validate` reports about a raw file. `ft run` reads it for its table with the same code."""
        path = self.root / "data" / "raw" / file
        return validate_file(path, path.parent.name, data_dir=path.parent).account


def materialize(root: Path, *names: str) -> dg.ExecuteInProcessResult:
    """Materialize assets of a project in a Dagster instance. The metadata of each is recorded."""
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("FT_PROJECT", str(root))
        assets = [ASSETS[name] for name in names]
        result = dg.materialize(assets, instance=instance, resources=RESOURCES, raise_on_error=False)
    for name in names:
        (event,) = result.asset_materializations_for_node(name)
        assert NOT_RECORDED not in event.metadata, event.metadata[NOT_RECORDED]
    return result


def run_import(kind: str, *paths: Path, into: Path, **options: str | bool) -> Imported:
    """Run `ft import KIND PATHS --into …`. UserError as the command raises it."""
    flags = [part for name, value in options.items() for part in _flag(name, value)]
    result = CliRunner().invoke(app, ["import", kind, *map(str, paths), "--into", str(into), "--json", *flags])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code:
        raise UserError(result.output)
    return Imported(into, json.loads(result.stdout))


def _flag(name: str, value: str | bool) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    return [flag] if value is True else [flag, str(value)]


def write_json(path: Path, rows: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_yaml(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


def question(number: int) -> str:
    """A question that is like no other one."""
    subject, verb = SUBJECTS[number % len(SUBJECTS)], VERBS[number // len(SUBJECTS) % len(VERBS)]
    return f"How do I {verb} my {subject} {'again ' * (number // 96)}please?"


def answer(number: int) -> str:
    subject, verb = SUBJECTS[number % len(SUBJECTS)], VERBS[number // len(SUBJECTS) % len(VERBS)]
    return f"Take the {subject} to the counter. There we {verb} it within {number % 9 + 2} days."
