"""`ft erase` in a finished project of an older version: every kind of file, tokens of every objective."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ft_pipeline.erasure.erase import erase
from ft_pipeline.lineage.artifact_index import ArtifactIndex
from ft_pipeline.project import Project
from ft_pipeline_tests.erasure.traces import decoded_tokens, traces, unknown_files
from ft_pipeline_tests.fixtures.packing import unpack

PACKED = Path(__file__).parents[1] / "fixtures" / "store_a73cd80.tar.zst"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return unpack(PACKED, tmp_path / "shop")


def test_every_file_is_of_a_known_kind(root: Path, tmp_path: Path) -> None:
    assert unknown_files(root, tmp_path) == []
    (root / "data" / "store" / "rows.duckdb").write_bytes(b"")
    (root / "dagster_home" / "rows.pickled").write_bytes(b"")
    assert [path.name for path in unknown_files(root, tmp_path)] == ["rows.pickled", "rows.duckdb"]


@pytest.mark.parametrize(
    "table",
    [
        *(pytest.param(name, marks=pytest.mark.long) for name in ("alpaca", "sharegpt", "text")),
        "preferences",
        "unlabelled",
    ],
)
def test_no_file_contains_an_erased_row(root: Path, table: str) -> None:
    node = ArtifactIndex(root / "data" / "store").all(table)[-1]
    assert node.path is not None
    row = pq.read_table(node.path / "rows.parquet").to_pylist()[-1]
    texts = _texts_of({name: value for name, value in row.items() if name not in ("file", "row", "id")})
    assert len(traces(root, *texts)) >= 3
    result = erase(Project(root), root / "data" / "raw" / table / row["file"], [row["row"]], "request 4711")
    assert traces(root, *texts, row["id"]) == result.also == []
    tokens = decoded_tokens(root)
    assert tokens and not any(text in tokens for text in texts)


def _texts_of(value: object) -> list[str]:
    """The texts in a row of a table that are longer than a name."""
    if isinstance(value, dict):
        return [text for name, item in value.items() if name != "role" for text in _texts_of(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts_of(item)]
    return [value] if isinstance(value, str) and len(value) > 15 else []
