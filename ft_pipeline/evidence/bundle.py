"""Write the evidence of a decision into a folder: answers, claims, matrix, settings, ledgers, under one signature."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from ft_pipeline.cli.command import Answer
from ft_pipeline.cli.display_text import plain, say
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import decision_about, read_comparison
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.estimates import RATIOS
from ft_pipeline.evaluation.comparison.leads import unit_of
from ft_pipeline.evaluation.metrics.call_metrics import CALL_ITEMS
from ft_pipeline.evidence import verify_evidence
from ft_pipeline.project import Project
from ft_pipeline.release.export.target_folder import draft_folder, require_free_folder
from ft_pipeline.release.intact import require_signed_evidence
from ft_pipeline.release.model_lookup import ModelReference
from ft_pipeline.settings.checks import MACRO_F1
from ft_pipeline.settings.evaluation import CALL_METRICS
from ft_pipeline.step import write_json
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.store.signing import PUBLIC_KEY_NAME, STATEMENT_TYPE, find_key

LEDGERS = ("exposures", "validation_looks", "champion")
"""Folders of the store with numbered records, each with the hash of the one before."""
VERIFIER = "verify_evidence.py"


def export_evidence(
    project: Project,
    store: ArtifactStore,
    model: ModelReference,
    directory: Path,
    *,
    quantize: str | None,
    force: bool,
    with_texts: bool,
) -> Answer:
    """Write the evidence of the current decision, which examined a model.

    with_texts: also the answers and references, which are texts of the project's rows. UserError if there is no
    decision about the current comparison, if it did not examine the model, or if it is not as it was signed.
    """
    compared, decision = (current_artifact(store, asset) for asset in ("comparison", "decision"))
    decided = decision_about(store, compared)
    if compared is None or decision is None or not decided:
        raise UserError("There is no decision about the current comparison. Run `ft run` first.")
    if model.row not in decided.get("matrix", {}):
        examined = ", ".join(decided.get("matrix", {})) or "none"
        raise UserError(f"The decision did not examine {model.row}. Choose one of {examined}.")
    require_signed_evidence(store, [compared.reference, decision.reference])
    target = require_free_folder(directory)
    with draft_folder(target) as draft:
        _write_files(project, store, compared, decided, draft, with_texts=with_texts)
        names = sorted(path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file())
        signed = _write_statement(project, store, compared, model, draft, names)
    document = {"name": model.row, "path": str(target), "files": [*names, verify_evidence.STATEMENT], "signed": signed}
    return Answer(document, partial(_show, target=target))


def _show(console: Console, document: Mapping[str, Any], target: Path) -> None:
    signed = "signed" if document["signed"] else "not signed, for the store has no key"
    say(console, f"Exported the evidence to {plain(str(target))} ({len(document['files'])} files, {signed}).")
    say(
        console, f"To check it, with Python alone: python -I {VERIFIER} {plain(str(target))} KEY.pub (docs/evidence.md)"
    )


def _write_files(
    project: Project,
    store: ArtifactStore,
    compared: Artifact,
    decided: Mapping[str, Any],
    out: Path,
    *,
    with_texts: bool,
) -> None:
    comparison = read_comparison(compared)
    document = comparison.to_json()
    if not with_texts and document.get("changes"):
        document["changes"]["worst"] = []  # whole test rows
    write_json(out / "comparison.json", document)
    write_json(out / "decision.json", decided)
    with (out / "answers.jsonl").open("w", encoding="utf-8") as file:
        for sample in _samples(compared, comparison):
            answer = _answer(comparison.primary, sample, with_texts=with_texts)
            file.write(json.dumps(answer, ensure_ascii=False) + "\n")
    _copy(
        [project.root / "project.yaml", *(project.root / "experiments").glob("*.yaml")], project.root, out / "settings"
    )
    records = [path for name in LEDGERS for path in (store.root / name).rglob("*") if path.suffix in (".json", ".txt")]
    _copy(records, store.root, out / "ledgers")
    shutil.copyfile(verify_evidence.__file__, out / VERIFIER)
    if (key := store.root / PUBLIC_KEY_NAME).is_file():
        shutil.copyfile(key, out / PUBLIC_KEY_NAME)


def _copy(files: Sequence[Path], root: Path, out: Path) -> None:
    """Copy files to the same places below another folder."""
    for path in files:
        copied = out / path.relative_to(root)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)


def _samples(compared: Artifact, comparison: Comparison) -> Iterator[dict[str, Any]]:
    """Yield the answers of the rows whose test results people see, by row and item."""
    shown = {row.name for row in comparison.rows if comparison.primary in row.scores}
    records = pq.read_table(compared.path / "samples.parquet").to_pylist()
    for record in sorted(records, key=lambda record: (record["name"], record["item"])):
        if record["name"] in shown and (comparison.primary not in CALL_METRICS or record[CALL_ITEMS]):
            yield record


def _answer(metric: str, sample: Mapping[str, Any], *, with_texts: bool) -> dict[str, Any]:
    """Return what an answer adds to the score of its row: a part of the sum, and of what it is divided by."""
    metric = metric.removesuffix(f"/{MACRO_F1}")
    numerator, denominator = RATIOS.get(metric, (metric, None))
    value = sample.get(numerator)
    return {
        "row": sample["name"],
        "item": sample["item"],
        "unit": unit_of(sample),
        "numerator": None if value is None else float(value),
        "denominator": 1.0 if denominator is None else float(sample[denominator]),
        **({name: sample.get(name) for name in ("answer", "reference")} if with_texts else {}),
    }


def _write_statement(
    project: Project,
    store: ArtifactStore,
    compared: Artifact,
    model: ModelReference,
    out: Path,
    names: Sequence[str],
) -> bool:
    """Write the statement about the files, and return whether it is signed."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256_of_file(out / name)}} for name in names],
        "predicateType": verify_evidence.PREDICATE,
        "predicate": {
            "project": project.settings.name,
            "row": model.row,
            "comparison": compared.fingerprint,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    key = find_key(store.root)
    content = key.sign(statement) if key is not None else json.dumps({"statement": statement}, indent=2).encode()
    (out / verify_evidence.STATEMENT).write_bytes(content)
    return key is not None
