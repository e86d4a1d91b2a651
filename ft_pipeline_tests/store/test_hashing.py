"""Content hashes: what changes them and what does not."""

import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from ft_pipeline.store.hashing import canonical_json, plain_json, sha256_of_file, sha256_of_json
from ft_pipeline.store.row_hash import sha256_of_rows
from ft_pipeline_tests.examples import examples

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("row", pa.int64()),
        ("score", pa.float32()),
        ("kept", pa.bool_()),
        ("messages", MESSAGES),
        ("labels", pa.list_(pa.int32())),
        ("raw", pa.binary()),
    ]
)
message = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.none() | st.text()})
row = st.fixed_dictionaries(
    {
        "id": st.none() | st.text(),
        "row": st.none() | st.integers(-(2**63), 2**63 - 1),
        "score": st.none() | st.floats(width=32),
        "kept": st.none() | st.booleans(),
        "messages": st.none() | st.lists(st.none() | message, max_size=3),
        "labels": st.none() | st.lists(st.integers(-100, 50_000), max_size=5),
        "raw": st.none() | st.binary(max_size=5),
    }
)


def write(path: Path, rows: list[dict], schema: pa.Schema = SCHEMA, **options: object) -> str:
    pq.write_table(pa.Table.from_pylist(rows, schema), path, **options)
    return sha256_of_rows(path)


def test_equal_values_have_the_same_canonical_json() -> None:
    assert canonical_json({"b": 1, "a": ["é", None]}) == b'{"a":["\\u00e9",null],"b":1}'
    assert sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"loss": float("nan")})


def test_plain_json_converts_numpy_values_and_nan() -> None:
    values = {
        "loss": np.float32(0.5),
        3: np.int64(4),
        "bad": float("nan"),
        "ids": np.arange(2),
        "pair": (1, np.bool_(True)),
    }
    assert plain_json(values) == {"loss": 0.5, "3": 4, "bad": None, "ids": [0, 1], "pair": [1, True]}


def test_the_file_hash_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(row, max_size=12))
def test_the_rows_hash_ignores_the_encoding(tmp_path: Path, rows: list[dict]) -> None:
    plain = write(tmp_path / "a.parquet", rows)
    large = pa.schema([pa.field(f.name, pa.large_string() if f.type == pa.string() else f.type) for f in SCHEMA])
    assert plain == write(tmp_path / "b.parquet", rows, row_group_size=2, compression="zstd", use_dictionary=False)
    assert plain == write(tmp_path / "c.parquet", rows, large, row_group_size=3, version="1.0")
    assert plain == write(tmp_path / "d.parquet", rows, pa.schema(list(reversed(list(SCHEMA)))))


@examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(row, max_size=5), other_rows=st.lists(row, max_size=5))
def test_different_rows_have_different_hashes(tmp_path: Path, rows: list[dict], other_rows: list[dict]) -> None:
    same = pa.Table.from_pylist(rows, SCHEMA).equals(pa.Table.from_pylist(other_rows, SCHEMA))
    hashes = write(tmp_path / "a.parquet", rows), write(tmp_path / "b.parquet", other_rows)
    has_nan = "nan" in repr(rows) + repr(other_rows)  # NaN differs from itself for pyarrow, but not for the hash
    assert has_nan or (hashes[0] == hashes[1]) == same


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([{"v": "ab"}, {"v": "c"}], [{"v": "a"}, {"v": "bc"}]),
        ([{"v": None}], [{"v": ""}]),
        ([{"v": "a"}, {"v": "b"}], [{"v": "b"}, {"v": "a"}]),
    ],
)
def test_the_rows_hash_depends_on_boundaries_nulls_and_order(
    tmp_path: Path, first: list[dict], second: list[dict]
) -> None:
    schema = pa.schema([("v", pa.string())])
    assert write(tmp_path / "a.parquet", first, schema) != write(tmp_path / "b.parquet", second, schema)


def test_the_rows_hash_depends_on_where_a_nested_list_ends(tmp_path: Path) -> None:
    schema = pa.schema([("v", pa.list_(pa.list_(pa.int32())))])
    first = write(tmp_path / "a.parquet", [{"v": [[1], [2, 3]]}], schema)
    assert first != write(tmp_path / "b.parquet", [{"v": [[1, 2], [3]]}], schema)
    assert first != write(tmp_path / "c.parquet", [{"v": [[1]]}, {"v": [[2, 3]]}], schema)


def test_the_rows_hash_depends_on_column_name_and_type(tmp_path: Path) -> None:
    hashes = {
        write(tmp_path / "a.parquet", [{"v": 1}], pa.schema([(name, type_)]))
        for name, type_ in (("v", pa.int32()), ("v", pa.int64()), ("v", pa.float64()), ("w", pa.int32()))
    }
    assert len(hashes) == 4


def test_the_rows_hash_supports_rare_types(tmp_path: Path) -> None:
    schema = pa.schema(
        [
            ("when", pa.timestamp("us", "UTC")),
            ("cost", pa.decimal128(10, 2)),
            ("tags", pa.map_(pa.string(), pa.int32())),
            ("pair", pa.list_(pa.int32(), 2)),
            ("kind", pa.dictionary(pa.int8(), pa.string())),
            ("none", pa.null()),
        ]
    )
    when = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    rows = [
        {"when": when, "cost": Decimal("1.50"), "tags": [("a", 1)], "pair": [1, 2], "kind": "x", "none": None},
        {"when": None, "cost": None, "tags": None, "pair": None, "kind": None, "none": None},
    ]
    first = write(tmp_path / "a.parquet", rows, schema)
    assert first == write(tmp_path / "b.parquet", rows, schema, row_group_size=1)
    assert first != write(tmp_path / "c.parquet", [rows[1], rows[0]], schema)


def test_the_rows_hash_is_the_one_that_older_stores_recorded(tmp_path: Path) -> None:
    """Another hash of the same rows would make every stored table look changed."""
    messages = [{"role": "user", "content": "Hi"}, None, {"role": None, "content": ""}]
    rows = [
        {"id": "é", "row": 1, "score": 0.5, "kept": True, "messages": messages, "labels": [1, 2], "raw": b"\xff"},
        {"id": "", "row": -1, "score": float("nan"), "kept": False, "messages": [], "labels": [], "raw": b""},
        dict.fromkeys(SCHEMA.names),
    ]
    assert write(tmp_path / "a.parquet", rows) == "63166549904886507beab879646897460248902efa2b2fdedc6b8f5dfe4386d6"
    assert write(tmp_path / "b.parquet", []) == "563c499b6a461b720c8c407e29db012922e6220e25c52756bd937e18c81e1bda"


def test_the_rows_hash_covers_every_batch(tmp_path: Path) -> None:
    rows = [{"v": f"row {number}"} for number in range(10_000)]
    schema = pa.schema([("v", pa.string())])
    first = write(tmp_path / "a.parquet", rows, schema)
    assert first == write(tmp_path / "b.parquet", rows, schema, row_group_size=777)
    rows[9_999]["v"] = "row X"
    assert first != write(tmp_path / "c.parquet", rows, schema)
