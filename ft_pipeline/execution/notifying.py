"""Telling people: a Slack-compatible webhook where one is set, and a log in the store, always."""

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal

from ft_pipeline.project import Project
from ft_pipeline.settings import NotificationSettings

LOG = "notifications.jsonl"
TRIES = 3
TIMEOUT_SECONDS = 10.0
SECONDS_BETWEEN = 1.0
LONGEST = 2_000
"""Characters of a message; Slack cuts at 4,000."""

Kind = Literal["run_failed", "gate_failed", "champion_changed"]
TITLES: dict[Kind, str] = {
    "run_failed": "Run failed",
    "gate_failed": "Gate failed",
    "champion_changed": "New champion",
}


@dataclass(frozen=True)
class Notification:
    """One thing that happened."""

    kind: Kind
    message: str
    run_id: str | None = None


def notify(project: Project, notification: Notification) -> str:
    """Tell the webhook and the log; what became of it, in words that show no secret.

    A webhook that does not answer never stops the caller: the log then says that it was not told.
    """
    settings = project.settings.notifications
    text = _text(project.settings.name, notification, settings.ui_url)
    outcome = _post(settings, text)
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **asdict(notification),
        "webhook": outcome,
    }
    project.store.mkdir(parents=True, exist_ok=True)
    with (project.store / LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(entry, ensure_ascii=False) + "\n")
    return outcome


def _text(name: str, notification: Notification, ui_url: str | None) -> str:
    """In Slack's markup, with the three characters that have a meaning there escaped."""
    message = notification.message if len(notification.message) <= LONGEST else f"{notification.message[:LONGEST]}…"
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        message = message.replace(character, entity)
    link = f" (<{ui_url.rstrip('/')}/runs/{notification.run_id}|the run>)" if ui_url and notification.run_id else ""
    return f"*{TITLES[notification.kind]}* in {name}: {message}{link}"


def _post(settings: NotificationSettings, text: str) -> str:
    url = os.environ.get(settings.webhook_env, "")
    if not url:
        return f"not called: {settings.webhook_env} is not set"
    if not url.startswith(("https://", "http://")):
        return f"not called: {settings.webhook_env} holds no http(s) URL"
    outcome = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(SECONDS_BETWEEN * attempt)
        outcome, done = _try(url, text)
        if done:
            break
    return outcome


def _try(url: str, text: str) -> tuple[str, bool]:
    """(what came of it, whether another try would change nothing). The URL is a secret: it is in no message."""
    headers = {"Content-Type": "application/json", "User-Agent": "ft_pipeline"}
    try:
        request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
            return f"told (status {answer.status})", True
    except urllib.error.HTTPError as error:
        return f"refused with status {error.code}", error.code < 500 and error.code != 429
    except ValueError:
        return "not called: the URL cannot be read", True
    except OSError as error:
        return f"did not answer ({type(getattr(error, 'reason', error)).__name__})", False
