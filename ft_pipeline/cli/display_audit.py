"""Output of `ft audit` in a terminal: a tree from the subject to the raw files."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.tree import Tree

from ft_pipeline.audit.artifact_index import SHOWN, ArtifactNode
from ft_pipeline.audit.audit_report import VerificationResult, marks_of, status
from ft_pipeline.audit.chain import Chain, made_from, raw_files
from ft_pipeline.audit.subject import champion_artifact
from ft_pipeline.cli.display import plain

RAW_SHOWN = 12
PROBLEMS_SHOWN = 50


def show_audit(console: Console, chain: Chain, result: VerificationResult) -> None:
    """Print the subject, its tree, the problems and the result of the verification."""
    _show_record(console, chain)
    marks = marks_of(chain.index)
    tree = Tree(f"[bold]{plain(chain.subject.name)}[/]")
    seen: set[Any] = set()
    for role, node in chain.roots():
        _grow(tree.add(f"[bold]{plain(role)}[/]"), chain, node, seen, marks)
    console.print(tree, soft_wrap=True)
    _show_terms(console, chain)
    show_verification(console, chain, result)


def show_verification(console: Console, chain: Chain, result: VerificationResult) -> None:
    """Print what was checked and the problems."""
    problems = list(dict.fromkeys([*chain.problems, *result.problems]))
    for finding in problems[:PROBLEMS_SHOWN]:
        console.print(f"[red]✗ {plain(str(finding))}[/]", soft_wrap=True)
    if len(problems) > PROBLEMS_SHOWN:
        console.print(f"[red]and {len(problems) - PROBLEMS_SHOWN} more (--json lists all)[/]")
    for note in result.notes:
        console.print(f"[yellow]! {plain(note)}[/]", soft_wrap=True)
    counted = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in result.counted.items())
    if problems:
        read = f" Checked: {counted}." if counted else ""
        console.print(f"[red]Problems found: {len(problems)}.[/]{read}", soft_wrap=True)
    elif result.checked and (redacted := _redacted(chain)):
        console.print(f"Checked: {counted}; all hashes match the records.", soft_wrap=True)
        console.print(f"[yellow]Redacted on request, so not verified: {plain(', '.join(redacted))}[/]", soft_wrap=True)
        if not _redacted(made_from(chain)):
            console.print("Only the evidence is affected. Everything that the model itself was made from is verified.")
    elif result.checked:
        console.print(f"[green]Verified:[/] {counted}; all hashes match the records.", soft_wrap=True)
        if elsewhere := _redacted_of(chain, chain.index.all()):
            console.print(f"Elsewhere in the store, {len(elsewhere)} artifacts were redacted on request.")
    else:
        console.print("The manifests are consistent. Files were not read; use `--verify` to hash them all again.")


def _redacted(chain: Chain) -> list[str]:
    return _redacted_of(chain, chain.nodes)


def _redacted_of(chain: Chain, nodes: Iterable[ArtifactNode]) -> list[str]:
    marks = marks_of(chain.index)
    return [node.label for node in nodes if status(chain, node, marks) == "redacted"]


def _grow(branch: Tree, chain: Chain, node: ArtifactNode, seen: set[Any], marks: Mapping[str, list[str]]) -> None:
    place = node.path or node.label
    if place in seen:
        branch.add(f"{plain(node.key)} [dim]{node.fingerprint[:SHOWN]} (above)[/]")
        return
    seen.add(place)
    here = branch.add(_line(node))
    for finding in node.problems:
        here.add(f"[red]✗ {plain(finding.message)}[/]")
    for entry in node.manifest.get("redactions", []):
        here.add(f"[yellow]redacted {plain(entry['when'][:10])} by {plain(entry['by'])} (record {entry['number']})[/]")
    for mark in marks.get(node.fingerprint, []):
        here.add(f"[yellow]redacted: {plain(mark)}[/]")
    for _, source in chain.inputs_of(node):
        _grow(here, chain, source, seen, marks)
    if node.kind.startswith("raw_"):
        files = raw_files(chain.index, node)
        for file in files[:RAW_SHOWN]:
            here.add(f"{plain(file.name)} [dim]{(file.sha256 or '')[:SHOWN]} {file.bytes:,} bytes, {file.kept}[/]")
        if len(files) > RAW_SHOWN:
            here.add(f"[dim]and {len(files) - RAW_SHOWN} more files[/]")


def _line(node: ArtifactNode) -> str:
    if not node.manifest:
        return f"[red]{plain(node.key)} {node.fingerprint[:SHOWN]}[/]"
    code = node.manifest.get("code") or {}
    commit = (code.get("commit") or "")[:8] + ("+dirty" if code.get("dirty") else "")
    facts = [
        str(node.manifest.get("created", ""))[:19].replace("T", " "),
        f"code {node.code_version or '?'}" + (f" @ {commit}" if commit else ""),
        f"by {node.run.get('started_by') or '?'}",
        f"run {str(node.run.get('run_id') or '')[:8]}",
    ]
    return f"{plain(node.key)} [cyan]{node.fingerprint[:SHOWN]}[/] [dim]{plain(' · '.join(facts))}[/]"


def _show_record(console: Console, chain: Chain) -> None:
    record = chain.subject.record
    if record is None:
        return
    console.print(f"[bold]{plain(record.name)}[/], record {record.sequence}, since {plain(record.since)}")
    console.print(f"  reason: {plain(record.reason)}" + (" (forced)" if record.forced else ""), soft_wrap=True)
    how = "manually" if record.by_hand else "by the project's rules"
    console.print(f"  by: {plain(record.by or 'unknown')}, {how}{plain(_moved_in(chain))}")
    gates = record.evidence.get("gates") or {}
    if gates:
        shown = ", ".join(f"{name} {'passed' if passed else 'FAILED'}" for name, passed in gates.items())
        console.print(f"  checks: {plain(shown)}")
    if comparison := record.evidence.get("comparison"):
        metric = plain(str(record.evidence.get("metric")))
        console.print(f"  evidence: comparison {comparison[:SHOWN]}, metric {metric}")
    if record.previous:
        console.print(f"  previous: {plain(record.previous)} (record {record.previous_sequence})")


def _moved_in(chain: Chain) -> str:
    """The run that wrote the record, from the first champion artifact that contains it."""
    record = chain.subject.record
    node = champion_artifact(chain.index, record) if record else None
    return f", run {str(node.run.get('run_id'))[:8]} (started by {node.run.get('started_by')})" if node else ""


def _show_terms(console: Console, chain: Chain) -> None:
    """Print the teacher of the distilled rows, and its terms."""
    for node in made_from(chain).of_kind("distilled"):
        teacher = node.config.get("teacher") or {}
        name, terms = str(teacher.get("model")), str(teacher.get("terms") or "none recorded")
        console.print(f"Teacher of the distilled rows: {plain(name)}; terms: {plain(terms)}", soft_wrap=True)
