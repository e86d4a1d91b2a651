"""Provenance of an exported model: an in-toto Statement v1 with the predicate SLSA Provenance v1.

It names the weight files by hash, what they were made from, and how. Made and signed on the machine that trained, it is
SLSA Build level 1, with a signature if the project has a key: nothing here shows that what the machine states is true.
"""

from collections.abc import Mapping
from typing import Any

from ft_pipeline.release.disclosure.facts import ExportFacts, package_url

BUILD_TYPE = "urn:ft-pipeline:fine-tuning:1"
BUILDER = "urn:ft-pipeline:own-machine"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"


def build_statement(facts: ExportFacts, weights: Mapping[str, str], row_list_sha256: str) -> dict[str, Any]:
    """Return the statement. weights: SHA-256 of each weight file of the export, by name."""
    last = facts.phases[-1]
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(weights.items())],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "form": form_of(facts, weights),
                    "phases": list(facts.settings),
                },
                "internalParameters": {
                    "seeds": [phase.get("seeds", {}) for phase in facts.phases],
                    "fingerprints": dict(facts.card.fingerprints),
                },
                "resolvedDependencies": _dependencies(facts),
            },
            "runDetails": {
                "builder": {"id": BUILDER, "version": {"ft-pipeline": last["code"]["version"]}},
                "metadata": {
                    "invocationId": last["run"].get("run_id") or last["spec_hash"],
                    "startedOn": facts.phases[0].get("begun") or facts.phases[0]["created"],
                    "finishedOn": facts.created,
                },
                "byproducts": [
                    {
                        "name": "training_rows.txt",
                        "digest": {"sha256": row_list_sha256},
                        "annotations": {"merkleRoot": facts.rows.root, "leaves": len(facts.rows.leaves)},
                    }
                ],
            },
        },
    }


def _dependencies(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return the base model's weights, the raw files, the code and the packages."""
    origin = [{"name": "base model", "uri": facts.base.purl}] if facts.base.purl else []
    base = [
        {"name": f"base model, as it was read: {name}", "digest": {"sha256": sha256}}
        for name, sha256 in sorted(facts.base.weights.items())
    ]
    files = [{"name": f"data: {file.name}", "digest": {"sha256": file.sha256}} for file in facts.data_files]
    return [*origin, *base, *files, *_code(facts), *_packages(facts)]


def _code(facts: ExportFacts) -> list[dict[str, Any]]:
    """Return the code of each phase: the hash of its source files, and the commit if it was clean."""
    found = {}
    for phase in facts.phases:
        code = phase["code"]
        commit = {"gitCommit": code["commit"]} if code.get("commit") and not code.get("dirty") else {}
        found[code["sha256"]] = {
            "name": "ft-pipeline source",
            "uri": package_url("pypi", "ft-pipeline", code["version"]),
            "digest": {"sha256": code["sha256"], **commit},
        }
    return list(found.values())


def _packages(facts: ExportFacts) -> list[dict[str, Any]]:
    return [{"name": name, "uri": package_url("pypi", name, version)} for name, version in package_versions(facts)]


def package_versions(facts: ExportFacts) -> list[tuple[str, str]]:
    """Return (package, version) of all phases, each pair once, without Python itself."""
    pairs = {pair for phase in facts.phases for pair in phase["packages"].items() if pair[0] != "python"}
    return sorted(pairs)


def form_of(facts: ExportFacts, weights: Mapping[str, str]) -> str:
    """Return in what form a model is exported: `merged`, `adapter` or `gguf`. weights: its weight files."""
    return "gguf" if any(name.endswith(".gguf") for name in weights) else facts.card.kind
