"""A project folder: project.yaml, data/, experiments/, dagster_home/.

The models of its settings are imported when settings are read, since `ft status` and the like need only paths.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from ft_pipeline.errors import UserError
from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.settings.secret_shapes import may_contain_secret

if TYPE_CHECKING:
    from ft_pipeline.settings.experiment import ExperimentSettings
    from ft_pipeline.settings.project import ProjectSettings


_SERVED: ContextVar[Path | None] = ContextVar("served", default=None)


def served_root() -> Path | None:
    """Return the project folder for which definitions are made or run; None: the one of the environment."""
    return _SERVED.get()


@contextlib.contextmanager
def serving(root: Path | None) -> Iterator[None]:
    """Let `Project.find` return the project in `root`: a code location may have several (component.py)."""
    token = _SERVED.set(root)
    try:
        yield
    finally:
        _SERVED.reset(token)


def project_folder() -> Path:
    """Return the folder of the project that is served, else that in `FT_PROJECT`, else the current folder."""
    return Path(served_root() or os.environ.get("FT_PROJECT") or ".")


@dataclass(frozen=True)
class Project:
    """The paths and settings of a project. All of them follow from its folder."""

    root: Path
    despite_secrets: bool = False
    """Whether settings that contain a secret are read, for what an operator must be able to do at any time."""

    @classmethod
    def find(cls, root: str | Path | None = None) -> "Project":
        """Return the project in `root`, else the one that is served, else in `FT_PROJECT`, else in the current folder.

        UserError if the folder has no project.yaml.
        """
        folder = Path(root or project_folder()).resolve()
        if not (folder / "project.yaml").is_file():
            raise UserError(
                f"{folder} has no project.yaml. Name a project folder with --project, or create one: ft init DIR"
            )
        return cls(folder)

    @cached_property
    def settings(self) -> "ProjectSettings":
        """The settings in project.yaml. UserError if it is broken."""
        from ft_pipeline.settings.project import ProjectSettings
        from ft_pipeline.settings.yaml_file import read_settings

        return read_settings(self.root / "project.yaml", ProjectSettings, despite_secrets=self.despite_secrets)

    def refuse_secrets(self) -> None:
        """Raise UserError if project.yaml or an experiment contains a secret, also if nothing reads that setting."""
        for path in [self.root / "project.yaml", *sorted((self.root / "experiments").glob("*.yaml"))]:
            if path.is_file() and may_contain_secret(path.read_text(encoding="utf-8", errors="replace")):
                from ft_pipeline.settings.yaml_file import refuse_secret

                refuse_secret(path)

    @property
    def store(self) -> Path:
        """The folder of the store."""
        return self.root / "data" / "store"

    @property
    def dagster_home(self) -> Path:
        return self.root / "dagster_home"

    def raw_folder(self, data_format: str) -> Path:
        """Return the folder of the user's raw files of a format."""
        return self.root / "data" / "raw" / data_format

    def experiment_names(self) -> list[str]:
        """Return all partition keys, sorted: each experiment, broken ones included, and its sweep members
        (settings/sweep.py)."""
        return sorted(name for owner in self._owner_names() for name in self.with_sweep_members(owner))

    def with_sweep_members(self, name: str) -> list[str]:
        """Return the experiment and its sweep members; only the experiment if its YAML is broken or missing."""
        from ft_pipeline.settings.sweep import sweep_members

        try:
            return [name, *sweep_members(name, self.experiment(name))]
        except UserError:
            return [name]

    def experiment(self, name: str) -> "ExperimentSettings":
        """Return the settings of an experiment or sweep member. UserError if it is missing or its YAML is broken."""
        from ft_pipeline.settings.experiment import ExperimentSettings
        from ft_pipeline.settings.sweep import sweep_members, sweep_owner
        from ft_pipeline.settings.yaml_file import read_settings

        owner = sweep_owner(name)
        if self._has_file(owner):
            path = self.root / "experiments" / f"{owner}.yaml"
            settings = read_settings(path, ExperimentSettings, despite_secrets=self.despite_secrets)
            experiments = {owner: settings} if name == owner else sweep_members(owner, settings)
            if name in experiments:
                return experiments[name]
        raise UserError(f"there is no experiment {name!r}; known: {', '.join(self.experiment_names()) or 'none'}")

    def readable_experiments(self) -> "Iterator[ExperimentSettings]":
        """Yield the settings of all experiments and sweep members whose YAML is not broken."""
        for name in self.experiment_names():
            with contextlib.suppress(UserError):
                yield self.experiment(name)

    def defines(self, name: str) -> bool:
        """Return whether a YAML defines the experiment. A broken YAML defines every sweep member that it may have."""
        from ft_pipeline.settings.sweep import sweep_members, sweep_owner

        owner = sweep_owner(name)
        if not self._has_file(owner):
            return False
        try:
            return name == owner or name in sweep_members(owner, self.experiment(owner))
        except UserError:
            return True

    def misnamed_files(self) -> dict[str, str]:
        """Return file name → message, for YAML files that are not experiments because of their names."""
        problem = "not a valid name. Rename the file to NAME.yaml; NAME has 1 to 63 lowercase letters, digits, - or _"
        owners = self._owner_names()
        return {
            path.name: f"{path.name}: {problem}"
            for path in sorted((self.root / "experiments").glob("*.y*ml"))
            if path.suffix == ".yml" or (path.suffix == ".yaml" and path.stem not in owners)
        }

    def _owner_names(self) -> list[str]:
        """Return the names of experiments without their sweep members: one for each file experiments/NAME.yaml."""
        from ft_pipeline.settings.project import NAME_PATTERN

        return [path.stem for path in (self.root / "experiments").glob("*.yaml") if re.match(NAME_PATTERN, path.stem)]

    def _has_file(self, owner: str) -> bool:
        """Return whether an experiment has a file. For one name this is faster than `_owner_names`."""
        from ft_pipeline.settings.project import NAME_PATTERN

        return bool(re.match(NAME_PATTERN, owner)) and (self.root / "experiments" / f"{owner}.yaml").exists()

    def training_chain(self, name: str) -> "list[tuple[str, ExperimentSettings]]":
        """Return (name, settings) of the experiments that an experiment starts from, in training order, and of itself.

        UserError if one is missing or broken, if `start_from` forms a cycle, or if their base models differ.
        """
        chain = [(name, self.experiment(name))]
        while (previous := chain[0][1].start_from) is not None:
            names = [phase for phase, _ in chain]
            if previous in names:
                cycle = " → ".join([previous, *names])
                raise UserError(f"{names[0]}.yaml: start_from forms a cycle: {cycle}. Remove one of its links.")
            try:
                chain.insert(0, (previous, self.experiment(previous)))
            except UserError as error:
                raise UserError(f"{names[0]}.yaml: start_from: {error}") from error
        _require_one_model(chain)
        return chain

    def resolve_path(self, relative: str) -> Path:
        """Return the absolute path of a file or folder that the settings name.

        UserError if it is outside the project folder or does not exist.
        """
        path = (self.root / relative).resolve()
        if not path.is_relative_to(self.root):
            raise UserError(f"{relative!r} is outside the project folder. Copy the file into {self.root / 'data'}.")
        if not path.exists():
            raise UserError(f"{relative!r}, named in project.yaml, does not exist. Create it or correct the path.")
        return path


class ProjectSnapshot(Project):
    """A project whose experiments are read once: for a plan, which asks for each of them at each step."""

    @cached_property
    def _names(self) -> list[str]:
        return super().experiment_names()

    @cached_property
    def _read(self) -> "dict[str, ExperimentSettings | UserError]":
        return {}

    def experiment_names(self) -> list[str]:
        return list(self._names)

    def experiment(self, name: str) -> "ExperimentSettings":
        if name not in self._read:
            try:
                self._read[name] = super().experiment(name)
            except UserError as error:
                self._read[name] = error
        settings = self._read[name]
        if isinstance(settings, UserError):
            raise UserError(str(settings))
        return settings


def _require_one_model(chain: "list[tuple[str, ExperimentSettings]]") -> None:
    """Raise UserError if the last phase of a chain cannot continue from the model of an earlier phase."""
    last_name, last = chain[-1]
    for name, settings in chain[:-1]:
        if settings.technique == "prompt_tuning":
            raise UserError(
                f"{last_name}.yaml: start_from: {name} trains only a prompt, so there is no model to continue from. "
                "Choose another experiment."
            )
    for name, settings in chain:
        if (settings.base_model, settings.revision) != (last.base_model, last.revision):
            raise UserError(
                f"{last_name}.yaml: base_model is {last.base_model!r}, but {name}, which it starts from, has "
                f"{settings.base_model!r}. Use the same base_model and revision."
            )
        if settings.chat_template_kwargs != last.chat_template_kwargs:
            raise UserError(
                f"{last_name}.yaml: chat_template_kwargs differ from those of {name}, which it starts from. Use the "
                "same in both."
            )


def has_separate_database(dagster_home: Path) -> bool:
    """Return whether dagster.yaml sets a separate database (PostgreSQL) for Dagster's records.

    True if dagster.yaml cannot be read, since it may set one.
    """
    settings = dagster_home / "dagster.yaml"
    try:
        content = load_bounded(settings.read_text(encoding="utf-8")) if settings.is_file() else None
    except (OSError, ValueError, yaml.YAMLError):
        return True
    return isinstance(content, dict) and "storage" in content


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSONL file that the settings name. UserError for the first line that is not an object."""
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
