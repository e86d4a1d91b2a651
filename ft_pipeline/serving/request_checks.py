"""Which HTTP requests `ft serve` answers: those of programs, not those that a web page makes a browser send."""

import ipaddress
from collections.abc import Collection
from email.message import Message
from urllib.parse import urlsplit

from ft_pipeline.serving.refused_request import RefusedRequest

_LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def refuse_web_pages(headers: Message, allowed_hosts: Collection[str] = ()) -> None:
    """Raise RefusedRequest for a request of a web page of another machine: a browser can send it to this one.

    allowed_hosts: names in the header Host that are accepted besides localhost and IP addresses. A page whose name
    was made to point to this machine (DNS rebinding) sends its own name.
    """
    origin = headers.get("Origin")
    if origin is not None and _host_name(origin) not in _LOCAL_HOSTS:
        raise RefusedRequest("Requests of web pages are not answered. Send it from a program.", status=403)
    host = headers.get("Host")
    if host is not None and not _is_safe(_host_name(f"//{host}"), allowed_hosts):
        raise RefusedRequest(
            "The header Host names another machine. Start `ft serve` with --allow-host NAME to accept it.", status=403
        )


def _is_safe(name: str | None, allowed_hosts: Collection[str]) -> bool:
    if name is None:
        return False
    if name == "localhost" or name in allowed_hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True  # an address cannot point elsewhere


def _host_name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
