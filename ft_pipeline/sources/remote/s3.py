"""Files in S3, or in a store that speaks its protocol, through fsspec's s3fs (the extra `s3`).

Credentials are those of AWS's own tools: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or the role of the
machine. Without any, the file is read as the public reads it. AWS_ENDPOINT_URL names another server.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from ft_pipeline.errors import UserError, first_line
from ft_pipeline.sources.remote.declaration import RemoteSource
from ft_pipeline.sources.remote.transfer import CHUNK_BYTES, Report, Revision, Sink, cut_off, unreachable

SCHEME = "s3://"
_NEEDS = "Sources in S3 need"
CLIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}


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


def file_system(needs: str, **options: Any) -> Any:
    """Return s3fs's file system, without its caches. needs: subject and verb, for the error if the extra is missing."""
    try:
        import s3fs
    except ImportError:
        raise extra_is_missing(needs) from None
    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=CLIENT, **options)


def extra_is_missing(needs: str) -> UserError:
    """Return the error for what cannot be done without the extra `s3`. needs: its subject and verb."""
    return UserError(f"{needs} the extra `s3`. Run: pip install 'ft-pipeline[s3]'")


def _path(source: RemoteSource) -> str:
    return "/".join(source.bucket_and_key)


def _revision(info: dict[str, Any]) -> Revision:
    version = info.get("VersionId")
    version = None if version in (None, "null") else str(version)
    return Revision(version or str(info.get("ETag", "")).strip('"') or None, version)


@contextmanager
def _errors(source: RemoteSource) -> Iterator[None]:
    try:
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
        from botocore.exceptions import ConnectionError as NoConnectionError
    except ImportError:
        raise extra_is_missing(_NEEDS) from None
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


def quoted(error: Exception) -> str:
    """Return the message of an error of the library, as part of a sentence."""
    return first_line(error).rstrip(".")


def bucket_and_folder(address: str) -> str:
    """Return `BUCKET/FOLDER` of `s3://BUCKET/FOLDER`. UserError if it has no folder."""
    bucket, _, folder = address.removeprefix(SCHEME).strip("/").partition("/")
    if not bucket or not folder:
        raise UserError(f"{address!r} names no folder in a bucket. Write it as s3://BUCKET/FOLDER.")
    return f"{bucket}/{folder}"


@contextmanager
def bucket_errors(path: str, needs: str, again: str, verb: str = "written") -> Iterator[None]:
    """Turn the library's errors on a folder of a bucket into one line.

    path: `BUCKET/FOLDER`. needs: as in file_system. again: what to do after the network is back. verb: what cannot be
    done with the folder.
    """
    try:
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
    except ImportError:
        raise extra_is_missing(needs) from None
    address = f"{SCHEME}{path}"
    try:
        yield
    except NoCredentialsError:
        raise UserError(f"{address} needs credentials. Set AWS_ACCESS_KEY_ID and its secret, or AWS_PROFILE.") from None
    except FileNotFoundError:
        bucket = path.partition("/")[0]
        raise UserError(f"There is no bucket {bucket!r}. Create it, or correct the address.") from None
    except PermissionError as error:
        raise UserError(f"{address} cannot be {verb}: S3 answered {quoted(error)}. Check the credentials.") from None
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        advice = f"Check the network and AWS_ENDPOINT_URL, and {again}"
        raise UserError(f"{address} cannot be {verb}: {quoted(error)}. {advice}.") from None
