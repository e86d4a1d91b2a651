"""`ft import axolotl`: training YAMLs and their data → the plan of a project."""

from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.axolotl import draft_experiment, is_training, method_of, objective_of
from ft_pipeline.exchange.axolotl_data import Place, data_set, pretraining_set
from ft_pipeline.exchange.axolotl_pairs import first_row
from ft_pipeline.exchange.data_files import DataSet, inside
from ft_pipeline.exchange.experiment_draft import ExperimentDraft
from ft_pipeline.exchange.mixed_data import report_mixed
from ft_pipeline.exchange.new_project import Plan
from ft_pipeline.exchange.settings_files import add_experiment, find_settings_files, report_other_files
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, describe


def plan_axolotl(path: Path, extra: tuple[str, ...]) -> Plan:
    """Return what an Axolotl project contains.

    path: a folder of YAMLs and data files, or one YAML. extra: data files to take over in addition. UserError if there
    is no training YAML.
    """
    plan = Plan("Axolotl")
    root = path if path.is_dir() else path.parent
    taken: set[str] = set()
    others: list[str] = []
    for file, document in find_settings_files(path, plan.report):
        name = file.relative_to(root).as_posix()
        if is_training(document):
            theirs = TheirSettings(document, name)
            add_experiment(plan, file, theirs, taken, _Reader(plan, root, file, name).fill)
        else:
            others.append(name)
    report_other_files(plan, others)
    if not plan.drafts and not plan.report.lines:
        raise UserError(f"{path} has no YAML of a training. Name the folder that has the YAMLs and the data.")
    _add_extra(plan, root, extra)
    if path.is_dir():
        _report_unused(plan, root)
    report_mixed(plan)
    return plan


class _Reader:
    """Reads one YAML: its data sets, then its settings."""

    def __init__(self, plan: Plan, root: Path, file: Path, name: str) -> None:
        self._plan, self._root = plan, root
        self._place = Place(root, file, name)

    def fill(self, draft: ExperimentDraft, theirs: TheirSettings) -> None:
        """Fill the draft, and add the data sets to the plan if the settings can be taken over."""
        rl = method_of(theirs)
        found = [self._read(draft, entry, rl) for entry in _entries(theirs.take("datasets"))]
        found += [self._read_text(draft, entry) for entry in _entries(theirs.take("pretraining_dataset"))]
        tests = [self._read(draft, entry, rl, is_test=True) for entry in _entries(theirs.take("test_datasets"))]
        data_sets = [data for data in found if data is not None]
        formats = [data.data_format for data in data_sets]
        if theirs.has("pretraining_dataset") and not formats:
            formats = ["text"]
        draft_experiment(draft, theirs, self._root, objective_of(theirs, formats))
        if draft.settings["objective"] == "sft" and "text" in formats:
            draft.settings["data.weights"] = {"human": 1.0, "distilled": 0.0, "replay": 1.0}
            effect = "Ours trains texts among the conversations as replay, each once per epoch."
            draft.change("raw text among conversations", "data.weights.replay: 1", effect)
        draft.data_sets = [data.line for data in data_sets]
        for data in [*data_sets, *(test for test in tests if test is not None)]:
            self._add(data)

    def _read(self, draft: ExperimentDraft, entry: Any, rl: str, *, is_test: bool = False) -> DataSet | None:
        try:
            data, lost = data_set(entry, rl, self._place, is_test=is_test)
        except NotTakenOver as error:
            draft.lose(f"data set {_title(entry)}", str(error))
            return None
        for theirs, effect in lost:
            draft.lose(theirs, effect)
        if data.data_format == "alpaca":
            effect = (
                "Theirs puts a frame such as `### Instruction:` around a row; ours writes turns by the chat template."
            )
            draft.change(f"type: {describe(entry.get('type'))}", "the model's chat template", effect)
        if is_test:
            effect = "Theirs measures the loss on it during training; ours keeps it for the test."
            draft.change(f"test_datasets: {data.name}", "split: test", effect)
        return data

    def _read_text(self, draft: ExperimentDraft, entry: Any) -> DataSet | None:
        try:
            return pretraining_set(entry, self._place)
        except NotTakenOver as error:
            draft.lose(f"pretraining_dataset {_title(entry)}", str(error))
            return None

    def _add(self, data: DataSet) -> None:
        """Add a data set that no other YAML has added already."""
        key = _key(data)
        if all(_key(other) != key for other in self._plan.data_sets):
            self._plan.data_sets.append(data)


def _key(data: DataSet) -> Any:
    address = data.remote.source if data.remote else ""
    return (
        data.data_format,
        address,
        tuple(data.paths),
        tuple(data.columns.items()),
        tuple(data.roles.items()),
        data.split,
    )


def _entries(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _title(entry: Any) -> str:
    return describe(entry.get("path")) if isinstance(entry, dict) else describe(entry)


def _add_extra(plan: Plan, root: Path, extra: tuple[str, ...]) -> None:
    """Add the data files that the user names. Their format follows from the first row."""
    for name in extra:
        path = inside(root, root / name)
        if path is None or not path.is_file():
            raise UserError(f"{root} has no file {name!r}. Name a data file in the imported folder.")
        row = first_row([path]) or {}
        keys = row.keys()
        if {"chosen", "rejected"} <= keys:
            data_format = "preferences"
        elif {"completion", "label"} <= keys:
            data_format = "feedback"
        elif {"conversations", "messages"} & keys:
            data_format = "sharegpt"
        elif {"instruction", "output"} <= keys:
            data_format = "alpaca"
        elif "text" in keys:
            data_format = "text"
        else:
            raise UserError(f"The format of {name} cannot be told from its first row. Name it in `datasets` of a YAML.")
        plan.data_sets.append(DataSet(path.stem, name, data_format, [path], line=f"--dataset {name}"))


def _report_unused(plan: Plan, root: Path) -> None:
    """List the data files that no experiment uses, in one line."""
    used = {path.resolve() for data in plan.data_sets for path in data.paths}
    files = sorted(path for path in root.rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".parquet"))
    unused = [path.relative_to(root).as_posix() for path in files if path.is_file() and path.resolve() not in used]
    if unused:
        shown = ", ".join(unused[:20]) + (f" and {len(unused) - 20} more" if len(unused) > 20 else "")
        effect = "No experiment uses these files. Take one over with --dataset FILE."
        plan.report.add("no_counterpart", "", shown, "", effect)
