"""`ft export --format gguf`: GGUF files of a model, made and scored if they are not in the store yet."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.command import Answer
from ft_pipeline.cli.common import stderr
from ft_pipeline.cli.display_progress import live_progress
from ft_pipeline.cli.display_tables import new_table, print_columns
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.cli.export import show_prompt, show_signature, show_writing
from ft_pipeline.evaluation.comparison.score import Score, describe_score
from ft_pipeline.gguf import making
from ft_pipeline.gguf.export import (
    GgufExport,
    adapt_card,
    plan_gguf,
    require_mergeable,
    require_writable,
    results,
    write_gguf,
)
from ft_pipeline.gguf.modelfile import modelfiles_of
from ft_pipeline.gguf.settings import EvaluationKeys, parse_types
from ft_pipeline.project import Project
from ft_pipeline.release.disclosure.facts import export_facts
from ft_pipeline.release.disclosure.folder import SIGNATURE, disclose
from ft_pipeline.release.export.prompt_files import require_prompt_texts, write_prompt_files
from ft_pipeline.release.export.target_folder import require_free_folder
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.signing import find_key

NO_ROW = (
    "It is not its experiment's current model, so its files were scored on the current test rows, but have no row in "
    "the comparison."
)


def export_gguf(
    project: Project,
    store: ArtifactStore,
    model: ModelReference,
    directory: Path,
    *,
    quantize: str | None,
    force: bool,
    with_texts: bool,
) -> Answer:
    """Make what is missing, check the gate, and write the folder. quantize: types, separated by commas; None: the
    YAML's. Raises UserError before any work for bad input."""
    if with_texts:
        require_prompt_texts(model)
    merged = require_mergeable(model)
    target = require_free_folder(directory)
    require_writable(target)
    asked = parse_types(quantize) if quantize is not None else None
    types = making.types_to_export(project, merged, asked)
    current = making.is_current(store, project, merged)
    make = making.make_in_graph if current else making.make_beside_graph
    with live_progress(stderr):
        scored = make(project, store, merged, types)
    limits = EvaluationKeys.of(project.settings.evaluation).gguf.model_dump()
    facts, key = export_facts(store, merged, project.settings), find_key(store.root)
    modelfiles = modelfiles_of(store, merged, scored, types, facts.card.license)
    plan = plan_gguf(store, merged, target, scored, types, limits=limits, force=force, modelfiles=modelfiles)

    def describe(folder: Path) -> None:
        write_prompt_files(store, merged, folder, with_texts=with_texts)
        disclose(folder, facts, key, lambda card: adapt_card(card, plan))

    show_writing(plan.bytes, lambda report_bytes: write_gguf(plan, describe, report_bytes))
    return Answer(_document(plan, current), partial(_show, plan=plan, current=current))


def _document(plan: GgufExport, current: bool) -> dict[str, Any]:
    model = plan.model
    return {
        "name": model.row,
        "kind": "gguf",
        "path": str(plan.target),
        "files": sorted(path.name for path in plan.target.iterdir()),
        "bytes": plan.bytes,
        "types": results(plan),
        "notes": list(plan.scored.scores.summary["notes"]),
        "conversion": plan.scored.scores.summary["conversion"],
        "in_comparison": current,
        "technique": model.serving["technique"],
        "system_prompt": model.serving["system_prompt"],
        "fingerprint": model.released_fingerprint,
        "no_modelfile": plan.modelfiles.problem,
        "signed": (plan.target / SIGNATURE).is_file(),
    }


def _show(console: Console, document: dict[str, Any], plan: GgufExport, current: bool) -> None:
    say(
        console,
        f"Exported {plain(document['name'])} as {len(plan.types)} GGUF files to "
        f"{plain(document['path'])} ({document['bytes'] / 1e6:.1f} MB)"
        if len(plan.types) > 1
        else f"Exported {plain(document['name'])} as a GGUF file to {plain(document['path'])} "
        f"({document['bytes'] / 1e6:.1f} MB)",
    )
    print_columns(console, _table(plan, document["conversion"]))
    say(
        console,
        "Loss and KL: nats per token against the merged model. Agreement: share of the answers that are the merged "
        "model's own up to the first close call; identical: as a whole. f32 shows whether the conversion is right.",
    )
    for sentence in [*document["notes"], *([] if current else [NO_ROW])]:
        say(console, plain(sentence))
    for name in plan.types:
        if failures := plan.failures[name]:
            say(console, f"{name} fails its gate: {plain('; '.join(failures))}.")
    if document["no_modelfile"]:
        say(console, f"No Modelfile for Ollama: {plain(document['no_modelfile'])}")
    show_signature(console, document["signed"])
    show_prompt(console, plan.model)


def _table(plan: GgufExport, conversion: Mapping[str, Any]) -> Table:
    """Return the table of the files and their costs. conversion: the costs of f32."""
    titles = ("file", "MB", "loss", "KL", "agreement", "identical")
    table = new_table(*titles, right=titles[1:])
    for name in plan.types:
        costs, path = plan.scored.costs(name), plan.scored.path(name)
        numbers = (describe_score(costs.loss_increase, 4, sign="+"), describe_score(costs.kl, 4))
        shares = (describe_score(costs.agreement), describe_score(costs.identical))
        table.add_row(plain(path.name), f"{path.stat().st_size / 1e6:.1f}", *numbers, *shares)
    if "f32" not in plan.types:
        exact = [describe_score(Score(**conversion[key])) for key in ("agreement", "identical")]
        table.add_row("(f32, not exported)", "", "", "", *exact)
    return table
