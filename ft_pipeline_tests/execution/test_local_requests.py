"""The filter of requests, in front of a web server that answers everything.

end_to_end/test_foreign_requests.py has the same requests for a running `ft ui`.
"""

import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from ft_pipeline import scaffold
from ft_pipeline.execution.local_requests import RequestFilter
from ft_pipeline.execution.ui_server import FilteredWebserver, _public_host

PUBLIC = "ft.example.com"
OWN = "http://127.0.0.1:3000"
MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "x", limit: 7) }'
IN_URL = "/graphql?" + urllib.parse.urlencode({"query": MUTATION})
REFUSED = (
    ({"Host": "evil.example"}, "The header Host names 'evil.example', which is not this server."),
    ({"Host": "[::1"}, "The header Host names '[::1', which is not this server."),
    ({"Origin": "https://evil.example"}, "A page of https://evil.example sent this request."),
    ({"Origin": "null"}, "A page of null sent this request."),
    ({"Origin": "http://127.0.0.1:1"}, "A page of http://127.0.0.1:1 sent this request."),
    ({"Sec-Fetch-Site": "cross-site"}, "A page of another site sent this request."),
    ({"Sec-Fetch-Site": "same-site"}, "A page of another site sent this request."),
    ({}, "A mutation must be sent by POST."),
)
"""Headers with which a mutation in a GET is refused, and how the refusal begins."""


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer every request."""
    if scope["type"] == "websocket":
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.close()
    else:
        await PlainTextResponse("answered")(scope, receive, send)


@pytest.fixture(scope="module")
def client() -> TestClient:
    """Sends requests to the UI at http://127.0.0.1:3000, which has a public name, too."""
    return TestClient(RequestFilter(answer, [PUBLIC.upper()]), base_url=OWN)


def status(client: TestClient, method: str, path: str, headers: Mapping[str, str]) -> int:
    return client.request(method, path, headers=dict(headers)).status_code


@pytest.mark.parametrize(
    ("headers", "reason"),
    REFUSED,
    ids=str,
)
def test_a_mutation_in_a_get_is_refused(client: TestClient, headers: dict[str, str], reason: str) -> None:
    refused = client.get(IN_URL, headers=headers)
    assert (refused.status_code, refused.text.startswith(reason)) == (403, True), refused.text
    assert refused.text.count("\n") == 1


@pytest.mark.parametrize(
    ("queries", "reason"),
    (
        (["{version}", MUTATION], "The address has several values of `query`."),
        ([MUTATION, "{version}"], "The address has several values of `query`."),
        (["{…}"], "The `query` in the address is not GraphQL."),
        (["{a" * 2000 + "}" * 2000], "The `query` in the address is not GraphQL."),
    ),
    ids=lambda value: str(value)[:40],
)
def test_a_get_has_one_query_that_can_be_read(client: TestClient, queries: list[str], reason: str) -> None:
    refused = client.get("/graphql?" + urllib.parse.urlencode({"query": queries}, doseq=True))
    assert (refused.status_code, refused.text.startswith(reason)) == (403, True), refused.text


def test_a_mutation_from_another_site_is_refused(client: TestClient) -> None:
    """A form can send such a POST without asking first. With DNS rebinding, the origin is that of the host."""
    foreign = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert status(client, "POST", IN_URL, foreign) == 403
    assert status(client, "POST", "/graphql", {"Host": "evil.example", "Origin": "https://evil.example"}) == 403
    assert status(client, "POST", "/report_asset_materialization/adapter", foreign) == 403


def test_a_web_socket_of_another_site_is_refused(client: TestClient) -> None:
    own = {"Host": "127.0.0.1:3000", "Origin": OWN}
    for foreign in ({**own, "Host": "evil.example"}, {**own, "Origin": "https://evil.example"}):
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/graphql", headers=foreign):
            pass
        assert refused.value.status_code == 403 and "evil.example" in refused.value.text
    with client.websocket_connect("/graphql", headers=own) as opened:
        assert opened.extra_headers is not None, "it was accepted"


def test_its_own_pages_and_programs_are_answered(client: TestClient) -> None:
    assert status(client, "POST", "/graphql", {"Origin": OWN, "Sec-Fetch-Site": "same-origin"}) == 200
    for host in ("localhost:3000", "[::1]:3000", "127.0.0.1:8080"):  # the last one: `ssh -L 8080:127.0.0.1:3000`
        assert status(client, "GET", "/server_info", {"Host": host}) == 200
    assert status(client, "GET", "/graphql?query=%7Bversion%7D", {}) == 200


def test_the_public_name_is_answered(client: TestClient) -> None:
    """As nginx passes a request on: the name of the machine, without the port."""
    public = {"Host": PUBLIC, "Origin": f"https://{PUBLIC}:8443", "Sec-Fetch-Site": "same-origin"}
    assert status(client, "POST", "/graphql", public) == 200
    assert status(client, "POST", "/graphql", {**public, "Origin": "https://evil.example"}) == 403


def test_a_link_in_a_message_opens_a_page(client: TestClient) -> None:
    """Notifications link to runs. A page reads nothing before its own scripts run; a frame could be clicked through."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert status(client, "GET", "/runs/1", link) == 200
    assert status(client, "GET", "/graphql?query=%7Bversion%7D", link) == 403
    assert status(client, "GET", "/runs/1", {**link, "Sec-Fetch-Dest": "iframe"}) == 403


def test_the_server_filters_before_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scaffold.create(tmp_path / "shop", example=False)
    monkeypatch.setenv("FT_PROJECT", str(root))
    assert _public_host() == []
    with (root / "project.yaml").open("a", encoding="utf-8") as settings:
        settings.write(f"\nnotifications: {{ui_url: 'https://{PUBLIC}'}}\n")
    server = object.__new__(FilteredWebserver)
    server.allowed_hosts = _public_host()
    first = server.build_middleware()[0]
    assert first.cls is RequestFilter and first.args == ([PUBLIC],)
