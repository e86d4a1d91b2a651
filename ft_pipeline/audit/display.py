"""Output of `ft audit` in a terminal: a tree from the subject to the raw files."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.tree import Tree

from ft_pipeline.audit.audit_report import VerificationResult, erasure_notes, node_status
from ft_pipeline.audit.chain import Chain, raw_files, without_evidence
from ft_pipeline.audit.subject import champion_artifact
from ft_pipeline.cli.display_text import is_terminal, plain, say
from ft_pipeline.lineage.artifact_index import SHOWN_DIGITS, ArtifactNode
from ft_pipeline.store.signing import ID_DIGITS

FILES_SHOWN = 12
"""Number of raw files that are shown for each snapshot."""
PROBLEMS_SHOWN = 50


def show_audit(console: Console, chain: Chain, result: VerificationResult) -> None:
    """Print the subject, its tree, the problems and the result of the verification."""
    _show_record(console, chain)
    notes = erasure_notes(chain.index)
    tree = Tree(f"[bold]{plain(chain.subject.name)}[/]")
    shown: set[Any] = set()
    for role, node in chain.root_nodes():
        _add_artifact(tree.add(f"[bold]{plain(role)}[/]"), chain, node, shown, notes)
    console.print(tree, soft_wrap=not is_terminal(console))
    _show_terms(console, chain)
    _show_verification(console, chain, result, notes)


def _show_verification(
    console: Console, chain: Chain, result: VerificationResult, notes: Mapping[str, list[str]]
) -> None:
    """Print what was checked and the problems."""
    problems = list(dict.fromkeys([*chain.problems, *result.problems]))
    for finding in problems[:PROBLEMS_SHOWN]:
        say(console, f"[red]✗ {plain(str(finding))}[/]")
    if len(problems) > PROBLEMS_SHOWN:
        say(console, f"[red]and {len(problems) - PROBLEMS_SHOWN} more (--json lists all)[/]")
    for note in result.notes:
        say(console, f"[yellow]! {plain(note)}[/]")
    if (signed := result.signatures) is not None:
        say(
            console,
            f"Signed with the key {signed['key'][:ID_DIGITS]}: {signed['lines']:,} changes since "
            f"{signed['since'][:10]}; the last is {signed['head']}",
        )
    counted = ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in result.counted.items())
    if problems:
        checked = f" Checked: {counted}." if counted else ""
        say(console, f"[red]Problems found: {len(problems)}.[/]{checked}")
    elif result.checked and (redacted := _redacted_labels(chain, chain.nodes, notes)):
        say(console, f"Checked: {counted}; all hashes match the records.")
        say(console, f"[yellow]Redacted on request, so not verified: {plain(', '.join(redacted))}[/]")
        own_chain = without_evidence(chain)
        if not _redacted_labels(own_chain, own_chain.nodes, notes):
            say(console, "Only the evidence is affected. Everything that the model itself was made from is verified.")
    elif result.checked:
        say(console, f"[green]Verified:[/] {counted}; all hashes match the records.")
        if elsewhere := _redacted_labels(chain, chain.index.all(), notes):
            say(console, f"Elsewhere in the store, {len(elsewhere)} artifacts were redacted on request.")
    else:
        say(console, "The manifests are consistent. Files were not read; use `--verify` to hash them all again.")


def _redacted_labels(chain: Chain, nodes: Iterable[ArtifactNode], notes: Mapping[str, list[str]]) -> list[str]:
    """Return the labels of the redacted artifacts among `nodes`."""
    return [node.label for node in nodes if node_status(chain.index, node, notes) == "redacted"]


def _add_artifact(
    branch: Tree, chain: Chain, node: ArtifactNode, shown: set[Any], notes: Mapping[str, list[str]]
) -> None:
    """Add an artifact and everything that it was made from to a branch. An artifact that is already shown is not shown
    in full again."""
    identity = node.path or node.label
    if identity in shown:
        branch.add(f"{plain(node.key)} [dim]{node.fingerprint[:SHOWN_DIGITS]} (above)[/]")
        return
    shown.add(identity)
    own_branch = branch.add(_describe_node(node))
    for finding in node.problems:
        own_branch.add(f"[red]✗ {plain(finding.message)}[/]")
    for entry in node.manifest.get("redactions", []):
        when, by = plain(entry["when"][:10]), plain(entry["by"])
        own_branch.add(f"[yellow]redacted {when} by {by} (record {entry['number']})[/]")
    for note in notes.get(node.fingerprint, []):
        own_branch.add(f"[yellow]redacted: {plain(note)}[/]")
    for _, input_node in chain.inputs_of(node):
        _add_artifact(own_branch, chain, input_node, shown, notes)
    _add_files(own_branch, chain, node)


def _add_files(branch: Tree, chain: Chain, snapshot: ArtifactNode) -> None:
    files = raw_files(chain.index, snapshot)
    for file in files[:FILES_SHOWN]:
        sha256 = (file.sha256 or "")[:SHOWN_DIGITS]
        origin = plain(f", from {file.source}, revision {file.revision}") if file.source else ""
        branch.add(f"{plain(file.name)} [dim]{sha256} {file.bytes:,} bytes, {file.kept}{origin}[/]")
    if len(files) > FILES_SHOWN:
        branch.add(f"[dim]and {len(files) - FILES_SHOWN} more files[/]")


def _describe_node(node: ArtifactNode) -> str:
    """Return the line of an artifact: key, fingerprint, time, code, user and run."""
    if not node.manifest:
        return f"[red]{plain(node.key)} {node.fingerprint[:SHOWN_DIGITS]}[/]"
    code = node.manifest.get("code") or {}
    commit = (code.get("commit") or "")[:8] + ("+dirty" if code.get("dirty") else "")
    facts = [
        str(node.manifest.get("created", ""))[:19].replace("T", " "),
        f"code {node.code_version or '?'}" + (f" @ {commit}" if commit else ""),
        f"by {node.run.get('started_by') or '?'}",
        f"run {str(node.run.get('run_id') or '')[:8]}",
    ]
    return f"{plain(node.key)} [cyan]{node.fingerprint[:SHOWN_DIGITS]}[/] [dim]{plain(' · '.join(facts))}[/]"


def _show_record(console: Console, chain: Chain) -> None:
    record = chain.subject.record
    if record is None:
        return
    say(console, f"[bold]{plain(record.name)}[/], record {record.sequence}, since {plain(record.since)}")
    say(console, f"  reason: {plain(record.reason)}" + (" (forced)" if record.forced else ""))
    how = "manually" if record.by_hand else "by the project's rules"
    say(console, f"  by: {plain(record.by or 'unknown')}, {how}{plain(_describe_run(chain))}")
    if checks := record.evidence.get("gates"):
        results = ", ".join(f"{name} {'passed' if passed else 'FAILED'}" for name, passed in checks.items())
        say(console, f"  checks: {plain(results)}")
    if comparison := record.evidence.get("comparison"):
        metric = plain(str(record.evidence.get("metric")))
        say(console, f"  evidence: comparison {comparison[:SHOWN_DIGITS]}, metric {metric}")
    if record.previous:
        say(console, f"  previous: {plain(record.previous)} (record {record.previous_sequence})")


def _describe_run(chain: Chain) -> str:
    """Return the run that wrote the subject's record, from the first champion artifact that contains it."""
    record = chain.subject.record
    node = champion_artifact(chain.index, record) if record else None
    return f", run {str(node.run.get('run_id'))[:8]} (started by {node.run.get('started_by')})" if node else ""


def _show_terms(console: Console, chain: Chain) -> None:
    """Print the teacher of the distilled rows, and its terms."""
    for node in without_evidence(chain).of_kind("distilled"):
        teacher = node.config.get("teacher") or {}
        name, terms = str(teacher.get("model")), str(teacher.get("terms") or "none recorded")
        say(console, f"Teacher of the distilled rows: {plain(name)}; terms: {plain(terms)}")
