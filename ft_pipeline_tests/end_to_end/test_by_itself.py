"""Automatic retraining for real: files are added to the raw folder, and the champion is replaced without a command."""

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.release.champion import current
from ft_pipeline_tests.automation.webhook import webhook
from ft_pipeline_tests.end_to_end.project import ft, small_project
from ft_pipeline_tests.end_to_end.ui import Ui, serving

pytestmark = [pytest.mark.slow, pytest.mark.long]

NEW_FILES = ("support_02.jsonl", "support_03.jsonl", "support_04.jsonl", "support_05.jsonl")
PATIENCE = 900.0


def retrain_every_minute(root: Path) -> None:
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    settings["retraining"] = {"schedule": "* * * * *", "min_new_rows": 40}
    settings["evaluation"]["max_test_rows"] = None
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")


def wait_until(ui: Ui, condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}; runs: {ui.runs()}"
        time.sleep(1)


def test_new_raw_files_replace_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = small_project(tmp_path / "shop")
    retrain_every_minute(root)
    first = ft(root, "run", "--experiment", "qlora")
    assert first.returncode == 0, first.stderr[-3000:]
    before = current(root / "data" / "store")
    assert before is not None and before.name == "qlora/merged"
    with webhook() as hook:
        monkeypatch.setenv("FT_WEBHOOK_URL", hook.url)
        with serving(root) as ui:
            for name in NEW_FILES:
                shutil.copy(
                    scaffold.example_folder() / "data" / "raw" / "alpaca" / name,
                    root / "data" / "raw" / "alpaca" / name,
                )
            wait_until(ui, lambda: current(root / "data" / "store") != before, "another champion")
            wait_until(ui, lambda: len(hook.messages) > 0, "the webhook received a message")
            reasons = [tag["value"] for run in ui.runs() for tag in run["tags"] if tag["key"] == "ft/reason"]
    after = current(root / "data" / "store")
    assert after is not None and after.name == "qlora/merged"
    assert after.sequence == before.sequence + 1 and after.fingerprint != before.fingerprint
    assert len(reasons) == 1 and re.fullmatch(r"\d+ new rows", reasons[0])
    assert [message for message in hook.messages if "New champion" in message and "replacing qlora/merged" in message]
