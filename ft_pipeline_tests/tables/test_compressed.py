"""Compressed raw files are read like the file inside; what is cut off, damaged, too large or an archive is refused."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile

import pytest
import zstandard

from ft_pipeline.sources.file_names import stem_of, suffix_of
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import checkout
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.hashing import sha256_of_file
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.reading import compressed
from ft_pipeline.tables.reading.compressed import begins_with, expanded
from ft_pipeline.tables.reading.json_reader import json_batches
from ft_pipeline.tables.reason_codes import Refused
from ft_pipeline_tests.contracts.formats import GOOD
from ft_pipeline_tests.tables.helpers import validate
from ft_pipeline_tests.tables.test_containers import CSV, LINES, ROWS, write_parquet

PACK = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_format_is_read_from_a_compressed_file(tmp_path, data_format, suffix):
    lines = "".join(json.dumps(row) + "\n" for row in GOOD[data_format]).encode()
    (tmp_path / "plain.jsonl").write_bytes(lines)
    (tmp_path / f"packed.jsonl.{suffix}").write_bytes(PACK[suffix](lines))
    plain, packed = (validate(tmp_path / name, data_format) for name in ("plain.jsonl", f"packed.jsonl.{suffix}"))
    assert packed["read"] == len(GOOD[data_format])
    assert {**packed, "file": "", "sha256": ""} == {**plain, "file": "", "sha256": ""}
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"packed.jsonl.{suffix}", "plain.jsonl"]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("inner", ["jsonl", "json", "csv", "parquet", ""])
def test_the_suffix_inside_decides_about_csv_and_parquet(tmp_path, inner, suffix):
    contents = {"csv": CSV, "parquet": write_parquet(tmp_path / "p", ROWS), "json": json.dumps(ROWS).encode()}
    path = tmp_path / ".".join(filter(None, ["rows", inner, suffix.upper() if inner == "csv" else suffix]))
    path.write_bytes(PACK[suffix](contents.get(inner, LINES)))
    assert validate(path, "alpaca")["accepted"] == 2


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", LINES), ("a.csv", CSV), ("a", LINES)])
def test_the_content_decides_whether_a_file_is_compressed(tmp_path, name, content):
    (tmp_path / name).write_bytes(zstandard.compress(content))
    assert validate(tmp_path / name, "alpaca")["accepted"] == 2
    plain = tmp_path / f"{name}.gz"  # a browser has unpacked it, and kept the name
    plain.write_bytes(content)
    assert validate(plain, "alpaca")["accepted"] == 2


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(LINES[:200]) + gzip.compress(LINES[200:]) + b"\x00" * 512,  # padded to a block, as tapes are
        bz2.compress(LINES[:200]) + bz2.compress(LINES[200:]),
        zstandard.compress(LINES[:200]) + zstandard.compress(LINES[200:]),
        b"\x50\x2a\x4d\x18\x04\x00\x00\x00\x01\x02\x03\x04" + zstandard.compress(LINES),  # as pzstd writes it
        zstandard.ZstdCompressor(write_content_size=False).compress(LINES),
    ],
    ids=["gz", "bz2", "zst", "pzstd", "zst without sizes"],
)
def test_a_file_of_several_streams_is_read_to_its_end(tmp_path, content):
    (tmp_path / "a.jsonl").write_bytes(content)
    assert validate(tmp_path / "a.jsonl", "alpaca")["accepted"] == len(ROWS)


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 8]) + content[middle + 8 :]


MANY = "".join(json.dumps({**ROWS[0], "output": f"Answer {number * 7919}"}) + "\n" for number in range(3000)).encode()


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("keep", [5, 0.5, -1])
def test_a_stream_that_is_cut_off_is_refused(tmp_path, suffix, keep):
    content = PACK[suffix](MANY)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    report = validate(path, "alpaca")
    assert (report["status"], report["read"], report["error"]["code"]) == ("refused", 0, "compressed")
    assert report["error"]["message"].endswith("stream is cut off; copy or download the file again")


@pytest.mark.parametrize(
    ("suffix", "content"),
    [(suffix, damaged(pack(MANY))) for suffix, pack in PACK.items() if suffix != "zst"]
    + [("zst", damaged(zstandard.ZstdCompressor(write_checksum=True).compress(MANY)))]
    + [(suffix, pack(MANY) + b"what follows") for suffix, pack in PACK.items()],
)
def test_a_damaged_stream_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(content)
    report = validate(path, "alpaca")
    assert (report["status"], report["read"], report["error"]["code"]) == ("refused", 0, "compressed")
    assert "stream is damaged; compress the file again" in report["error"]["message"]


def archive(kind: str) -> bytes:
    sink = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(sink, "w") as folder:
            folder.writestr("a.jsonl", LINES)
    else:
        with tarfile.open(fileobj=sink, mode="w") as folder:
            folder.addfile(tarfile.TarInfo("a.jsonl"), io.BytesIO())
    return sink.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (archive("zip"), "zip"),
        (archive("tar"), "tar"),
        (gzip.compress(archive("tar")), "tar"),
        (lzma.compress(LINES), "xz"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z"),
        (b"Rar!\x1a\x07" + bytes(40), "rar"),
        (b"\x04\x22\x4d\x18" + bytes(40), "lz4"),
        (bz2.compress(gzip.compress(LINES)), "gzip"),
    ],
    ids=["zip", "tar", "tar.gz", "xz", "7z", "rar", "lz4", "gz.bz2"],  # gzip has the time: no id by content
)
def test_archives_and_what_is_compressed_twice_are_refused(tmp_path, content, kind):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    error = validate(tmp_path / "a.jsonl.gz", "alpaca")["error"]
    message = f"the content is a {kind} archive; unpack it and put the file itself here"
    assert (error["code"], error["message"]) == ("compressed", message)


@pytest.mark.parametrize("suffix", PACK)
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(compressed, "MIN_LIMIT_BYTES", 1 << 20)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(PACK[suffix](b" " * (50 << 20)))
    error = validate(path, "alpaca")["error"]
    assert error["code"] == "compressed" and "expands to more than" in error["message"]
    pieces = []
    with pytest.raises(Refused):
        pieces.extend(len(piece) for piece in compressed._pieces(path, compressed.codec_of(path)))
    assert sum(pieces) <= max(1 << 20, 200 * path.stat().st_size) + (1 << 20)


def test_the_largest_size_holds_for_any_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "MAX_EXPANDED_BYTES", len(MANY) - 1)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(MANY))
    assert validate(tmp_path / "a.jsonl.gz", "alpaca")["error"]["code"] == "compressed"
    monkeypatch.setattr(compressed, "MAX_EXPANDED_BYTES", len(MANY))
    assert validate(tmp_path / "a.jsonl.gz", "alpaca")["read"] == 3000


def test_row_numbers_are_those_of_the_file_inside(tmp_path):
    lines = LINES.split(b"\n")
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(b"\n".join([lines[0], b"", b"{broken", lines[1]])))
    assert validate(tmp_path / "a.jsonl.bz2", "alpaca")["reasons"] == {"invalid_json": [3]}


def test_an_empty_stream_has_no_rows(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b""))
    assert validate(tmp_path / "a.jsonl.gz", "alpaca")["error"]["code"] == "empty_file"


@pytest.mark.parametrize(
    ("name", "stem", "suffix"),
    [
        ("support.jsonl.gz", "support", ".jsonl"),
        ("more/Support.CSV.ZST", "more/Support", ".csv"),
        ("support.bz2", "support", ""),
        ("support.v2.json", "support.v2", ".json"),
        ("support.yaml", "support", ".yaml"),
        ("support.jsonl.xz", "support.jsonl", ".xz"),
        ("support", "support", ""),
        (".", ".", ""),
    ],
)
def test_a_compression_is_not_part_of_the_stem_and_the_suffix(name, stem, suffix):
    assert (stem_of(name), suffix_of(name)) == (stem, suffix)


def test_a_compressed_file_and_its_sidecar_share_one_stem(tmp_path):
    raw = tmp_path / "raw" / "alpaca"
    raw.mkdir(parents=True)
    rows = [{"question": "Where is it?", "answer": "At the depot."}, {"question": "When?", "answer": "On Monday."}]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (raw / "support.jsonl.gz").write_bytes(packed)
    (raw / "support.yaml").write_text("columns: {question: instruction, answer: output}\n")
    assert validate(raw / "support.jsonl.gz", "alpaca")["accepted"] == 2
    store = ArtifactStore(tmp_path / "store")
    snapshot = snapshot_folder(raw, store)
    (entry,) = snapshot.entries
    assert snapshot.unused_sidecars == [] and entry.sidecar == sha256_of_file(raw / "support.yaml")
    assert (entry.sha256, entry.bytes) == (sha256_of_file(raw / "support.jsonl.gz"), len(packed)), "the user's bytes"
    (copy,) = checkout(snapshot, store, tmp_path / "out")
    assert copy.path.read_bytes() == packed and copy.sidecar_path.name == "support.yaml"
    (raw / "support.yml").write_text("{}")
    assert "rename support.yml" in validate(raw / "support.jsonl.gz", "alpaca")["error"]["message"]


def test_the_expanded_file_is_there_only_while_it_is_read(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES))
    with expanded(tmp_path / "a.jsonl.gz", tmp_path / "work") as plain:
        assert plain.parent == tmp_path / "work" and plain.read_bytes() == LINES
        assert sum(1 for _ in json_batches(plain)) == 1
    assert list((tmp_path / "work").iterdir()) == []
    assert begins_with(tmp_path / "a.jsonl.gz", LINES[:6]) and not begins_with(tmp_path / "a.jsonl.gz", b"PAR1")
