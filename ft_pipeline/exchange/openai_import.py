"""`ft import openai`: fine-tuning files of a provider, and perhaps its jobs → the plan of a project."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.experiment_draft import ExperimentDraft, experiment_name
from ft_pipeline.exchange.hosted_model import model_of_jobs, named_model
from ft_pipeline.exchange.import_report import ImportReport
from ft_pipeline.exchange.new_project import Plan
from ft_pipeline.exchange.openai_job import (
    OBJECTIVES,
    REINFORCEMENT,
    fill_default,
    fill_from_job,
    find_jobs,
    report_grader,
)
from ft_pipeline.exchange.row_edits import Row, Unread, read_rows
from ft_pipeline.exchange.their_settings import MAX_BYTES, NotTakenOver, TheirSettings
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.unlabelled import REFERENCE_KEYS
from ft_pipeline.tables.reading.graders import grader_in

PAIR_KEYS = ({"preferred_output", "non_preferred_output"}, {"preferred_completion", "non_preferred_completion"})
TEST_WORDS = frozenset(
    {"valid", "validation", "val", "test", "testing", "eval", "evaluation", "dev", "holdout", "heldout"}
)
"""Words in the name of a file that is not for training."""
NOT_REFERENCES = frozenset({"messages", "tools", "functions", "parallel_tool_calls", "metadata", "id", "tags"})


OBJECTIVE_OF = {"chat": "sft", "unlabelled": "sft", "preferences": "dpo", "text": "cpt"}
"""Format → the objective of an experiment that trains on it."""
SUFFIXES = (".jsonl", ".json")


def plan_openai(paths: Sequence[Path], tuned_model: str | None = None) -> Plan:
    """Return what fine-tuning files contain. UserError if there are no rows, or if `tuned_model` is not a valid name.

    paths: files and folders. tuned_model: the name of the model that answers today; by default that of the newest job.
    """
    hosted = named_model(tuned_model) if tuned_model is not None else None
    plan = Plan("OpenAI's fine-tuning files")
    jobs: list[tuple[str, dict[str, Any]]] = []
    for path in _files(paths):
        document = _document_in(path)
        if (grader := grader_in(document)) is not None:
            report_grader(plan.report, path.name, grader)
        elif found := find_jobs(document):
            jobs += [(path.name, job) for job in found]
        else:
            _add_file(plan, path)
    if not plan.data_sets:
        reasons = [line for line in plan.report.lines if line.kind == "no_counterpart"]
        if reasons and reasons[0].theirs.startswith("grader: "):
            raise UserError("A grader has no rows. Name the JSONL file of its prompts, too.")
        if reasons:
            named = "" if reasons[0].effect.startswith(reasons[0].theirs) else f"{reasons[0].theirs}: "
            raise UserError(f"{named}{reasons[0].effect}")
        raise UserError("There are no rows of a fine-tuning file. Name the JSONL files.")
    _assign_tests(plan)
    _add_experiments(plan, jobs)
    plan.hosted = hosted or model_of_jobs(jobs, plan.report)
    return plan


def _files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are named, and the data files in the folders that are named."""
    files = []
    for path in paths:
        if path.is_dir():
            home = path.resolve()
            found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and file.is_file()]
            files += [file for file in found if file.resolve().is_relative_to(home)]
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"There is no {path}. Name a JSONL file or a folder.")
    return list(dict.fromkeys(files))


def _document_in(path: Path) -> Any:
    """Return the JSON document in a file, or a list of its lines; None if it is too large or no JSON."""
    if path.stat().st_size > MAX_BYTES:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        try:
            return json.loads(text)
        except ValueError:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (ValueError, RecursionError, OSError):
        return None


def _add_file(plan: Plan, path: Path) -> None:
    """Add a file to the plan, in the format of most of its rows."""
    report = plan.report
    try:
        kinds, references = count_kinds(path)
    except UserError as error:
        report.add("no_counterpart", path.name, path.name, "", str(error))
        return
    known = {kind: count for kind, count in kinds.items() if kind}
    if not known:
        effect = "No row has `messages`, a preference, `prompt` and `completion`, or `text`."
        effect += " If it is a log of requests, put it into data/raw/traces of a project."
        report.add("no_counterpart", path.name, path.name, "", effect)
        return
    best = max(known, key=lambda kind: known[kind])
    if others := sum(kinds.values()) - known[best]:
        effect = (
            f"{others:,} of {sum(kinds.values()):,} rows have another shape, and will be quarantined. Give them a file."
        )
        report.add("changed", path.name, f"{path.name}: mixed rows", best, effect)
    data = DataSet(path.stem, path.name, best, [path], line=path.name)
    if best == "unlabelled":
        _set_reference(plan, data, references)
    plan.data_sets.append(data)


def _set_reference(plan: Plan, data: DataSet, references: Any) -> None:
    """Map the key of the reference of reinforcement rows, and report the other keys."""
    plan.report.add("changed", data.source, f"{data.name}: reinforcement rows", "data/raw/unlabelled", REINFORCEMENT)
    reference, others = reference_of(references)
    if reference and reference not in REFERENCE_KEYS:
        data.columns = {reference: "reference"}
    if others:
        effect = "Ours keeps one reference per prompt; these keys are not read."
        plan.report.add("no_counterpart", data.source, f"{data.name}: {', '.join(others)}", "", effect)


def _assign_tests(plan: Plan) -> None:
    """Make test files of those that are named so, unless a format would have no training rows."""
    for data_format in {data.data_format for data in plan.data_sets}:
        files = [data for data in plan.data_sets if data.data_format == data_format]
        tests = [data for data in files if is_test_file(Path(data.paths[0]))]
        for data in tests:
            theirs = f"{data.paths[0].name}: validation or test file"
            data.is_test = len(tests) < len(files)
            if not FORMATS[data_format].is_conversational:
                effect = "Only conversations have a test file here; these rows are used like the others."
            elif len(tests) == len(files):
                effect = "It is the only file of its kind, so its rows are split into training, validation and test."
            else:
                data.split = "test"
                effect = (
                    "Theirs measures the loss on it during training; ours keeps it for the test, and takes validation "
                    "rows from the training rows."
                )
            plan.report.add("changed", data.source, theirs, "split: test" if data.split else "training rows", effect)


def _add_experiments(plan: Plan, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    """Add an experiment for each job, and one for each objective that has files and no job."""
    objectives = {OBJECTIVE_OF[data.data_format] for data in plan.data_sets}
    taken: set[str] = set()
    for source, job in jobs:
        draft = ExperimentDraft("", source, ImportReport())
        try:
            fill_from_job(draft, TheirSettings(job, source), objectives)
        except NotTakenOver as error:
            plan.report.add("no_counterpart", source, f"job {job.get('id', '')}", "", str(error))
            continue
        stem = str(job.get("user_provided_suffix") or job.get("suffix") or draft.settings["objective"])
        if draft.settings["objective"] not in objectives:
            effect = "There is no file of its kind, so it is not taken over. Name its training file, too."
            plan.report.add("no_counterpart", source, f"job {stem}", "", effect)
            continue
        draft.name = experiment_name(stem, taken)
        plan.report.merge(draft.report)
        draft.report = plan.report
        plan.drafts.append(draft)
    for objective in sorted(objectives - {draft.settings["objective"] for draft in plan.drafts}):
        source = next(data.source for data in plan.data_sets if OBJECTIVE_OF[data.data_format] == objective)
        draft = ExperimentDraft(experiment_name(objective, taken), source, plan.report)
        fill_default(draft, objective)
        plan.drafts.append(draft)
    _start_dpo_from_sft(plan)


def _start_dpo_from_sft(plan: Plan) -> None:
    """Let preference training start from the supervised experiment, if there is just one."""
    by_objective = {
        objective: [draft for draft in plan.drafts if draft.settings["objective"] == objective]
        for objective in OBJECTIVES.values()
    }
    if len(by_objective["sft"]) == 1 and any(data.data_format == "chat" for data in plan.data_sets):
        for draft in by_objective["dpo"]:
            draft.settings["start_from"] = by_objective["sft"][0].name
            effect = "Ours trains on the pairs after the answers. Remove `start_from` to start from the base model."
            draft.change("a preference file", f"start_from: {by_objective['sft'][0].name}", effect)


def kind_of(row: Row) -> str | None:
    """Return the format of ours that a row has, or None if it is not a row of a fine-tuning file."""
    if any(keys <= row.keys() for keys in PAIR_KEYS) or {"chosen", "rejected"} <= row.keys():
        return "preferences"
    turns = row.get("messages")
    if isinstance(turns, list):
        last = turns[-1] if turns and isinstance(turns[-1], dict) else {}
        return "chat" if last.get("role") not in ("user", "tool") else "unlabelled"
    if {"prompt", "completion"} <= row.keys():
        return "chat"
    return "text" if isinstance(row.get("text"), str) else None


def count_kinds(path: Path) -> tuple[Counter[str], Counter[str]]:
    """Return the number of rows of each format, and of each key that could be the reference of a reinforcement row."""
    kinds: Counter[str] = Counter()
    references: Counter[str] = Counter()
    for row in _rows(path):
        kind = kind_of(row) if isinstance(row, dict) else None
        kinds[kind or ""] += 1
        if kind == "unlabelled" and isinstance(row, dict):
            references.update(key for key, item in row.items() if key not in NOT_REFERENCES and item is not None)
    return kinds, references


def _rows(path: Path) -> Iterator[Row | Unread]:
    yield from read_rows(path)


def is_test_file(path: Path) -> bool:
    """Return whether the name of a file says that its rows are not for training."""
    return bool(TEST_WORDS & set(re.split(r"[^a-z]+", path.stem.lower())))


def reference_of(references: Counter[str]) -> tuple[str | None, list[str]]:
    """Return the key that is the reference, and the other keys."""
    known = [key for key in REFERENCE_KEYS if key in references]
    keys = known or [key for key, _ in references.most_common() if "answer" in key or "truth" in key]
    best = next(iter(keys or [key for key, _ in references.most_common()]), None)
    return best, sorted(key for key in references if key != best)
