"""Every name that is written to disk or that users refer to, collected from the current code.

`python -m ft_pipeline_tests.persisted` writes fixtures/persisted_names.json again. Do that only for an intended change
of a name, in a separate commit: stores, dashboards and scripts of users contain these names.
"""

import dataclasses
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

import ft_pipeline
from ft_pipeline import scaffold
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.project import Project
from ft_pipeline.serving.chat_exchange import ChatRules
from ft_pipeline.serving.engine_pool import EnginePool, ReadyEngine, ServedModel
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline.store.artifact_redaction import Redaction
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers, Pointer
from ft_pipeline.store.manifest import FileEntry
from ft_pipeline.store.sql_views import view_files
from ft_pipeline.tables.reason_codes import FILE_CODES, ROW_CODES
from ft_pipeline_tests.evaluation.recorded import PROJECTS, document_of

GOLDEN = Path(__file__).parent / "fixtures" / "persisted_names.json"
TABLES = ("raw_*", "alpaca", "sharegpt", "text", "unlabelled", "preferences", "feedback", "conversations", "quarantine")
RECORDS = {
    "candidate": Candidate,
    "promotion": Promotion,
    "champion": ChampionRecord,
    "redaction": Redaction,
    "pointer": Pointer,
    "file": FileEntry,
}


def collect() -> dict[str, Any]:
    """Return names and golden values as plain JSON. Builds the tables of the worked example in a temporary project."""
    with tempfile.TemporaryDirectory() as scratch, _project(Path(scratch) / "shop") as project:
        from ft_pipeline_tests.graph import of_all_steps

        definitions = of_all_steps()
        return {
            **_names(definitions),
            "records": {name: _fields_of(record) for name, record in RECORDS.items()},
            "reason_codes": {"row": sorted(ROW_CODES), "file": sorted(FILE_CODES)},
            "environment": _environment_variables(),
            "metrics": _metrics(),
            "tables": _built_tables(definitions, project),
            "comparisons": {path.name: _comparison(path.name) for path in sorted(PROJECTS.iterdir()) if path.is_dir()},
        }


def _fields_of(record: type) -> list[str]:
    if issubclass(record, BaseModel):
        return list(record.model_fields)
    return [field.name for field in dataclasses.fields(record)]


@contextmanager
def _project(root: Path) -> Iterator[Project]:
    scaffold.create(root, example=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FT_PROJECT", str(root))
        patch.setenv("DAGSTER_HOME", str(root / "dagster_home"))
        yield Project.find(root)


def _names(definitions: dg.Definitions) -> dict[str, Any]:
    graph = definitions.resolve_asset_graph()
    repository = definitions.get_repository_def()
    specs = {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs()}
    return {
        "assets": {
            name: {
                "stage": spec.group_name,
                "code_version": spec.code_version,
                "inputs": sorted(dep.asset_key.to_user_string() for dep in spec.deps),
                "checks": sorted(key.name for key in graph.asset_check_keys if key.asset_key == spec.key),
                "pools": sorted(graph.get(spec.key).pools),
            }
            for name, spec in sorted(specs.items())
        },
        "sensors": sorted(sensor.name for sensor in repository.sensor_defs),
        "schedules": sorted(schedule.name for schedule in repository.schedule_defs),
        "jobs": sorted(job.name for job in repository.get_all_jobs()),
    }


def _environment_variables() -> list[str]:
    sources = "\n".join(path.read_text() for path in Path(ft_pipeline.__file__).parent.rglob("*.py"))
    return sorted(set(re.findall(r"[\"'](FT_[A-Z_]+)[\"']", sources)))


def _metrics() -> list[str]:
    """The metrics of `ft serve`, but for those of the process."""
    pool = EnginePool()
    pool.serve(
        ReadyEngine(ServedModel("name", "row", "fingerprint", "engine"), ("127.0.0.1", 0), ChatRules(None, None))
    )
    lines = ServingMetrics(pool).text().decode().splitlines()
    return sorted(line.split()[2] for line in lines if line.startswith("# TYPE ft_serve"))


def _built_tables(definitions: dg.Definitions, project: Project) -> dict[str, Any]:
    wanted = [
        definition
        for definition in definitions.resolve_asset_graph().assets_defs
        if any(Path(key.to_user_string()).match(pattern) for key in definition.keys for pattern in TABLES)
    ]
    with dg.DagsterInstance.ephemeral() as instance:
        assert dg.materialize(wanted, instance=instance).success
    store = ArtifactStore(project.store)
    pointers = sorted(AssetPointers(store.root).all(), key=lambda pointer: pointer.asset)
    artifacts = {pointer.asset: store.require(pointer.kind, pointer.fingerprint) for pointer in pointers}
    return {
        "artifacts": {asset: _described(artifact) for asset, artifact in artifacts.items()},
        "views": sorted(view_files(store)),
    }


def _described(artifact: Artifact) -> dict[str, Any]:
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    return {
        "fingerprint": artifact.fingerprint,
        "manifest": sorted(manifest),
        "spec": {key: sorted(value) for key, value in manifest["spec"].items() if isinstance(value, dict)},
        "files": sorted(entry["path"] for entry in manifest["files"]),
        "columns": {
            path.name: {field.name: str(field.type) for field in pq.read_schema(path)}
            for path in sorted(artifact.path.glob("*.parquet"))
        },
    }


def _comparison(name: str) -> dict[str, Any]:
    document = document_of(name)
    rounded = json.dumps(document, default=str)
    rounded = re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.6g}", rounded)
    return {"keys": _keys(document), "sha256": hashlib.sha256(rounded.encode()).hexdigest()}


def _keys(value: Any) -> Any:
    """Return the keys of a document in their order. A list is represented by its first item."""
    if isinstance(value, dict):
        return {key: _keys(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_keys(value[0])] if value else []
    return None


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(collect(), indent=1) + "\n", encoding="utf-8")
