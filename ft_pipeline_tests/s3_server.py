"""A real S3 server on loopback: moto's."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import boto3
import botocore.session
import pytest
from moto.server import ThreadedMotoServer

SECRET = "geheim-s3-77b1"
botocore.session.create_loader = cache(botocore.session.create_loader)
"""Each client would read the description of S3 again, for half a second."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Yield the address of a server that runs until the block ends."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def connect(endpoint: str, monkeypatch: pytest.MonkeyPatch, *buckets: str) -> Any:
    """Let this process use the server as S3, create the buckets, and return a client."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access-4711")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    client = boto3.client("s3")
    for bucket in buckets:
        client.create_bucket(Bucket=bucket)
    return client


def connect_empty(endpoint: str, monkeypatch: pytest.MonkeyPatch, bucket: str) -> Any:
    """Do the same as `connect` with one bucket, and remove what other tests left in it."""
    client = connect(endpoint, monkeypatch, bucket)
    for entry in client.list_objects_v2(Bucket=bucket).get("Contents", []):
        client.delete_object(Bucket=bucket, Key=entry["Key"])
    return client
