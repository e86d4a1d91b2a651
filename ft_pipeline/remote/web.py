"""Files of web servers, and the requests of the other sources that speak HTTP.

httpx2 is used and not fsspec's client: it is a dependency already, and redirects can be followed one by one. So a token
goes only to the host for which it is meant, and each new address is checked (addresses.py).
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import httpx2

from ft_pipeline.errors import UserError
from ft_pipeline.remote.addresses import Reach, reach_of
from ft_pipeline.sources.declaration import RemoteSource, is_loopback
from ft_pipeline.sources.transfer import Report, Revision, Sink, TransientError, cut_off, unreachable

TOKEN, HOSTS = "FT_SOURCE_TOKEN", "FT_SOURCE_HOSTS"
"""The token for web servers, and the hosts that get it, separated by commas. Without the second one, the host of every
https source gets it."""
MAX_REDIRECTS = 5
TRANSIENT = (408, 425, 429)
"""Answers, besides the errors of a server, after which another attempt may succeed."""
READ_ENCODINGS = ("identity", "", "gzip", "x-gzip", "zstd")
"""What a server may do with a file on the way, although it is asked not to: compressed files are read."""
TIMEOUT, ASK_TIMEOUT = httpx2.Timeout(60, connect=10), httpx2.Timeout(10)
HEADERS = {"User-Agent": "ft-pipeline", "Accept-Encoding": "identity"}
NO_HEAD = frozenset({403, 405, 501})
"""Answers of servers that know only GET. Signed URLs are also valid for one method only."""


class WebAccess:
    """Files that are named by an https URL."""

    def ask(self, source: RemoteSource) -> Revision:
        """Return the ETag, or else the time of the last change."""
        with request(source, "HEAD", source.url, token_for(source.url), ASK_TIMEOUT) as answer:
            if answer.status_code not in NO_HEAD:
                return _revision(checked(source, answer, advice_for(answer)))
        with request(source, "GET", source.url, token_for(source.url), ASK_TIMEOUT) as answer:
            return _revision(checked(source, answer, advice_for(answer)))

    def download(self, source: RemoteSource, revision: Revision, target: BinaryIO, report: Report) -> Revision:
        """Write the file to `target`."""
        return download(source, source.url, token_for(source.url), target, report)


def download(
    source: RemoteSource, url: str, token: str | None, target: BinaryIO, report: Report, variable: str = TOKEN
) -> Revision:
    """Write what a URL has to `target`, byte by byte as it was sent, and return its revision.

    variable: where the token comes from.
    """
    with request(source, "GET", url, token) as answer:
        checked(source, answer, advice_for(answer, variable))
        encoding = answer.headers.get("content-encoding", "identity").lower()
        if encoding not in READ_ENCODINGS:
            raise unreachable(source, f"the answer has the encoding {encoding}", "Ask its owner for another one")
        length = answer.headers.get("content-length", "")
        sink = Sink(source, target, int(length) if length.isdecimal() else None, report)
        try:
            for chunk in answer.iter_raw():
                sink.write(chunk)
        except httpx2.TransportError:
            raise cut_off(source, sink.size, sink.total) from None
        sink.close()
        return _revision(answer)


def token_for(url: str) -> str | None:
    """Return the token for the host of a URL, if it is to get one."""
    hosts = [host.strip().lower() for host in os.environ.get(HOSTS, "").split(",") if host.strip()]
    return os.environ.get(TOKEN) or None if not hosts or httpx2.URL(url).host.lower() in hosts else None


@contextmanager
def request(
    source: RemoteSource, method: str, url: str, token: str | None, timeout: httpx2.Timeout = TIMEOUT
) -> Iterator[httpx2.Response]:
    """Yield the answer to a request, after redirects. Its content is not read yet.

    The token goes only to the first host, in a request over https or to this machine. UserError if nothing answers.
    """
    for name in ("httpx2", "httpcore2"):  # they log every URL, and storage servers redirect to signed ones
        logging.getLogger(name).setLevel(logging.WARNING)
    is_here = is_loopback(httpx2.URL(url).host)  # a proxy would look for the server on its own machine
    with httpx2.Client(timeout=timeout, headers=HEADERS, trust_env=not is_here) as client:
        try:
            answer = _follow(client, source, method, httpx2.URL(url), token)
        except httpx2.TimeoutException:
            what, advice = "nothing answers in time", "Check the network and run again"
            raise unreachable(source, what, advice, TransientError) from None
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            what = f"no connection ({error})" if isinstance(error, httpx2.ConnectError) else "the answer is not HTTP"
            advice = "Check the URL and the network, and run again"
            raise unreachable(source, what, advice, TransientError) from None
        with contextmanager(_closed_after)(answer):
            yield answer


def _closed_after(answer: httpx2.Response) -> Iterator[None]:
    try:
        yield
    finally:
        answer.close()


def _follow(
    client: httpx2.Client, source: RemoteSource, method: str, url: httpx2.URL, token: str | None
) -> httpx2.Response:
    first, reach = url, _checked_reach(source, url)
    for _ in range(MAX_REDIRECTS + 1):
        same_host = (url.scheme, url.host, url.port) == (first.scheme, first.host, first.port)
        headers = {"Authorization": f"Bearer {token}"} if token and same_host else {}
        answer = client.send(client.build_request(method, url, headers=headers), stream=True)
        if not answer.has_redirect_location:
            return answer
        answer.close()
        url = url.join(answer.headers["location"])
        reach = checked_redirect(source, url, reach)
    raise unreachable(source, f"more than {MAX_REDIRECTS} redirects", "Name the URL to which they lead")


def _checked_reach(source: RemoteSource, url: httpx2.URL) -> Reach:
    """Return from where the host of a URL can be reached. UserError if it must not be asked."""
    reach = reach_of(url.host, url.port or 443)
    if url.scheme != "https" and not (url.scheme == "http" and reach is Reach.LOOPBACK):
        raise unreachable(source, f"it leads to {url.scheme}://{url.host}, without encryption", "Name an https URL")
    return reach


def checked_redirect(source: RemoteSource, url: httpx2.URL, before: Reach) -> Reach:
    """Return from where the target of a redirect can be reached. UserError if it must not be asked."""
    reach = _checked_reach(source, url)
    if reach > before:
        raise unreachable(source, f"it redirects to {url.host}, a more private address", "Name another URL")
    return reach


def checked(source: RemoteSource, answer: httpx2.Response, advice: str) -> httpx2.Response:
    """Return an answer with a file. UserError for any other one."""
    if answer.status_code != httpx2.codes.OK:
        what = f"{answer.url.host} answered {answer.status_code} {answer.reason_phrase}".rstrip()
        is_transient = answer.status_code in TRANSIENT or answer.is_server_error
        raise unreachable(source, what, advice, TransientError if is_transient else UserError)
    return answer


def advice_for(answer: httpx2.Response, token: str = TOKEN) -> str:
    """Return what to do about an answer. `token` is the variable that may help."""
    if answer.status_code in (401, 403):
        return f"Set {token} in the environment, or correct the URL"
    if answer.status_code in (404, 410):
        return "Correct `source` in the YAML, or remove it"
    return "Run again later"


def _revision(answer: httpx2.Response) -> Revision:
    return Revision(answer.headers.get("etag") or answer.headers.get("last-modified"))


def read_small(answer: httpx2.Response, source: RemoteSource, limit: int = 32 << 20) -> bytes:
    """Return the content of an answer that must be small. UserError if it is not, or is cut off."""
    content = b""
    try:
        for chunk in answer.iter_bytes():
            content += chunk
            if len(content) > limit:
                raise UserError(f"{source.shown} cannot be read: its answer is too long. Correct the URL.")
    except httpx2.HTTPError:
        raise cut_off(source, len(content), None) from None
    return content
