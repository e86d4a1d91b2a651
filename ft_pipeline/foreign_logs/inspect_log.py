"""Read a log of Inspect: a .eval file, which is a zip of JSON, or the same as one JSON document."""

import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import zstandard

from ft_pipeline.errors import UserError
from ft_pipeline.foreign_logs.scores import ModelScores, text_of

HEADER, SAMPLES = "header.json", "samples/"
"""Members of a .eval file."""
ZSTANDARD = 93
LOCAL_HEADER = "<4s5H3I2H"
"""Of a member of a zip: the last two numbers are the sizes of its name and of its extra field."""


def read(path: Path) -> list[ModelScores]:
    """Return the scores in a .eval file. UserError if it is still being written."""
    try:
        with zipfile.ZipFile(path) as archive:
            if HEADER not in archive.namelist():
                raise UserError(f"{path.name} is not finished: it has no {HEADER}. Wait for the end of the evaluation.")
            header = json.loads(_member(archive, HEADER))
            return [scores_of(header, _samples(archive), str(path))]
    except (NotImplementedError, zipfile.BadZipFile, zstandard.ZstdError) as error:
        how = "Convert it: inspect log convert --to json --output-dir FOLDER FILE"
        raise UserError(f"{path.name} cannot be unpacked ({error}). {how}") from None


def _samples(archive: zipfile.ZipFile) -> Iterator[dict[str, Any]]:
    for name in sorted(archive.namelist()):
        if name.startswith(SAMPLES) and name.endswith(".json"):
            yield json.loads(_member(archive, name))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return a member of a zip. Inspect compresses them with Zstandard, which Python's zipfile cannot read yet."""
    info = archive.getinfo(name)
    if info.compress_type != ZSTANDARD or archive.fp is None:
        return archive.read(name)
    archive.fp.seek(info.header_offset)
    *_, name_size, extra_size = struct.unpack(LOCAL_HEADER, archive.fp.read(struct.calcsize(LOCAL_HEADER)))
    archive.fp.seek(name_size + extra_size, 1)
    content = zstandard.ZstdDecompressor().decompressobj().decompress(archive.fp.read(info.compress_size))
    if zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"{name} is damaged")
    return content


def scores_of(header: Mapping[str, Any], samples: Iterable[Mapping[str, Any]], source: str) -> ModelScores:
    """Return the scores of an evaluation. An item that was answered in several epochs has several.

    header: with `eval`. samples: id, epoch, input, and by scorer the scores; without them, the item failed.
    """
    scores = ModelScores(header["eval"]["model"], source)
    scores.settings["task"] = str(header["eval"].get("task", ""))
    for sample in samples:
        item = str(sample["id"])
        scores.ask(item, text_of(_asked(sample.get("input"))))
        found = sample.get("scores") or {}
        is_scored = [
            scores.add(name, item, value)
            for scorer, score in found.items()
            for name, value in _named(scorer, score.get("value"))
        ]
        if not any(is_scored):
            scores.failed.add(item)
    return scores


def _asked(given: Any) -> Any:
    """Return the contents of messages, or the text itself."""
    return [message.get("content") for message in given] if isinstance(given, list) else given


def _named(scorer: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the metrics of a scorer: itself, or scorer/key of each of several values."""
    if isinstance(value, dict):
        yield from ((f"{scorer}/{key}", each) for key, each in value.items())
    else:
        yield scorer, value
