"""`ft sql` queries the current tables under stable names, without access to other files."""

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.store.sql_views import query, write_views


def materialize(store: ArtifactStore, asset: str, partition: str | None = None, **tables: dict) -> Path:
    draft = store.begin(Spec(asset, config={"partition": partition, "tables": repr(tables)}))
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), draft.out / f"{name}.parquet")
    artifact = store.commit(draft, {})
    AssetPointers(store.root).write(asset, partition, artifact)
    return artifact.path


@pytest.fixture
def filled_store(store: ArtifactStore) -> ArtifactStore:
    materialize(store, "alpaca", rows={"instruction": ["a", "b"]}, set_aside={"code": ["duplicate"]})
    materialize(store, "training_data", "qlora", train={"id": ["1", "2"]}, validation={"id": ["3"]})
    materialize(store, "training_data", "lora", train={"id": ["1"], "extra": [5]}, validation={"id": ["3"]})
    return store


def test_tables_have_stable_names(filled_store: ArtifactStore) -> None:
    assert query(filled_store, "select count(*) as n from alpaca") == (["n"], [(2,)])
    assert query(filled_store, "from alpaca_set_aside").rows == [("duplicate",)]
    rows = query(
        filled_store, "select experiment, count(*), sum(extra) from training_data_train group by 1 order by 1"
    ).rows
    assert rows == [("lora", 1, 5), ("qlora", 2, None)]
    rows = query(filled_store, "select experiment, split, id from training_rows order by all").rows
    assert rows == [
        ("lora", "train", "1"),
        ("lora", "validation", "3"),
        ("qlora", "train", "1"),
        ("qlora", "train", "2"),
        ("qlora", "validation", "3"),
    ]
    artifacts = query(filled_store, "select asset, experiment from current_artifacts order by all").rows
    assert artifacts == [("alpaca", None), ("training_data", "lora"), ("training_data", "qlora")]
    assert query(filled_store, "summarize alpaca").rows
    assert query(filled_store, "describe alpaca").rows
    assert query(filled_store, "explain select 1").rows


def test_a_new_table_replaces_the_old_one_under_the_same_name(filled_store: ArtifactStore) -> None:
    materialize(filled_store, "alpaca", rows={"instruction": ["c"]})
    assert query(filled_store, "from alpaca").rows == [("c",)]


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_text('/etc/passwd')",
        "select * from '/etc/passwd'",
        "select * from read_csv('/etc/passwd')",
        "select * from glob('/etc/*')",
        "select * from read_parquet('{own}')",
        "copy (select 1) to '{own}'",
        "attach '{folder}/x.db'",
        "install httpfs",
        "load httpfs",
        "set enable_external_access = true",
        "create table t as select 1",
        "drop view alpaca",
        "explain analyze copy (select 1) to '{folder}/x.csv'",
        "select 1; copy (select 1) to '{folder}/x.csv'",
        "pragma database_list",
        "",
    ],
)
def test_a_query_cannot_read_or_write_files(filled_store: ArtifactStore, statement: str) -> None:
    own = next(filled_store.artifacts.rglob("rows.parquet"))
    before = own.read_bytes()
    with pytest.raises(UserError):
        query(filled_store, statement.format(own=own, folder=filled_store.root))
    assert own.read_bytes() == before
    assert not list(filled_store.root.glob("x.*"))


def test_a_failed_query_names_the_cause(filled_store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="alpaca, alpaca_set_aside"):
        query(filled_store, "select * from nothing")
    with pytest.raises(UserError, match="not other files"):
        query(filled_store, "select * from read_text('/etc/passwd')")
    with pytest.raises(UserError, match="syntax error"):
        query(filled_store, "selekt 1")


def test_an_empty_store_has_no_tables(store: ArtifactStore) -> None:
    assert query(store, "select * from current_artifacts").rows == []
    with pytest.raises(UserError, match="Tables: current_artifacts"):
        query(store, "select * from alpaca")


def test_views_sql_works_in_any_duckdb_session(filled_store: ArtifactStore) -> None:
    script = write_views(filled_store).read_text()
    connection = duckdb.connect(":memory:")
    connection.execute(script)
    assert connection.execute("select count(*) from training_rows").fetchall() == [(5,)]
    connection.close()


def test_names_and_values_are_quoted(store: ArtifactStore) -> None:
    materialize(store, "training_data", "it's", train={"id": ["1"]})
    assert query(store, "select experiment from training_data_train").rows == [("it's",)]


def test_a_step_opens_only_the_artifacts_that_are_new(
    filled_store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_views(filled_store).read_text()
    opened = []
    open_artifact = ArtifactStore.open

    def record(store: ArtifactStore, kind: str, *arguments: Any) -> Any:
        opened.append(kind)
        return open_artifact(store, kind, *arguments)

    monkeypatch.setattr(ArtifactStore, "open", record)
    assert write_views(filled_store).read_text() == first and opened == []
    (filled_store.root / "cache" / "views.json").write_text("broken")
    assert write_views(filled_store).read_text() == first and opened
    opened.clear()
    folder = next((filled_store.root / "artifacts" / "alpaca").glob("*/*"))
    folder.rename(folder.with_name("moved"))
    assert "alpaca" not in write_views(filled_store).read_text() and opened == ["alpaca"]
    folder.with_name("moved").rename(folder)
    assert write_views(filled_store).read_text() == first, "a folder that was restored is found again"
