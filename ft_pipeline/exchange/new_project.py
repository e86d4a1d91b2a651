"""Write an imported project: into a temporary folder that takes its name only when everything is there."""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline import scaffold
from ft_pipeline.errors import UserError
from ft_pipeline.exchange.data_files import DataSet, place_all
from ft_pipeline.exchange.experiment_draft import ExperimentDraft, check_draft
from ft_pipeline.exchange.hosted_model import HostedModel
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.made_conversations import add_conversations
from ft_pipeline.exchange.model_names import link_chains, replace_base_models
from ft_pipeline.exchange.their_settings import NotTakenOver
from ft_pipeline.project import Project
from ft_pipeline.settings.data import DataSettings

MAX_VALIDATION = 0.5
"""Largest validation share that is taken over."""
DEFAULT_VALIDATION = 0.1
TEST_SHARE = 0.15


@dataclass
class Plan:
    """What an import found."""

    kind: str
    """The trainer or provider, for comments in the files."""
    report: ImportReport = field(default_factory=ImportReport)
    drafts: list[ExperimentDraft] = field(default_factory=list)
    data_sets: list[DataSet] = field(default_factory=list)
    merged: dict[str, str] = field(default_factory=dict)
    """The folder of a merged model → the folder of the adapter in it."""
    task: str = ""
    hosted: HostedModel | None = None
    """The model that answers today."""


@dataclass(frozen=True)
class Choices:
    """Options of `ft import`."""

    into: Path
    force: bool = False
    base_model: str | None = None
    remote: bool = False


def write_project(plan: Plan, choices: Choices) -> ImportReport:
    """Write the project and return the report. UserError if nothing can be written, and then nothing is."""
    target = choices.into.expanduser().resolve()
    require_free(target, choices.force)
    _finish_drafts(plan, choices.base_model)
    if not plan.drafts:
        raise UserError(_why_nothing(plan.report))
    with _temporary_folder(target) as folder:
        scaffold.create(folder, example=False)
        _write_experiments(plan, folder)
        place_all(plan.data_sets, folder, plan.report, remote=choices.remote)
        share = _validation_share(plan)
        shares = DataSettings(validation_share=share, test_share=TEST_SHARE)
        add_conversations(plan.data_sets, folder, plan.report, shares)
        _write_settings(plan, folder, target.name, share)
        _require_loadable(folder)
        _replace(target, folder)
    return plan.report


def _why_nothing(report: ImportReport) -> str:
    """Return why no experiment was taken over: the reason of the first one."""
    reasons = [line for line in report.lines if line.kind == "no_counterpart"]
    refused = [line for line in reasons if line.theirs.startswith("experiment ")] or reasons
    if not refused:
        return "There is no experiment to take over. Name a folder with settings of a training."
    others = f" ({len(refused) - 1} more are refused, too.)" if len(refused) > 1 else ""
    return f"{refused[0].theirs} cannot be taken over: {refused[0].effect}{others}"


def require_free(target: Path, force: bool) -> None:
    """Raise UserError if the target may not be written: it is not empty, or `force` would remove what is not ours."""
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file. Name a new folder.")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not force:
        raise UserError(f"{target} is not empty. Name a new folder, or replace an imported project with --force.")
    if not (target / "project.yaml").is_file():
        raise UserError(f"{target} is not a project, so --force does not replace it. Name a new folder.")
    if (target / "data" / "store").is_dir() and any((target / "data" / "store").iterdir()):
        raise UserError(f"{target} has results in data/store, so --force does not replace it. Name a new folder.")


def _finish_drafts(plan: Plan, base_model: str | None) -> None:
    """Link the experiments and leave out those that our settings refuse."""
    try:
        link_chains(plan.drafts, plan.merged)
    except NotTakenOver as error:
        raise UserError(str(error)) from None
    if base_model is not None:
        replace_base_models(plan.drafts, base_model)
    kept = []
    for draft in plan.drafts:
        try:
            check_draft(draft)
        except NotTakenOver as error:
            plan.report.add("no_counterpart", draft.source, f"experiment {draft.name}", "", str(error))
        else:
            kept.append(draft)
    names = {draft.name for draft in kept}
    for draft in kept:
        start = draft.settings.get("start_from")
        if start is not None and start not in names:
            del draft.settings["start_from"]
            effect = "This experiment was not taken over, so ours starts from the base model."
            draft.lose(f"starts from {start}", effect)
    plan.drafts = kept


@contextmanager
def _temporary_folder(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-import-"))
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(target: Path, folder: Path) -> None:
    """Give the complete folder its name. An old project stays until then."""
    old = None
    if target.exists() and any(target.iterdir()):
        old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-old-"))
        target.rename(old / target.name)
    elif target.exists():
        target.rmdir()
    folder.rename(target)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _write_experiments(plan: Plan, folder: Path) -> None:
    for path in (folder / "experiments").glob("*.yaml"):
        path.unlink()
    for draft in plan.drafts:
        head = "# yaml-language-server: $schema=../schemas/experiment.json\n"
        origin = f"# Imported from {draft.source} ({plan.kind}).\n"
        text = yaml.safe_dump(draft.document(), sort_keys=False, allow_unicode=True, width=100)
        (folder / "experiments" / f"{draft.name}.yaml").write_text(head + origin + text, encoding="utf-8")
        plan.report.experiments[draft.name] = draft.source


def _write_settings(plan: Plan, folder: Path, name: str, validation_share: float) -> None:
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:63] or "imported"
    prompts = dict.fromkeys(
        prompt for draft in plan.drafts if (prompt := draft.settings.get("data.system_prompt")) is not None
    )
    variants = {f"system_prompt{number or ''}": {"system_prompt": text} for number, text in enumerate(prompts)}
    if not variants:
        variants = {"system_prompt": {"system_prompt": "You are a helpful assistant. Answer briefly."}}
    document: dict[str, Any] = {
        "name": slug,
        "task": plan.task,
        "data": {"validation_share": validation_share, "test_share": TEST_SHARE},
        "prompting": {"variants": variants},
        **_teacher(plan),
        "evaluation": {
            "general_questions": "data/general/questions.jsonl",
            "general_texts": "data/general/texts.jsonl",
        },
    }
    head = "# yaml-language-server: $schema=schemas/project.json\n# Imported from " + plan.kind + ".\n"
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    if plan.hosted is not None:
        text += plan.hosted.section([*variants, *(draft.name for draft in plan.drafts)])
        plan.hosted.report(plan.report)
    (folder / "project.yaml").write_text(head + text, encoding="utf-8")


def _teacher(plan: Plan) -> dict[str, Any]:
    """Return the section `teacher`: the base model of most experiments, so that rows with tools suit it, too.

    It has no few-shot examples: they are single-turn rows, which a file of tool calls does not have.
    """
    models = Counter((draft.settings["base_model"], draft.settings.get("revision")) for draft in plan.drafts)
    (model, revision), _ = models.most_common(1)[0]
    return {"teacher": {"model": model, **({"revision": revision} if revision else {}), "few_shot": 0}}


def _validation_share(plan: Plan) -> float:
    """Return the validation share of the project, and report how it follows from theirs."""
    report, given = plan.report, {draft.source: draft.validation for draft in plan.drafts if draft.validation}
    has_test = any(data.split == "test" for data in plan.data_sets)
    for draft in plan.drafts:
        theirs, ours, rows = "no test rows", f"data.test_share: {TEST_SHARE}", f"{TEST_SHARE:.0%} of the rows"
        if has_test:
            theirs, ours, rows = "a test file", "data.golden_test: only", "its rows"
        effect = f"Ours never trains on {rows}: models are compared there."
        report.add("changed", draft.source, theirs, ours, effect)
    if not given:
        for draft in plan.drafts:
            effect = f"Theirs holds no rows out; ours {DEFAULT_VALIDATION:.0%}, to choose the best checkpoint."
            report.add(
                "changed", draft.source, "no validation share", f"data.validation_share: {DEFAULT_VALIDATION}", effect
            )
        return DEFAULT_VALIDATION
    source, amount = max(given.items(), key=lambda item: item[1])
    total = sum(data.rows for data in plan.data_sets if data.split is None)
    share = amount if amount < 1 else amount / total if total else DEFAULT_VALIDATION
    taken = round(min(share, MAX_VALIDATION), 4) or DEFAULT_VALIDATION
    theirs, ours = f"validation: {amount:g}", f"data.validation_share: {taken:g}"
    if amount < 1 and taken == amount and len(set(given.values())) == 1:
        report.add("taken_over", source, theirs, ours)
    else:
        effect = "It is one share for the whole project here, of groups of rows with one prompt."
        report.add("changed", source, theirs, ours, effect)
    return taken


def _require_loadable(folder: Path) -> None:
    """Load what was written, as `ft experiments` does. UserError if it does not load."""
    project = Project(folder)
    _ = project.settings
    for name in project.experiment_names():
        project.training_chain(name)
