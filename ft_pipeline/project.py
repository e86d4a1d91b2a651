"""A project folder: project.yaml, data/, experiments/, dagster_home/."""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.project import NAME_PATTERN, ProjectSettings
from ft_pipeline.settings.sweep import sweep_members, sweep_owner
from ft_pipeline.settings.yaml_file import read_settings


@dataclass(frozen=True)
class Project:
    """The paths and settings of a project. All of them follow from its folder."""

    root: Path

    @classmethod
    def find(cls, root: str | Path | None = None) -> "Project":
        """The project in `root`, else in `FT_PROJECT`, else in the current folder. UserError without project.yaml."""
        folder = Path(root or os.environ.get("FT_PROJECT") or ".").resolve()
        if not (folder / "project.yaml").is_file():
            raise UserError(
                f"{folder} has no project.yaml. Name a project folder with --project, or create one: ft init DIR"
            )
        return cls(folder)

    @cached_property
    def settings(self) -> ProjectSettings:
        return read_settings(self.root / "project.yaml", ProjectSettings)

    @property
    def store(self) -> Path:
        return self.root / "data" / "store"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster_home"

    def raw(self, data_format: str) -> Path:
        return self.root / "data" / "raw" / data_format

    def experiment_names(self) -> list[str]:
        """All partition keys, sorted: each experiment, broken ones included, and its sweep members
        (settings/sweep.py)."""
        return sorted(name for stem in self._stems() for name in self.series(stem))

    def series(self, name: str) -> list[str]:
        """The experiment and its sweep members; only the experiment if its YAML is broken or missing."""
        try:
            return [name, *sweep_members(name, self.experiment(name))]
        except UserError:
            return [name]

    def experiment(self, name: str) -> ExperimentSettings:
        """The settings of one experiment or sweep member. UserError if it does not exist, or its YAML is broken."""
        owner = sweep_owner(name)
        if owner in self._stems():
            settings = read_settings(self.root / "experiments" / f"{owner}.yaml", ExperimentSettings)
            experiments = {owner: settings, **sweep_members(owner, settings)}
            if name in experiments:
                return experiments[name]
        raise UserError(f"there is no experiment {name!r}; known: {', '.join(self.experiment_names()) or 'none'}")

    def misnamed(self) -> dict[str, str]:
        """File name → what is wrong with it, for YAML files that are not experiments because of their names."""
        wrong = "not a valid name. Rename the file to NAME.yaml; NAME has 1 to 63 lowercase letters, digits, - or _"
        named = self._stems()
        return {
            path.name: f"{path.name}: {wrong}"
            for path in sorted((self.root / "experiments").glob("*.y*ml"))
            if path.suffix == ".yml" or (path.suffix == ".yaml" and path.stem not in named)
        }

    def _stems(self) -> list[str]:
        """Names of the files experiments/*.yaml, without suffix, that can be names of experiments."""
        return [path.stem for path in (self.root / "experiments").glob("*.yaml") if re.match(NAME_PATTERN, path.stem)]

    def stages(self, name: str) -> list[tuple[str, ExperimentSettings]]:
        """(name, settings) of the experiments that it starts from, in training order, then of the experiment itself.

        UserError if one is missing or broken, if `start_from` forms a cycle, or if their base models differ.
        """
        chain = [(name, self.experiment(name))]
        while (before := chain[0][1].start_from) is not None:
            if before in (names := [phase for phase, _ in chain]):
                cycle = " → ".join([before, *names])
                raise UserError(f"{chain[0][0]}.yaml: start_from forms a cycle: {cycle}. Remove one of its links.")
            try:
                chain.insert(0, (before, self.experiment(before)))
            except UserError as error:
                raise UserError(f"{chain[0][0]}.yaml: start_from: {error}") from error
        last = chain[-1][1]
        for phase, settings in chain[:-1]:
            if settings.technique == "prompt_tuning":
                raise UserError(
                    f"{name}.yaml: start_from: {phase} trains only a prompt, so there is no model to continue from. "
                    "Choose another experiment."
                )
        for phase, settings in chain:
            if (settings.base_model, settings.revision) != (last.base_model, last.revision):
                raise UserError(
                    f"{name}.yaml: base_model is {last.base_model!r}, but {phase}, which it starts from, has "
                    f"{settings.base_model!r}. Use the same base_model and revision."
                )
        return chain

    def inside(self, relative: str) -> Path:
        """A path from the settings, resolved. UserError if it is outside the project folder or does not exist."""
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root):
            raise UserError(f"{relative!r} is outside the project folder. Copy the file into {self.root / 'data'}.")
        if not path.exists():
            raise UserError(f"{relative!r}, named in project.yaml, does not exist. Create it or correct the path.")
        return path


def records_elsewhere(dagster_home: Path) -> bool:
    """Whether dagster.yaml sets a separate database (PostgreSQL) for Dagster's records.

    True if dagster.yaml cannot be read, since it may set one.
    """
    settings = dagster_home / "dagster.yaml"
    try:
        content = yaml.safe_load(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return isinstance(content, dict) and "storage" in content


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that the settings name. UserError for the first line that is not an object."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path.name}: line {number} is not JSON ({error}). Correct or remove it.") from None
        if not isinstance(row, dict):
            raise UserError(f"{path.name}: line {number} is not a JSON object. Write one object in braces per line.")
        rows.append(row)
    return rows
