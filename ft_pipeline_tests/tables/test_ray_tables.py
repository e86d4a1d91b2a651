"""Tables that a Ray cluster of two nodes on this machine builds are the tables of one process."""

import csv
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, write_listing
from ft_pipeline.step import BuildContext
from ft_pipeline.steps import tables
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables import cache_key, ray_tables
from ft_pipeline.tables.accounts import TableReport
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.excluded_rows import Excluded
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.file_task import FileTask
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.process_batch import BatchResult
from ft_pipeline.tables.ray_tables import RAY_TABLES, RayTables
from ft_pipeline.tables.reading.batches import Batch
from ft_pipeline.tables.reading.sidecar import PLAIN
from ft_pipeline.tables.reason_codes import Refused
from ft_pipeline_tests.tables.helpers import GOOD, write_jsonl

ROOT = Path(__file__).parents[2]
SHARES = DataSettings(validation_share=0.2, test_share=0.2)
NODE = {"num_cpus": 1, "object_store_memory": 150_000_000}


def long_with_ray(test: Any) -> Any:
    reason = "pip install 'ft-pipeline[ray]'"
    return pytest.mark.long(pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason=reason)(test))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A ray.cluster_utils.Cluster of two nodes with one CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # a short path: it has the names of sockets
        patch.setenv("RAY_TMPDIR", folder)
        running = Cluster()
        try:
            running.add_node(**NODE, include_dashboard=False)
            running.add_node(**NODE)
            yield running
        finally:
            running.shutdown()
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> Iterator[RayTables]:
    """The connection of this process to the two nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(RAY_TABLES, nodes.address)
        patch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")  # the dashboard, which FT_LAUNCHER=ray uses
        with ray_tables.connect() as connected:
            assert connected is not None and connected.cpus == 2
            yield connected


def question(number: int, words: int = 30) -> dict[str, str]:
    draw = np.random.default_rng(number)
    text = " ".join(f"word{word}" for word in draw.integers(0, 3000, words))
    return {"instruction": f"Question about {text}?", "input": "", "output": f"The answer of {text} is good."}


def changed(row: dict[str, str], copy: int) -> dict[str, str]:
    """A row that is equal, equal after normalization, or near."""
    if copy % 3 == 0:
        return dict(row)
    if copy % 3 == 1:
        return {**row, "instruction": row["instruction"].upper()}
    return {**row, "output": row["output"].replace("is good", f"is good{copy}")}


def alpaca_files(raw: Path) -> list[SourceFile]:
    rows = [question(number) for number in range(900)]
    copies = [changed(rows[number * 2], number) for number in range(400)]
    broken = ['{"instruction": "no end', b"\xff\xfe broken", "[1, 2]", '{"instruction": "", "output": ""}', ""]
    golden = [question(number) for number in range(5000, 5040)]
    contents: dict[str, list[Any]] = {
        "a.jsonl": rows[:400] + broken + copies[:100],
        "b.jsonl": copies[100:200] + broken + rows[400:600],
        "g.jsonl": golden + [changed(golden[number], number) for number in range(9)] + rows[:5],
        "z.jsonl": ["no row", "at all"],
        "y.jsonl": [" ", ""],
    }
    files = [SourceFile(name, write_jsonl(raw / name, content), "") for name, content in contents.items()]
    files[2] = SourceFile("g.jsonl", raw / "g.jsonl", "", {"split": "test"})
    (raw / "c.json").write_text(json.dumps(rows[600:750] + copies[200:300]))
    (raw / "d.json").write_text(json.dumps(rows[:400])[:-100])  # cut off
    (raw / "e.json").write_text(f"[{json.dumps(rows[0])}, nothing, {json.dumps(rows[1])}]")
    with (raw / "f.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[750:] + copies[300:])
    return files + [SourceFile(name, raw / name, "") for name in ("c.json", "d.json", "e.json", "f.csv")]


def sharegpt_files(raw: Path) -> list[SourceFile]:
    def conversation(row: dict[str, str]) -> dict[str, Any]:
        turns = [("human", row["instruction"]), ("gpt", row["output"]), ("human", "And then?"), ("gpt", "No more.")]
        return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}

    rows = [question(number) for number in range(600)]
    rows += [changed(rows[number], number) for number in range(200)]
    names = ["one.jsonl", "three.jsonl", "two.jsonl"]
    parts = [[conversation(row) for row in rows[number::3]] for number in range(3)]
    return [SourceFile(name, write_jsonl(raw / name, part), "") for name, part in zip(names, parts, strict=True)]


def preference_files(raw: Path) -> list[SourceFile]:
    rows = [question(number) for number in range(60)]
    pairs = [{"prompt": row["instruction"], "chosen": row["output"], "rejected": "No idea at all."} for row in rows]
    reverse = [{**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in pairs[:20]]
    return [
        SourceFile("a.jsonl", write_jsonl(raw / "a.jsonl", pairs), ""),
        SourceFile("b.jsonl", write_jsonl(raw / "b.jsonl", reverse + pairs[30:40]), ""),
    ]


MAKERS = {"alpaca": alpaca_files, "sharegpt": sharegpt_files, "preferences": preference_files}


def build(folder: Path, data_format: str, cluster: RayTables | None) -> tuple[TableReport, dict[str, bytes]]:
    """Return the report, and the content of each file of the artifact."""
    options: dict[str, Any] = {"map_files": cluster.map_files, "shards": cluster.shards} if cluster else {}
    raw, out = folder / "raw", folder / ("cluster" if cluster else "here")
    raw.mkdir(exist_ok=True)
    excluded = {"0" * 32}
    files = MAKERS[data_format](raw)
    report = build_table(data_format, files, out, max_quarantined=0.9, shares=SHARES, excluded=excluded, **options)
    return report, {path.name: path.read_bytes() for path in out.iterdir()}


@long_with_ray
@pytest.mark.parametrize("data_format", MAKERS)
def test_the_table_of_two_nodes_is_the_table_of_one_process(
    tmp_path: Path, data_format: str, cluster: RayTables
) -> None:
    here, files_here = build(tmp_path, data_format, None)
    there, files_there = build(tmp_path, data_format, cluster)
    assert there.to_json() == here.to_json() and there.preview == here.preview
    assert files_there == files_here and {"rows.parquet", "set_aside.parquet", "files.parquet"} <= files_here.keys()
    reasons = {code for account in here.files for code in account.reasons}
    refused = {account.file for account in here.files if account.status == "refused"}
    expected = {
        "alpaca": {"duplicate", "near_duplicate", "invalid_json", "not_utf8"},
        "sharegpt": {"duplicate", "near_duplicate"},
        "preferences": {"duplicate", "contradicting_pair"},
    }
    assert expected[data_format] <= reasons
    assert refused == ({"d.json", "e.json", "y.jsonl", "z.jsonl"} if data_format == "alpaca" else set())


@dataclass(frozen=True)
class RecordingTask(FileTask):
    """Notes the node that processes each batch."""

    def process(self, batch: Batch, excluded: Collection[str]) -> BatchResult:
        (self.folder / f"node-{batch.rows[0]}").write_text(current_node())
        return super().process(batch, excluded)


def current_node(_: Any = None) -> str:
    import ray

    time.sleep(0.5)  # so that every node gets some work
    return str(ray.get_runtime_context().get_node_id())


def long_file(folder: Path) -> list[FileTask]:
    """A file of 9,000 rows in several batches."""
    words = " ".join(f"word{number}" for number in range(300))
    path = write_jsonl(folder / "long.jsonl", [{"text": f"Row {number}. {words}"} for number in range(9000)])
    return [RecordingTask(path, folder, ".jsonl", folder, "text", FORMATS["text"], PLAIN)]


@long_with_ray
def test_both_nodes_process_batches_of_one_file_and_shards(tmp_path: Path, cluster: RayTables) -> None:
    batches = next(cluster.map_files(long_file(tmp_path), set()))
    assert [number for _, result in batches for number in result.rows] == list(range(1, 9001))
    nodes = [note.read_text() for note in tmp_path.glob("node-*")]
    assert len(nodes) >= 4 and len(set(nodes)) == 2
    assert len(set(cluster.map(current_node, range(20)))) == 2


@long_with_ray
def test_rows_are_complete_although_a_node_dies(tmp_path: Path, nodes: Any, cluster: RayTables) -> None:
    third = nodes.add_node(**NODE)
    files = replace(cluster, cpus=3).map_files(long_file(tmp_path), set())
    rows: list[int] = []
    for _, result in next(files):
        if not rows:
            nodes.remove_node(third, allow_graceful=False)
        rows += result.rows.tolist()
    assert rows == list(range(1, 9001)) and not list(files)


@long_with_ray
def test_the_step_builds_the_same_artifact_on_the_cluster(
    tmp_path: Path, cluster: RayTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    alpaca_files(raw)
    artifacts = []
    for name in ("here", "there"):
        if name == "here":
            monkeypatch.delenv(RAY_TABLES, raising=False)
        else:
            monkeypatch.setenv(RAY_TABLES, cluster.address)
            monkeypatch.setattr(ray_tables, "connect", lambda: nullcontext(cluster))
        store = ArtifactStore(tmp_path / name)
        raw_spec = snapshot_folder(raw, store).spec("alpaca")
        draft = store.begin(raw_spec.with_code_version("1"))
        snapshot = store.commit(draft, write_listing(Snapshot.from_json(raw_spec.config), draft.out), {})
        config = {"format": "alpaca", "max_quarantined": 0.9, "excluded": Excluded().to_json()}
        draft = store.begin(Spec("alpaca", {"raw": snapshot.reference}, config))
        context = BuildContext(None, store, draft.spec, {"raw": snapshot.path}, draft.out)
        artifacts.append(store.commit(draft, tables.build(context), {}))
    here, there = artifacts
    assert there.fingerprint == here.fingerprint and there.summary == here.summary
    assert sorted(path.name for path in there.path.iterdir()) == sorted(path.name for path in here.path.iterdir())


@long_with_ray
def test_a_node_with_another_version_ends_the_build_with_its_name(tmp_path: Path, cluster: RayTables) -> None:
    other = replace(cluster, code="another")
    tasks = [
        FileTask(
            write_jsonl(tmp_path / "a.jsonl", GOOD["text"]),
            tmp_path,
            ".jsonl",
            tmp_path,
            "text",
            FORMATS["text"],
            PLAIN,
        )
    ]
    message = r"The Ray cluster at .+ did not finish the table: node .+ has another version of ft-pipeline"
    with pytest.raises(UserError, match=message):
        next(next(other.map_files(tasks, set())))
    with pytest.raises(UserError, match=message):
        list(other.map(len, ["a"]))


def test_without_the_variable_nothing_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(RAY_TABLES, raising=False)
    with ray_tables.connect() as cluster:
        assert cluster is None


@pytest.mark.parametrize("address", ["http://head:8265", "head", "auto"])
def test_an_address_that_is_not_one_of_a_head_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAY_TABLES, address)
    with pytest.raises(UserError, match=r"FT_RAY_TABLES=.+ is not HOST:PORT\. Set it"), ray_tables.connect():
        pass


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "no-such-host.invalid:6379"])
def test_a_cluster_that_does_not_answer_is_one_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    monkeypatch.setenv(RAY_TABLES, address)
    with pytest.raises(UserError, match=r"No Ray cluster answers at .+ Join it with `ray start"), ray_tables.connect():
        pass


def test_without_ray_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RAY_TABLES, "127.0.0.1:6379")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the extra `ray`\. Run: pip install"), ray_tables.connect():
        pass


# --- the rows that travel between the nodes, without Ray -----------------------------------------------------------


def travel(task: FileTask) -> list[tuple[Batch, BatchResult]]:
    code = cache_key.code_hash(Path(ray_tables.__file__).parent)
    rows = [ray_tables._process(row, excluded=set()) for row in ray_tables._read({"file": 0, "task": task}, code)]
    assert {row["file"] for row in rows} == {0}
    return list(ray_tables._results(iter(rows)))


def test_a_batch_travels_back_without_its_bytes(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [*GOOD["alpaca"], "broken"])
    [(batch, result)] = travel(FileTask(path, tmp_path, ".jsonl", tmp_path, "alpaca", FORMATS["alpaca"], PLAIN))
    assert (batch.block, batch.lines, batch.values) == (None, None, [])
    assert (result.read, result.rows.tolist(), result.table) == (3, [1, 2], None)


@pytest.mark.parametrize(("content", "code"), [('[{"text": "a"}, ', "invalid_json"), ("", "empty_file")])
def test_a_refusal_travels_back(tmp_path: Path, content: str, code: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(Refused) as refused:
        travel(FileTask(path, tmp_path, ".json", tmp_path, "text", FORMATS["text"], PLAIN))
    assert refused.value.code == code


def test_a_file_without_batches_travels_back(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n")
    assert travel(FileTask(path, tmp_path, ".csv", tmp_path, "text", FORMATS["text"], PLAIN)) == []
