"""What a YAML says about its remote source. What is refused here is neither stored nor asked."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import yaml

from ft_pipeline.settings.bounded_yaml import load_bounded
from ft_pipeline.sources.file_names import stem_of
from ft_pipeline.store.hashing import sha256_of_json

SOURCE_KEYS = ("source", "revision", "subset")
"""The keys of a YAML that are about its source. `split` is one, too, if the source is a data set of the hub."""
MAX_YAML_BYTES = 1 << 20
CONTENT_PIN = "sha256:"
"""Prefix of a revision that is the hash of the file."""
_SECRET_PARAMETER = re.compile(r"sig|token|secret|passw|pwd|credential|auth|key|^x-(amz|goog|ms)-", re.IGNORECASE)
_SECRET_KEY = re.compile(r"token|secret|passw|credential|authorization|(api|access)[-_]?key", re.IGNORECASE)
_SOURCE_LINE = re.compile(r"^source\s*:", re.MULTILINE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ONLY = "Use s3://BUCKET/KEY, hf://datasets/OWNER/NAME or https://HOST/PATH"


class BadSource(Exception):
    """A YAML whose source is refused. The message contains no secret."""


@dataclass(frozen=True)
class HubData:
    """A data set of the hub, or one file of it."""

    repository: str
    path: str
    """Empty: the whole data set, of which one split is read."""


@dataclass(frozen=True)
class RemoteSource:
    """Where a remote file is, and which state of it is read."""

    url: str
    revision: str | None = None
    """As the YAML has it; None: the newest."""
    subset: str | None = None
    split: str | None = None
    """Only for a whole data set of the hub."""

    @property
    def scheme(self) -> str:
        return self._parts.scheme

    @property
    def shown(self) -> str:
        """The URL for messages and records: without the values of its query."""
        return f"{self.url.partition('?')[0]}?…" if self._parts.query else self.url

    @property
    def key(self) -> str:
        """Identifies the source and what is read of it."""
        return sha256_of_json([self.url, self.revision, self.subset, self.split])

    @property
    def content_pin(self) -> str | None:
        """The SHA-256 that the file must have, if the revision is one."""
        revision = self.revision or ""
        return revision.removeprefix(CONTENT_PIN) if revision.startswith(CONTENT_PIN) else None

    @property
    def version(self) -> str | None:
        """The revision to ask the source for; None: the newest one."""
        return None if self.content_pin else self.revision

    @property
    def is_pinned(self) -> bool:
        """Whether the content can never change: a branch or tag of the hub is not pinned."""
        if self.revision is None or self.content_pin:
            return self.revision is not None
        return self.scheme != "hf" or bool(_COMMIT.fullmatch(self.revision))

    @cached_property
    def hub_data(self) -> HubData:
        """The parts of an hf:// URL."""
        owner, name, *path = self._parts.path.strip("/").split("/")
        return HubData(f"{owner}/{name}", "/".join(path))

    @cached_property
    def bucket_and_key(self) -> tuple[str, str]:
        """The parts of an s3:// URL."""
        bucket, _, key = self.url.removeprefix("s3://").partition("/")
        return bucket, key

    @cached_property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url)

    def file_name(self, stem: str) -> str:
        """Return the name under which the rows are listed: the stem of the YAML and the suffixes of the remote file."""
        if self.scheme == "hf" and not self.hub_data.path:
            return f"{stem}.parquet"
        path = self.bucket_and_key[1] if self.scheme == "s3" else unquote(self._parts.path)
        name = PurePosixPath(path).name
        return stem + name.removeprefix(stem_of(name))


def reading_keys(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a YAML without the keys that are about its source: those that say how the rows are read.

    `split: test` of a data set of the hub also has its usual meaning: no row of it is trained.
    """
    if "source" not in document:
        return dict(document)
    kept = {key: value for key, value in document.items() if key not in SOURCE_KEYS}
    if _is_whole_data_set(document["source"]) and kept.get("split") != "test":
        kept.pop("split", None)
    return kept


def read_source(path: Path) -> RemoteSource | None:
    """Return the source that a YAML names; None for a YAML without a source. Raises BadSource."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            return None
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None
    if "source" not in text:  # most sidecars: parsing thousands of them takes seconds
        return None
    try:
        document = load_bounded(text)
    except (yaml.YAMLError, ValueError):
        if _SOURCE_LINE.search(text):
            raise BadSource("not valid YAML, although it names a source: correct it") from None
        return None
    return parse_source(document) if isinstance(document, dict) and document.get("source") is not None else None


def parse_source(document: Mapping[str, Any]) -> RemoteSource:
    """Return the source of a YAML that has the key `source`. Raises BadSource."""
    for key in document:
        if isinstance(key, str) and _SECRET_KEY.search(key):
            raise BadSource(f"a YAML with the key {key!r}: remove it, and set the secret in the environment")
    url = _text_of(document, "source") or ""
    _check_url(url)
    revision, subset, split = (_text_of(document, key) for key in ("revision", "subset", "split"))
    if url.startswith("hf://"):
        url, revision = _split_revision(url, revision)
    if not _is_whole_data_set(url):
        split = None
        if subset is not None:
            raise BadSource("a YAML with `subset` for a single file: remove it")
    source = RemoteSource(url, revision, subset, split)
    _check_revision(source)
    return source


def _text_of(document: Mapping[str, Any], key: str) -> str | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or _CONTROL.search(value):
        raise BadSource(f"a YAML whose `{key}` is not a text on one line: put quotes around it")
    return value.strip()


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        raise BadSource(f"a YAML whose source is not a URL. {_ONLY}") from None
    if user is not None or parts.password is not None:
        raise BadSource(
            "a YAML whose source contains a user name or password: remove it, and set the secret in the environment"
        )
    if parts.scheme not in ("s3", "hf", "https", "http"):
        raise BadSource(
            "a YAML whose source is a local path: put the file itself into this folder"
            if parts.scheme in ("", "file")
            else f"a YAML with a source of the scheme {parts.scheme!r}. {_ONLY}"
        )
    secret = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET_PARAMETER.search(name)]
    if secret:
        raise BadSource(
            f"a YAML whose source is a signed URL (parameter {secret[0]!r}): name the plain URL, and set the secret in "
            "the environment"
        )
    if parts.fragment:
        raise BadSource("a YAML whose source contains #: write it as %23, or remove it")
    if parts.scheme == "http" and not is_loopback(host or ""):
        raise BadSource("a YAML with a source of plain http, which anyone on the way can change: use https://")
    if not host or (parts.scheme != "hf" and parts.path in ("", "/")) or parts.path.endswith("/"):
        raise BadSource(f"a YAML whose source names no file. {_ONLY}")
    if parts.scheme == "hf":
        _check_hub_path(parts)


def _check_hub_path(parts: SplitResult) -> None:
    segments = parts.path.strip("/").split("/")
    names = [segments[0], *(segments[1].partition("@")[:1] if len(segments) > 1 else ())]
    if parts.netloc != "datasets" or len(names) < 2 or not all(_NAME.fullmatch(name) for name in names):
        raise BadSource("a YAML whose source is not a data set of the hub: write hf://datasets/OWNER/NAME[/FILE]")
    if any(segment in ("", ".", "..") or "*" in segment for segment in segments):
        raise BadSource("a YAML whose source names no single file of the data set: write its whole path")


def _split_revision(url: str, revision: str | None) -> tuple[str, str | None]:
    """Return the URL without `@REVISION` after the data set's name, and the revision."""
    owner, name, *path = urlsplit(url).path.strip("/").split("/")
    name, at, inside = name.partition("@")
    if not at:
        return url, revision
    if revision is not None or not inside:
        raise BadSource("a YAML with a revision in its source, too: name it once, as `revision`")
    return "/".join(["hf://datasets", owner, name, *path]), unquote(inside)


def _is_whole_data_set(url: Any) -> bool:
    return isinstance(url, str) and url.startswith("hf://datasets/") and url.rstrip("/").count("/") == 4


def _check_revision(source: RemoteSource) -> None:
    pin = source.content_pin
    if pin is not None and not _SHA256.fullmatch(pin):
        raise BadSource("a YAML whose revision is not a SHA-256: write sha256: and its 64 lower-case digits")
    if source.revision is not None and pin is None and source.scheme in ("https", "http"):
        raise BadSource(
            "a YAML with a revision of a web server, which keeps none: write `revision: sha256:HASH`, or remove it"
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine, without asking a name server."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
