"""Which requests a server on this machine answers: those of its own pages and of programs, not those of other sites.

Dagster's web server has no login, accepts any Host header, and executes mutations that arrive in a plain GET. So each
page that a browser has open could start a run, on loopback too (CSRF), and a page whose name was made to point to this
machine could read everything (DNS rebinding). The pages of people's ratings and `ft serve` have the same rules.
"""

import ipaddress
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from graphql import GraphQLError, OperationDefinitionNode, OperationType, parse
from starlette.datastructures import Headers, QueryParams
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

_OWN_SITE = ("same-origin", "none")
"""Values of Sec-Fetch-Site for a request of the server's own page, and for an address that a person typed."""

HOW_TO_OPEN = (
    "Open it as 127.0.0.1, or allow the name: `ft ui --allow-host NAME`, or notifications.ui_url in project.yaml."
)


class RequestFilter:
    """ASGI middleware that refuses requests of other sites with status 403 and one sentence."""

    def __init__(self, app: ASGIApp, allowed_hosts: Collection[str] = (), how: str = HOW_TO_OPEN) -> None:
        """allowed_hosts, how: see `reason_to_refuse`."""
        self.app = app
        self.how = how
        self.allowed_hosts = allowed_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_request = scope["type"] in ("http", "websocket")
        reason = reason_to_refuse(scope, self.allowed_hosts, self.how) if is_request else None
        if reason is None:
            await self.app(scope, receive, send)
            return
        response = PlainTextResponse(f"{reason}\n", status_code=403)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(response)
        else:
            await response(scope, receive, send)


def reason_to_refuse(scope: Scope, allowed_hosts: Collection[str], how: str) -> str | None:
    """Return why a request is not answered, as two sentences; None if it is.

    allowed_hosts: host names besides those of the loopback interface, such as that of a proxy. how: how to reach the
    server, for a refused Host.
    """
    headers = Headers(scope=scope)
    hosts = headers.getlist("host")
    host = _split(f"//{hosts[0]}") if len(hosts) == 1 else None
    if host is None or not (_is_loopback(host.hostname) or host.hostname in {name.lower() for name in allowed_hosts}):
        names = ", ".join(hosts)
        return f"The header Host names {names[:200]!r}, which is not this server. {how}"
    for origin in headers.getlist("origin"):
        if not _is_same(_split(origin), host):
            return f"A page of {origin[:200]} sent this request. Only own pages are answered."
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE and not _opens_a_page(scope, headers):
        return "A page of another site sent this request. Only own pages are answered."
    return _fault_in_query(scope) if scope.get("method") == "GET" and _is_graphql(scope) else None


def _is_same(origin: SplitResult | None, host: SplitResult) -> bool:
    """Whether a page's origin is the host of the request.

    On loopback the port must agree, because other programs serve pages on other ports. A proxy leaves it out.
    """
    if origin is None or origin.hostname is None or origin.hostname != host.hostname:
        return False
    return not _is_loopback(host.hostname) or (origin.port or 80) == (host.port or 80)


def _is_loopback(name: str | None) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name or "").is_loopback
    except ValueError:
        return False


def _opens_a_page(scope: Scope, headers: Headers) -> bool:
    """Whether a person followed a link to a page of the UI, as from a notification. In a frame it is refused."""
    return (
        scope.get("method") == "GET"
        and not _is_graphql(scope)
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _is_graphql(scope: Scope) -> bool:
    return scope["path"].rstrip("/").endswith("/graphql")


def _fault_in_query(scope: Scope) -> str | None:
    """Return why the GraphQL document in the address is not executed. Dagster would execute the last of several."""
    texts = QueryParams(scope["query_string"]).getlist("query")
    if len(texts) > 1:
        return "The address has several values of `query`. Send one."
    try:
        definitions = parse(texts[0]).definitions if texts else ()
    except GraphQLError:
        return "The `query` in the address is not GraphQL. Correct it, or send it by POST."
    if any(
        isinstance(definition, OperationDefinitionNode) and definition.operation is OperationType.MUTATION
        for definition in definitions
    ):
        return "A mutation must be sent by POST. A GET only reads."
    return None


def _split(address: str) -> SplitResult | None:
    """None if it cannot be read as an address, or its port is invalid."""
    try:
        parts = urlsplit(address)
        return parts if parts.port != 0 else None
    except ValueError:
        return None
