"""Files in S3, or in a store that speaks its protocol, through fsspec's s3fs (the extra `s3`).

Credentials are those of AWS's own tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the
machine. Without any, the file is read as the public reads it. AWS_ENDPOINT_URL names another server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ft_pipeline.sources.declaration import RemoteSource
from ft_pipeline.sources.transfer import CHUNK_BYTES, Report, Revision, Sink, cut_off, unreachable
from ft_pipeline.store.buckets import file_system, quoted, require_s3

_NEEDS = "Sources in S3 need"


class S3Access:
    """Files that are named by an s3:// URL."""

    def ask(self, source: RemoteSource) -> Revision:
        """Return the version id if the bucket keeps versions, or else the ETag."""
        with _errors(source):
            return _revision(_info(source, source.version, attempts=1)[1])

    def download(self, source: RemoteSource, revision: Revision, target: BinaryIO, report: Report) -> Revision:
        """Write the file to `target`. If it changes meanwhile, the transfer fails."""
        with _errors(source):
            files, info = _info(source, revision.version, attempts=5)
            sink = Sink(source, target, info["size"], report)
            version = {"version_id": revision.version} if revision.version else {}
            with files.open(_path(source), "rb", block_size=8 * CHUNK_BYTES, cache_type="readahead", **version) as file:
                while chunk := file.read(CHUNK_BYTES):
                    sink.write(chunk)
            sink.close()
            return _revision(info)


def _info(source: RemoteSource, version: str | None, attempts: int) -> tuple[Any, dict[str, Any]]:
    """Return the file system, and what it says about the file.

    attempts: how often each request is made; the sensor cannot wait long.
    """
    from botocore.exceptions import NoCredentialsError

    try:
        files = _file_system(False, attempts)
        return files, files.info(_path(source), version_id=version)
    except NoCredentialsError:
        files = _file_system(True, attempts)
        return files, files.info(_path(source), version_id=version)


def _file_system(anonymous: bool, attempts: int) -> Any:
    files = file_system(_NEEDS, anon=anonymous, version_aware=True)
    files.retries = attempts
    return files


def _path(source: RemoteSource) -> str:
    return "/".join(source.bucket_and_key)


def _revision(info: dict[str, Any]) -> Revision:
    version = info.get("VersionId")
    version = None if version in (None, "null") else str(version)
    return Revision(version or str(info.get("ETag", "")).strip('"') or None, version)


@contextmanager
def _errors(source: RemoteSource) -> Iterator[None]:
    require_s3(_NEEDS)
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
    from botocore.exceptions import ConnectionError as NoConnectionError

    try:
        yield
    except FileNotFoundError:
        raise unreachable(source, "S3 answered that there is no such file or version", "Correct the YAML") from None
    except PermissionError as error:
        raise unreachable(source, f"S3 answered {quoted(error)}", "Set AWS_ACCESS_KEY_ID and its secret") from None
    except IncompleteReadError:
        raise cut_off(source, 0, None) from None
    except (HTTPClientError, NoConnectionError) as error:
        raise unreachable(source, quoted(error), "Check the network and AWS_ENDPOINT_URL, and run again") from None
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        raise unreachable(source, f"S3 answered {quoted(error)}", "Correct the YAML, or run again") from None
