"""`ft import llamafactory`: dataset_info.json and training YAMLs → the plan of a project."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.llamafactory import draft_experiment, evaluation_sets, is_training
from ft_pipeline.exchange.llamafactory_data import KNOWN_KEYS, Info, data_set
from ft_pipeline.exchange.mixed_data import report_mixed
from ft_pipeline.exchange.new_project import Plan
from ft_pipeline.exchange.remote_data import Remote
from ft_pipeline.exchange.settings_files import add_experiment, find_settings_files, report_other_files
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, read_json

INFO = "dataset_info.json"
STAGES = {"sft": "sft", "dpo": "dpo", "kto": "kto", "cpt": "pt"}
"""Our objective → their stage."""
READ_COLUMNS = frozenset(
    {"prompt", "query", "response", "history", "messages", "system", "tools", "chosen", "rejected", "kto_tag"}
)
_PARENTS = 4
"""Number of folders above a YAML in which its dataset_info.json is searched."""


@dataclass
class _Use:
    """How a data set is used by the experiments of one stage."""

    name: str
    stage: str
    source: str
    folder: str
    """`dataset_dir` of the first YAML that uses it."""
    file: Path
    is_test: bool
    limits: list[int | None] = field(default_factory=list)
    """`max_samples` of each YAML that uses it."""


def plan_llamafactory(path: Path, extra: tuple[str, ...]) -> Plan:
    """Return what a LLaMA-Factory project contains.

    path: a folder with dataset_info.json and YAMLs, or one YAML. extra: names of data sets to take over in addition.
    UserError if there is no training YAML.
    """
    plan = Plan("LLaMA-Factory")
    root = path if path.is_dir() else path.resolve().parent
    uses: dict[tuple[str, str, bool], _Use] = {}
    taken: set[str] = set()
    others: list[str] = []
    for file, document in find_settings_files(path, plan.report):
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        if not is_training(document):
            others.append(name)
            if isinstance(document, dict) and document.get("export_dir") and document.get("adapter_name_or_path"):
                plan.merged[str(document["export_dir"])] = str(document["adapter_name_or_path"])
            continue
        theirs = TheirSettings(document, name)
        folder = str(theirs.take("dataset_dir", "data"))
        limit = theirs.take("max_samples")
        tests = evaluation_sets(theirs)
        draft = add_experiment(plan, file, theirs, taken, lambda draft, theirs: draft_experiment(draft, theirs, root))
        if draft is None:
            continue
        stage = STAGES[draft.settings["objective"]]
        for data_name, is_test in [*((item, False) for item in draft.data_sets), *((item, True) for item in tests)]:
            use = uses.setdefault((data_name, stage, is_test), _Use(data_name, stage, name, folder, file, is_test))
            use.limits.append(limit if isinstance(limit, int) and limit > 0 else None)
    report_other_files(plan, others)
    if not plan.drafts and not plan.report.lines:
        raise UserError(f"{path} has no YAML of a training. Name the folder that has dataset_info.json and YAMLs.")
    _DataSets(plan, path, root).add(uses, extra)
    report_mixed(plan)
    return plan


class _DataSets:
    """The data sets of dataset_info.json that the experiments use."""

    def __init__(self, plan: Plan, path: Path, root: Path) -> None:
        self._plan, self._path, self._root = plan, path, root
        self._cache: dict[Path, dict[str, Any]] = {}

    def add(self, uses: dict[tuple[str, str, bool], _Use], extra: tuple[str, ...]) -> None:
        """Add the used data sets to the plan, and report those that no experiment uses."""
        trained = {(use.name, use.stage) for use in uses.values() if not use.is_test}
        for use in uses.values():
            if use.is_test and (use.name, use.stage) in trained:
                effect = "It is a training file too, so it is not kept for the test."
                self._plan.report.add("changed", use.source, f"eval_dataset: {use.name}", "training rows", effect)
                continue
            self._add_one(use)
            if use.is_test:
                effect = (
                    "Theirs measures the loss on it during training; ours keeps it for the test, and takes validation "
                    "rows from the training rows."
                )
                self._plan.report.add("changed", use.source, f"eval_dataset: {use.name}", "split: test", effect)
        self._add_extra(uses, extra)

    def _add_one(self, use: _Use) -> None:
        report, line = self._plan.report, f"data set {use.name}"
        try:
            info = self._info(use)
            if info is None:
                self._plan.data_sets.append(_online(use))
                return
            data = data_set(info, use.stage, is_test=use.is_test)
        except NotTakenOver as error:
            report.add("no_counterpart", use.source, line, "", str(error))
            return
        if data.paths:
            _report_entry(self._plan, info)
        limits = [limit for limit in use.limits if limit is not None]
        if limits and len(limits) == len(use.limits):
            data.limit = min(max(limits), data.limit or max(limits))
            report.add("taken_over", use.source, f"max_samples: {max(limits)}", "at most as many rows of each data set")
        elif limits:
            effect = "Another experiment uses all rows of the data set, and both share them here."
            report.add("no_counterpart", use.source, f"max_samples: {max(limits)}", "", effect)
        self._plan.data_sets.append(data)

    def _add_extra(self, uses: dict[tuple[str, str, bool], _Use], extra: tuple[str, ...]) -> None:
        """Add the data sets that the user names, and list the local ones that nothing uses."""
        used = {use.name for use in uses.values()}
        file = self._path if self._path.is_file() else self._root / "any.yaml"
        folder = next((use.folder for use in uses.values()), "data")
        where = self._folder(folder, file)
        entries = self._read(where) if where is not None else {}
        for name in extra:
            if name not in entries:
                raise UserError(
                    f"{INFO} has no data set {name!r}. Name one of {', '.join(sorted(entries)[:20]) or 'none'}."
                )
            if name not in used:
                self._add_one(_Use(name, _stage_of(entries[name]), INFO, folder, file, False))
        unused = [
            name
            for name, entry in entries.items()
            if name not in used and name not in extra and isinstance(entry, dict) and where is not None
            if isinstance(entry.get("file_name"), str) and (where / entry["file_name"]).exists()
        ]
        if unused:
            effect = "No experiment uses these data sets. Take one over with --dataset NAME."
            self._plan.report.add("no_counterpart", INFO, ", ".join(unused), "", effect)

    def _info(self, use: _Use) -> Info | None:
        """Return the entry of a data set; None if it is only on a hub. NotTakenOver if there is no entry."""
        if use.folder == "ONLINE":
            return None
        if use.folder.startswith("REMOTE:"):
            raise NotTakenOver(f"Its {INFO} is on the hub ({use.folder[7:]}). Download it and import again.")
        folder = self._folder(use.folder, use.file)
        if folder is None:
            raise NotTakenOver(
                f"There is no {INFO} for it (dataset_dir is {use.folder}). Put it there and import again."
            )
        entries = self._read(folder)
        if not isinstance(entries.get(use.name), dict):
            raise NotTakenOver(f"{INFO} has no entry for it. Correct the name in the YAML, or add the entry.")
        root = self._root if self._path.is_dir() else folder
        return Info(use.name, entries[use.name], folder, root, use.source)

    def _folder(self, name: str, file: Path) -> Path | None:
        """Return the folder of the dataset_info.json that a YAML reads."""
        above = [self._root] if self._path.is_dir() else [file.parent, *list(file.resolve().parents)[:_PARENTS]]
        for folder in (*(base / name for base in above), *above, file.parent / name, file.parent):
            if (folder / INFO).is_file():
                return folder
        found = sorted(self._root.rglob(INFO), key=lambda path: len(path.parts)) if self._path.is_dir() else []
        return found[0].parent if found else None

    def _read(self, folder: Path) -> dict[str, Any]:
        if folder not in self._cache:
            content = read_json(folder / INFO)
            if not isinstance(content, dict):
                raise UserError(f"{INFO} is not an object of data sets. Write `{{NAME: {{file_name: …}}}}`.")
            self._cache[folder] = content
        return self._cache[folder]


def _stage_of(entry: Any) -> str:
    """Return the stage that reads a data set, as its entry says it."""
    columns = entry.get("columns") if isinstance(entry, dict) else None
    if isinstance(columns, dict) and "prompt" in columns and not {"response", "chosen"} & columns.keys():
        return "pt"
    if isinstance(columns, dict) and columns.get("kto_tag"):
        return "kto"
    return "dpo" if isinstance(entry, dict) and entry.get("ranking") else "sft"


def _online(use: _Use) -> DataSet:
    """Return a data set that is only named, because `dataset_dir` says that it is on the hub."""
    formats = {"sft": "alpaca", "dpo": "preferences", "kto": "feedback", "pt": "text"}
    remote = Remote(f"hf://datasets/{use.name}")
    return DataSet(use.name.rpartition("/")[2], use.source, formats[use.stage], remote=remote)


def _report_entry(plan: Plan, info: Info) -> None:
    """Report the keys of an entry that have no counterpart."""
    for key in info.entry:
        if key not in KNOWN_KEYS:
            plan.report.add("no_counterpart", INFO, f"{info.name}: {key}", "", "This key is unknown to the import.")
    for role, column in info.columns.items():
        if role not in READ_COLUMNS:
            plan.report.add(
                "no_counterpart", INFO, f"{info.name}: {role} {column}", "", "This column is not read here."
            )
    if info.entry.get("formatting", "alpaca") == "alpaca" and not info.entry.get("ranking"):
        if "query" in info.columns and "prompt" in info.columns and "kto_tag" not in info.columns:
            effect = "Theirs joins prompt and query with a line break; ours with an empty line."
            plan.report.add("changed", INFO, f"{info.name}: query {info.columns['query']}", "input", effect)
        if "tools" in info.columns:
            effect = "Alpaca rows have no tools here. Convert the rows to turns."
            plan.report.add("no_counterpart", INFO, f"{info.name}: tools {info.columns['tools']}", "", effect)
