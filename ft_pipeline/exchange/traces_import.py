"""`ft import traces`: logs of an application → the plan of a project for each of its workloads.

A workload is a part of an application with prompts of its own: it gets a model, test rows and a decision of its own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson

from ft_pipeline.errors import UserError
from ft_pipeline.exchange.data_files import DataSet
from ft_pipeline.exchange.experiment_draft import ExperimentDraft, experiment_name
from ft_pipeline.exchange.new_project import Plan
from ft_pipeline.exchange.openai_job import fill_default
from ft_pipeline.sources.file_names import suffix_of
from ft_pipeline.tables.reading.batches import divide
from ft_pipeline.tables.reading.compressed import expanded
from ft_pipeline.tables.reading.containers import read_batches
from ft_pipeline.tables.reading.json_parser import parse_line
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline.tables.reason_codes import Fault, Refused
from ft_pipeline.tables.traces.calls import ModelCall
from ft_pipeline.tables.traces.documents import call_of_feedback, read_calls

KIND = "the log of an application"
NO_WORKLOAD = "other"
"""The name of the project of calls without a workload, if other calls have one."""


def plan_traces(paths: Sequence[Path], work: Path) -> dict[str, Plan]:
    """Return workload → plan. The only plan has an empty name if there are not several workloads.

    paths: files of traces. work: a folder for the files of each workload, which must exist until the plans are written.
    UserError if a file cannot be read, or if there is no call.
    """
    workload_of: dict[str, str] = {}
    counts: dict[str, int] = {}
    for path in paths:
        for document in _documents(path, work):
            calls = _calls(document, path)
            counts[_workload(calls)] = counts.get(_workload(calls), 0) + len(calls)
            workload_of |= {call.identity: _workload(calls) for call in calls if call.identity}
    if not sum(counts.values()):
        names = ", ".join(map(str, paths))
        raise UserError(f"There is no call of a model in {names}. Name logs of requests or traces.")
    named = [workload for workload, count in counts.items() if count]
    if len(named) == 1:
        files = [file for path in paths if (file := _as_lines(path, named[0], workload_of, work))]
        return {"": _plan(named[0] or "traces", files, counts[named[0]])}
    plans = {}
    taken: set[str] = set()
    for workload in sorted(named):
        name = experiment_name(workload or NO_WORKLOAD, taken)
        files = [file for path in paths if (file := _part(path, workload, workload_of, work / name, work))]
        plans[name] = _plan(workload or NO_WORKLOAD, files, counts[workload])
    return plans


def _plan(workload: str, files: list[Path], calls: int) -> Plan:
    plan = Plan(KIND, task=f"Answer as {workload} did: {calls:,} logged calls.")
    for path in files:
        data = DataSet(path.name.partition(".")[0], path.name, "traces", [path], line=f"{path.name}: calls")
        plan.data_sets.append(data)
    draft = ExperimentDraft("sft", files[0].name, plan.report)
    fill_default(draft, "sft")
    plan.drafts.append(draft)
    return plan


def _documents(path: Path, work: Path) -> Iterator[Any]:
    """Yield the documents of a file. UserError if it cannot be read."""
    if not path.is_file():
        raise UserError(f"There is no file {path}. Name logs of requests or traces.")
    try:
        with expanded(path, work) as plain:
            for batch in map(divide, read_batches(plain, suffix_of(path.name), documents=True)):
                yield from batch.values if batch.lines is None else map(parse_line, batch.lines)
    except Refused as error:
        raise UserError(f"{path} cannot be read: {error.message}.") from None


def _calls(document: Any, path: Path) -> list[ModelCall]:
    try:
        return [call for call in read_calls(document, PLAIN) if isinstance(call, ModelCall)]
    except Refused as error:
        raise UserError(f"{path} cannot be read: {error.message}.") from None


def _workload(calls: Sequence[ModelCall]) -> str:
    """Return the workload of a document: that of its first call."""
    return next((call.workload for call in calls if call.workload), "")


def _as_lines(path: Path, workload: str, workload_of: dict[str, str], work: Path) -> Path | None:
    """Return the file itself if it has a document on each line; else its documents written so."""
    return path if suffix_of(path.name) == ".jsonl" else _part(path, workload, workload_of, work / "lines", work)


def _part(path: Path, workload: str, workload_of: dict[str, str], folder: Path, work: Path) -> Path | None:
    """Write the documents of one workload, and the feedback on its calls. Return the file, None if there are none.

    Documents without a call (failures without content, broken lines) go to the calls without a workload.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part, written = folder / f"{path.name.split('.')[0]}.jsonl", 0
    with part.open("wb") as file:
        for document in _documents(path, work):
            about = call_of_feedback(document)
            belongs = workload_of.get(about, "") if about else _workload(_calls(document, path))
            if belongs == workload and not isinstance(document, Fault):
                file.write(orjson.dumps(document) + b"\n")
                written += 1
    return part if written else None
