"""Find the YAML files of a project of another trainer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.experiment_draft import ExperimentDraft, experiment_name
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.new_project import Plan
from ft_pipeline.exchange.their_settings import NotTakenOver, TheirSettings, read_yaml

MAX_FILES = 1000
"""Maximum number of YAML files of one import."""


def find_settings_files(path: Path, report: ImportReport) -> list[tuple[Path, Any]]:
    """Return (file, content) of one YAML file, or of all YAML files in a folder and its subfolders.

    A file that is not YAML is reported; UserError if it is the only one. Links out of the folder are left out.
    """
    if path.is_file():
        return [(path, read_yaml(path))]
    if not path.is_dir():
        raise UserError(f"There is no {path}. Name a folder or a YAML file.")
    home = path.resolve()
    files = sorted(file for file in path.rglob("*") if file.suffix in (".yaml", ".yml") and file.is_file())
    files = [file for file in files if file.resolve().is_relative_to(home)]
    if len(files) > MAX_FILES:
        raise UserError(f"{path} has {len(files):,} YAML files. Name a folder with at most {MAX_FILES:,}.")
    documents = []
    for file in files:
        try:
            documents.append((file, read_yaml(file)))
        except UserError as error:
            report.add("no_counterpart", file.name, f"file {file.relative_to(path).as_posix()}", "", str(error))
    return documents


Fill = Callable[[ExperimentDraft, TheirSettings], None]


def add_experiment(
    plan: Plan, file: Path, theirs: TheirSettings, taken: set[str], fill: Fill
) -> ExperimentDraft | None:
    """Add the experiment of one file to the plan and return it. If it cannot be taken over, report why.

    taken: the names of experiments so far. fill: reads the settings into a draft.
    """
    name = experiment_name(file.stem, taken, file.parent.name)
    draft = ExperimentDraft(name, theirs.name, ImportReport())
    try:
        fill(draft, theirs)
    except NotTakenOver as error:
        taken.discard(name)
        plan.report.add("no_counterpart", theirs.name, f"experiment {file.stem}", "", str(error))
        return None
    plan.report.merge(draft.report)
    draft.report = plan.report
    plan.drafts.append(draft)
    return draft


def report_other_files(plan: Plan, names: list[str]) -> None:
    """Report the YAML files that are not about a training, in one line."""
    if names:
        shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        effect = "These files are not settings of a training that are read here."
        plan.report.add("no_counterpart", names[0], shown, "", effect)
