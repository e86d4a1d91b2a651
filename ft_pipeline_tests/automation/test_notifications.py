"""Notifications of failures and new champions: real runs that fail, a real HTTP server on loopback."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Thread

import dagster as dg
import pytest

from ft_pipeline import scaffold
from ft_pipeline.automation import notifications as notifying
from ft_pipeline.automation.notifications import LOG, Notification, notify
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.defs import notifications
from ft_pipeline.defs.notifications import champion_changes, failures
from ft_pipeline.execution.partitions import add_partitions
from ft_pipeline.execution.resources import RESOURCES
from ft_pipeline.project import Project
from ft_pipeline.release.champion import promote, rollback
from ft_pipeline_tests.automation.webhook import Webhook, webhook
from ft_pipeline_tests.graph import ASSETS


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with webhook() as started:
        monkeypatch.setenv("FT_WEBHOOK_URL", started.url)
        yield started


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    root = scaffold.create(tmp_path / "shop", example=True)
    with (root / "project.yaml").open("a", encoding="utf-8") as file:
        file.write("notifications:\n  ui_url: https://dagster.example.org/\n")
    monkeypatch.setenv("FT_PROJECT", str(root))
    return Project(root)


def log_of(project: Project) -> list[dict]:
    return [json.loads(line) for line in (project.store / LOG).read_text(encoding="utf-8").splitlines()]


def run_that_fails(assets: list[str], partition: str | None = None) -> str:
    """Materialize assets that fail, and run the failure sensor; returns the run's id."""
    from ft_pipeline.definitions import defs

    defs()
    with dg.instance_for_test() as instance:
        add_partitions(instance, ["qlora"])
        done = dg.materialize(
            list(ASSETS.values()),
            instance=instance,
            resources=RESOURCES,
            selection=assets,
            partition_key=partition,
            raise_on_error=False,
        )
        assert not done.success
        context = dg.build_run_status_sensor_context(
            sensor_name="failures",
            dagster_instance=instance,
            dagster_run=done.dagster_run,
            dagster_event=done.get_run_failure_event(),
        )
        failures(context.for_run_failure())
        return done.run_id


def test_a_failed_check_is_sent_with_its_reason(shop: Project, hook: Webhook) -> None:
    (shop.raw_folder("alpaca") / "export.jsonl").write_bytes('[{"instruction": "<b>Hi"'.encode("utf-16"))
    run_id = run_that_fails(["raw_alpaca", "alpaca"])
    (text,) = hook.messages
    assert text.startswith("*Check failed* in larkfield-support: alpaca: all_files_readable: ")
    assert "export.jsonl" in text and "UTF-16" in text
    assert text.endswith(f"(<https://dagster.example.org/runs/{run_id}|the run>)")
    (entry,) = log_of(shop)
    assert (entry["kind"], entry["run_id"], entry["webhook"]) == ("gate_failed", run_id, "delivered (status 200)")


def test_a_failed_run_is_sent_with_its_error(shop: Project, hook: Webhook) -> None:
    run_that_fails(["adapter"], partition="qlora")
    (text,) = hook.messages
    expected = "*Run failed* in larkfield-support: adapter [qlora]: conversations has not been materialized yet"
    assert text.startswith(expected)


def test_every_new_champion_is_sent_once(shop: Project, hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    def tick(cursor: str | None) -> str | None:
        with dg.DagsterInstance.ephemeral() as instance:
            result = champion_changes(dg.build_sensor_context(instance, cursor=cursor))
        assert isinstance(result, dg.SensorResult)
        return result.cursor

    def release(name: str) -> None:
        candidate = Candidate(name=name, kind="merged", experiment="qlora", fingerprint=f"fingerprint of {name}")
        promote(shop.store, lambda present: Promotion(candidate=candidate, reason=f"{name} leads by 0.4 <nats>"))

    release("first/merged")
    cursor = tick(None)
    assert hook.messages == [], "the champion of the first tick is not news"
    release("second/merged")
    rollback(shop.store)
    cursor = tick(cursor)
    cursor = tick(cursor)
    second, back = hook.messages
    assert second == (
        "*New champion* in larkfield-support: second/merged (record 2), replacing first/merged (record 1). "
        "second/merged leads by 0.4 &lt;nats&gt;"
    )
    assert back.startswith("*New champion* in larkfield-support: first/merged")

    monkeypatch.setattr(notifications, "MAX_PER_TICK", 1)
    release("third/merged")
    release("fourth/merged")
    cursor = tick(cursor)
    assert "third/merged (record 4), replacing" in hook.messages[-1], (
        "a tick with too many messages would be canceled as a whole"
    )
    tick(cursor)
    assert "fourth/merged (record 5), replacing" in hook.messages[-1] and len(hook.messages) == 4


NEWS = Notification("run_failed", "adapter: it failed")


def test_a_temporary_failure_of_the_webhook_is_retried(
    shop: Project, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifying, "RETRY_SECONDS", 0.01)
    hook.statuses = [503, 429]
    assert notify(shop, NEWS) == "delivered (status 200)"
    hook.statuses = [503] * 3
    assert notify(shop, NEWS) == "refused with status 503"
    hook.statuses = [404]
    assert notify(shop, NEWS) == "refused with status 404"
    hook.statuses = [302]
    assert notify(shop, NEWS) == "refused with status 302, a redirect to another URL: use that URL instead"
    assert len(hook.messages) == 3 + 3 + 1 + 1


def test_a_webhook_that_hangs_or_is_not_http_is_given_up(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifying, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(notifying, "TIMEOUT_SECONDS", 0.3)
    with silent() as url:
        monkeypatch.setenv("FT_WEBHOOK_URL", url)
        assert notify(shop, NEWS) in {"did not answer within 0.3 s", "did not answer (TimeoutError)"}
    with silent(b"SSH-2.0-OpenSSH_9.7\r\n") as url:
        monkeypatch.setenv("FT_WEBHOOK_URL", url)
        assert notify(shop, NEWS) == "did not answer (BadStatusLine)"


def test_a_notification_is_sent_even_if_project_yaml_is_broken(shop: Project, hook: Webhook) -> None:
    (shop.root / "project.yaml").write_text("tecnique: lora\n", encoding="utf-8")
    assert notify(Project(shop.root), NEWS) == "delivered (status 200)"
    assert hook.messages == ["*Run failed* in shop: adapter: it failed"]


def test_a_log_that_cannot_be_written_is_reported(shop: Project, hook: Webhook) -> None:
    (shop.store / LOG).mkdir(parents=True)
    assert notify(shop, NEWS) == f"delivered (status 200); {LOG} could not be written (Is a directory)"


@contextmanager
def silent(greeting: bytes = b"") -> Iterator[str]:
    """The URL of a server that accepts a connection, sends `greeting`, and then nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as taken:

        def take() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    taken.enter_context(connection := server.accept()[0])
                    connection.sendall(greeting)

        Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/geheim"


@pytest.mark.parametrize(
    ("url", "outcome"),
    [
        ("", "not called: FT_WEBHOOK_URL is not set"),
        ("ftp://example.org/geheim", "not called: FT_WEBHOOK_URL is not an http(s) URL"),
        ("http://127.0.0.1:1/geheim", "did not answer (ConnectionRefusedError)"),
        ("http://[::1/geheim", "not called: the URL is invalid"),
        ("http://127.0.0.1:1/services/ge heim", "not called: the URL is invalid"),
        ("http://anna:geheim@127.0.0.1/", "not called: the URL is invalid"),
    ],
)
def test_a_failing_webhook_stops_nothing_and_no_secret_is_logged(
    shop: Project, monkeypatch: pytest.MonkeyPatch, url: str, outcome: str
) -> None:
    monkeypatch.setattr(notifying, "RETRY_SECONDS", 0.01)
    monkeypatch.setenv("FT_WEBHOOK_URL", url)
    assert notify(shop, NEWS) == outcome
    assert log_of(shop)[0]["webhook"] == outcome
    assert "geheim" not in (shop.store / LOG).read_text(encoding="utf-8")
