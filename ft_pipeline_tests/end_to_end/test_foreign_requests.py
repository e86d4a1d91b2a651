"""`ft ui` answers its own pages, and refuses what a page of another site makes a browser send.

Dagster's web server alone accepts any Host header, and executes mutations that arrive in a plain GET.
"""

import http.client
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from playwright.sync_api import Page

from ft_pipeline import scaffold
from ft_pipeline_tests.end_to_end.ui import Ui, chromium, serving
from ft_pipeline_tests.execution.test_local_requests import REFUSED
from ft_pipeline_tests.loopback import serving as serve_on_loopback

MUTATION = 'mutation { setConcurrencyLimit(concurrencyKey: "%s", limit: 7) }'
LIMITS = "{ instance { concurrencyLimits { concurrencyKey } } }"
PUBLIC = "ft.example.com"
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Protocol": "graphql-ws",
}
JSON = {"Content-Type": "application/json"}

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose team opens the UI at https://ft.example.com."""
    project = scaffold.create(tmp_path_factory.mktemp("foreign") / "shop", example=False)
    settings = project / "project.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.write_text(f"{text}\nnotifications: {{ui_url: 'https://{PUBLIC}'}}\n", encoding="utf-8")
    return project


@pytest.fixture(scope="module")
def ui(root: Path) -> Iterator[Ui]:
    with serving(root) as served:
        yield served


def send(ui: Ui, method: str, path: str, headers: Mapping[str, str], body: str | None = None) -> tuple[int, str]:
    """Send one request; return its status, and its body unless it is a web socket."""
    connection = http.client.HTTPConnection(own_host(ui), timeout=30)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, "" if answer.status == http.HTTPStatus.SWITCHING_PROTOCOLS else answer.read().decode()
    finally:
        connection.close()


def own_host(ui: Ui) -> str:
    return urllib.parse.urlsplit(ui.url).netloc


def in_url(name: str) -> str:
    """The path of a GET that asks for the mutation."""
    return "/graphql?" + urllib.parse.urlencode({"query": MUTATION % name})


def limits(ui: Ui) -> list[str]:
    """The pools with a limit: those that a mutation set."""
    return [limit["concurrencyKey"] for limit in ui.query(LIMITS)["instance"]["concurrencyLimits"]]


@pytest.mark.parametrize(
    ("headers", "reason"),
    REFUSED,
    ids=str,
)
def test_a_mutation_in_a_get_is_refused(ui: Ui, headers: dict[str, str], reason: str) -> None:
    status, body = send(ui, "GET", in_url("by_get"), headers)
    assert (status, body.startswith(reason)) == (403, True), body
    assert body.count("\n") == 1
    assert "by_get" not in limits(ui)


@pytest.mark.parametrize(
    ("queries", "reason"),
    (
        (["{version}", MUTATION % "second"], "The address has several values of `query`."),
        (["{…}", MUTATION % "second"], "The address has several values of `query`."),
        ([MUTATION % "second", "{version}"], "The address has several values of `query`."),
        (["{…}"], "The `query` in the address is not GraphQL."),
        (["{a" * 2000 + "}" * 2000], "The `query` in the address is not GraphQL."),
    ),
    ids=lambda value: str(value)[:40],
)
def test_a_get_has_one_query_that_can_be_read(ui: Ui, queries: list[str], reason: str) -> None:
    """Dagster would execute the last one."""
    status, body = send(ui, "GET", "/graphql?" + urllib.parse.urlencode({"query": queries}, doseq=True), {})
    assert (status, body.startswith(reason)) == (403, True), body
    assert "second" not in limits(ui)


def test_a_mutation_from_another_site_is_refused(ui: Ui) -> None:
    """A form can send such a POST without asking first; the document is then in the URL."""
    foreign = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
    assert send(ui, "POST", in_url("by_form"), foreign, "")[0] == 403
    rebound = {"Host": "evil.example", "Origin": "https://evil.example", **JSON}  # DNS rebinding: same origin
    assert send(ui, "POST", "/graphql", rebound, '{"query": "{ version }"}')[0] == 403
    assert send(ui, "POST", "/report_asset_materialization/adapter", foreign)[0] == 403
    assert "by_form" not in limits(ui)


def test_a_web_socket_of_another_site_is_refused(ui: Ui) -> None:
    for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        status, body = send(ui, "GET", "/graphql", {**HANDSHAKE, **foreign})
        assert status == 403 and "evil.example" in body
    assert send(ui, "GET", "/graphql", {**HANDSHAKE, "Origin": ui.url})[0] == 101


def test_its_own_pages_and_programs_are_answered(ui: Ui) -> None:
    own = {"Origin": ui.url, "Sec-Fetch-Site": "same-origin", **JSON}
    body = '{"query": "mutation { setConcurrencyLimit(concurrencyKey: \\"own\\", limit: 7) }"}'
    assert send(ui, "POST", "/graphql", own, body)[0] == 200
    assert "own" in limits(ui)
    port = own_host(ui).rpartition(":")[2]
    for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1:8080"):  # the last one: `ssh -L 8080:127.0.0.1:3000`
        assert send(ui, "GET", "/server_info", {"Host": host})[0] == 200
    assert send(ui, "GET", "/graphql?query=%7Bversion%7D", {})[0] == 200


def test_the_public_name_is_answered(ui: Ui) -> None:
    """As nginx passes a request on: the name of the machine, without the port."""
    public = {"Host": PUBLIC, "Origin": f"https://{PUBLIC}:8443", "Sec-Fetch-Site": "same-origin", **JSON}
    assert send(ui, "POST", "/graphql", public, '{"query": "{ version }"}')[0] == 200
    assert send(ui, "POST", "/graphql", {**public, "Origin": "https://evil.example"})[0] == 403


def test_a_link_in_a_message_opens_a_page(ui: Ui) -> None:
    """Notifications link to runs. A page reads nothing before its own scripts run; a frame could be clicked through."""
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert send(ui, "GET", "/runs/1", link)[0] == 200
    assert send(ui, "GET", "/graphql?query=%7Bversion%7D", link)[0] == 403
    assert send(ui, "GET", "/runs/1", {**link, "Sec-Fetch-Dest": "iframe"})[0] == 403


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium")
def test_a_real_page_of_another_origin_cannot_change_anything(ui: Ui, page: Page) -> None:
    """An image, a form and a fetch without CORS: what a browser sends without asking."""
    address = f"{ui.url}{in_url('by_page').replace('&', '&amp;')}"
    html = f"<img src='{address}'><form method=post enctype=text/plain action='{address}'></form>"
    with other_site(html) as site:
        page.goto(site)
        page.wait_for_load_state("networkidle")
        page.evaluate("address => fetch(address, {mode: 'no-cors', method: 'POST', body: ''})", address)
        with page.expect_navigation():
            page.evaluate("document.forms[0].submit()")
        assert "sent this request" in page.content()
    assert "by_page" not in limits(ui)


@contextmanager
def other_site(html: str) -> Iterator[str]:
    """A web site with one page; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

    with serve_on_loopback(Handler) as port:
        yield f"http://localhost:{port}"
