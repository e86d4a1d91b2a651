"""Notifies users: through a Slack-compatible webhook if one is set, and always in a log in the store."""

import contextlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.settings.automation import NotificationSettings

LOG = "notifications.jsonl"
"""File in the store with one notification per line, and what the webhook answered."""
ATTEMPTS = 3
TIMEOUT_SECONDS = 8.0
"""Limit for one message, all attempts together. A tick of `failures` reports up to five runs, and Dagster aborts a tick
after 60 s. The next tick would report all of them again, and be aborted again."""
RETRY_SECONDS = 1.0
"""Seconds before the second attempt; twice as many before the third one."""
MAX_CHARACTERS = 2_000
"""Maximum characters of a message; Slack cuts at 4,000."""

REPEAT_AFTER = timedelta(hours=23)
"""Time after which the same notification is sent again, if its cause lasts. A bit less than the day between two ticks
of a schedule that runs daily."""
MAX_LOG_BYTES = 1_000_000
"""How much of the log's end is read to find earlier notifications."""

Kind = Literal["run_failed", "gate_failed", "champion_changed", "not_trained", "still_failing", "disk_low"]
TITLES: dict[Kind, str] = {
    "run_failed": "Run failed",
    "gate_failed": "Check failed",
    "champion_changed": "New champion",
    "not_trained": "Not trained",
    "still_failing": "Still failing",
    "disk_low": "Disk almost full",
}


@dataclass(frozen=True)
class Notification:
    """One event that users are notified of."""

    kind: Kind
    message: str
    run_id: str | None = None
    subject: str | None = None
    """What is reported, if it is reported again while it lasts: an asset such as `scores@qlora`, or a schedule."""


def notify(project: Project, notification: Notification, now: datetime | None = None) -> str:
    """Send a notification to the webhook and write it to the log; return the result as a text without secrets.

    now: the time of the entry in the log; by default the present time.

    An error of the webhook, the log or project.yaml does not stop the caller: it may be what the message reports.
    """
    name, settings = _name_and_settings(project)
    outcome = _post(settings, _text(name, notification, settings.ui_url))
    entry = {
        "time": (now or datetime.now(UTC)).isoformat(timespec="seconds"),
        **asdict(notification),
        "webhook": outcome,
    }
    try:
        project.store.mkdir(parents=True, exist_ok=True)
        with (project.store / LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry, ensure_ascii=False) + "\n")
    except OSError as error:
        return f"{outcome}; {LOG} could not be written ({error.strerror})"
    return outcome


def notify_daily(project: Project, notification: Notification, now: datetime | None = None) -> str:
    """Send a notification like `notify`, unless the same one about its subject was sent within the last day."""
    now = now or datetime.now(UTC)
    same = (notification.kind, notification.subject, notification.message)
    for earlier in _entries_with_subject(project):
        is_same = (earlier["kind"], earlier["subject"], earlier["message"]) == same
        if is_same and now - datetime.fromisoformat(earlier["time"]) < REPEAT_AFTER:
            return f"not called: the same was sent at {earlier['time']}"
    return notify(project, notification, now)


def latest_of_subjects(project: Project) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Return the latest entry of the log for each (kind, subject), of those with a subject."""
    return {(entry["kind"], entry["subject"]): entry for entry in _entries_with_subject(project)}


def _entries_with_subject(project: Project) -> Iterator[dict[str, Any]]:
    """The latest entries of the log that have a subject, oldest first."""
    try:
        with (project.store / LOG).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - MAX_LOG_BYTES))
            lines = log.read().splitlines()
    except OSError:
        return
    for line in lines:
        with contextlib.suppress(ValueError):  # the first line may be cut off, and the last one half written
            entry = json.loads(line)
            if entry.get("subject"):
                yield entry


def _name_and_settings(project: Project) -> tuple[str, NotificationSettings]:
    """The project's name and notification settings; the folder's name and the defaults if project.yaml is invalid."""
    try:
        return project.settings.name, project.settings.notifications
    except UserError:
        return project.root.name, NotificationSettings()


def _text(name: str, notification: Notification, ui_url: str | None) -> str:
    """The message in Slack's markup, with its three special characters escaped."""
    message = notification.message
    if len(message) > MAX_CHARACTERS:
        message = f"{message[:MAX_CHARACTERS]}…"
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        message = message.replace(character, entity)
    link = f" (<{ui_url.rstrip('/')}/runs/{notification.run_id}|the run>)" if ui_url and notification.run_id else ""
    return f"*{TITLES[notification.kind]}* in {name}: {message}{link}"


def _post(settings: NotificationSettings, text: str) -> str:
    """Send the text to the webhook within TIMEOUT_SECONDS; return the result."""
    url = os.environ.get(settings.webhook_env, "")
    if not url:
        return f"not called: {settings.webhook_env} is not set"
    if not url.startswith(("https://", "http://")):
        return f"not called: {settings.webhook_env} is not an http(s) URL"
    outcomes: list[str] = []
    # In a thread, because a DNS lookup has no timeout.
    delivery = threading.Thread(target=lambda: outcomes.append(_deliver(url, text)), daemon=True)
    delivery.start()
    delivery.join(TIMEOUT_SECONDS)
    return outcomes[0] if outcomes else f"did not answer within {TIMEOUT_SECONDS:g} s"


def _deliver(url: str, text: str) -> str:
    """Send the text in up to ATTEMPTS attempts; return the result of the last one."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    outcome = ""
    for attempt in range(1, ATTEMPTS + 1):
        outcome, is_final = _try_once(url, text, deadline - time.monotonic())
        wait = RETRY_SECONDS * attempt
        if is_final or attempt == ATTEMPTS or time.monotonic() + wait >= deadline:
            break
        time.sleep(wait)
    return outcome


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as an error: it would be followed with GET, which delivers no message."""

    def redirect_request(self, *_: object) -> None:
        return None


def _try_once(url: str, text: str, seconds: float) -> tuple[str, bool]:
    """Return (result, whether another attempt is useless). The URL is a secret, so no result contains it."""
    headers = {"Content-Type": "application/json", "User-Agent": "ft_pipeline"}
    try:
        request = urllib.request.Request(url, json.dumps({"text": text}).encode(), headers)
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=seconds) as response:
            return f"delivered (status {response.status})", True
    except urllib.error.HTTPError as error:
        error.close()
        redirect_advice = ", a redirect to another URL: use that URL instead" if 300 <= error.code < 400 else ""
        return f"refused with status {error.code}{redirect_advice}", error.code < 500 and error.code != 429
    except (ValueError, http.client.InvalidURL):
        return "not called: the URL is invalid", True
    except (OSError, http.client.HTTPException) as error:
        return f"did not answer ({type(getattr(error, 'reason', error)).__name__})", False
