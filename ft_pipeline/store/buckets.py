"""Folders of buckets in S3, or in a store that speaks its protocol, through fsspec's s3fs (the extra `s3`)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ft_pipeline.errors import UserError, first_line, require_extra

SCHEME = "s3://"
CLIENT = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}


def file_system(needs: str, **options: Any) -> Any:
    """Return s3fs's file system, without its caches. needs: subject and verb, for the error if the extra is missing."""
    require_s3(needs)
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True, config_kwargs=CLIENT, **options)


def require_s3(needs: str) -> None:
    """Raise UserError without the extra `s3`. needs: subject and verb."""
    require_extra("s3", needs, "s3fs", "botocore")


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
    require_s3(needs)
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

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
