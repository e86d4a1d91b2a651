"""The loop: a served model is asked and corrected, a person accepts, and a model that learned from it is champion.

No command trains it: accepted answers are new raw files, and `ft ui` retrains and reports by itself.
"""

import json
import re
from pathlib import Path

import openai
import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline import scaffold
from ft_pipeline.release.champion import current as champion_of
from ft_pipeline_tests.automation.simulated import rows as random_rows
from ft_pipeline_tests.automation.webhook import webhook
from ft_pipeline_tests.end_to_end.project import current, cut, ft, ft_json, write_experiment
from ft_pipeline_tests.end_to_end.ui import serving as ui_of
from ft_pipeline_tests.end_to_end.ui import wait_until
from ft_pipeline_tests.serving.test_serving import Served, serving
from ft_pipeline_tests.tiny import tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.waits]

PATIENCE = 900.0
KNOWN, CORRECTED = "Please send your order number.", "Refunds take five days."
ABOUT_PARCELS, ABOUT_REFUNDS = "Where is my parcel with {}?", "When is my refund for {} paid?"


def questions(text: str, seed: int) -> list[str]:
    """60 questions about different things, so that none is near another."""
    return [text.format(row["instruction"].rstrip("?")) for row in random_rows(60, seed)]


def shop(root: Path) -> Path:
    """A project that knows nothing of refunds, and is retrained every minute if there are new rows."""
    scaffold.create(root, example=False)
    raw = root / "data" / "raw" / "alpaca" / "support.jsonl"
    rows = [{"instruction": text, "output": KNOWN} for text in questions(ABOUT_PARCELS, 1)]
    raw.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for path in (root / "data" / "general").glob("*.jsonl"):
        cut(path, 8)
    model = tiny_model(root / "models" / "tiny", positions=1024)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    rails = dict.fromkeys(("cut_off", "repetition", "empty", "holes", "refusal", "format"))
    settings |= {
        "data": {"test_share": 0.4},
        "prompting": {"variants": {}},
        "teacher": {"model": str(model), "few_shot": 0, "max_new_tokens": 12},
        "promotion": {"forgetting_margin": 0.5, "rails": rails, "min_test_rows": 2},
        "retraining": {"schedule": "* * * * *", "min_new_rows": 5},
        "inbox": {"log": "traffic"},
    }
    # One answer is right for every row, until people correct it: no model would be better than `majority`.
    settings["evaluation"] |= {"max_new_tokens": 24, "rivals": []}
    (root / "project.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for path in (root / "experiments").glob("*.yaml"):
        path.unlink()
    schedule = {"max_length": 1024, "eval_steps": 200, "learning_rate": 3.0e-3}
    write_experiment(root, "support", model, technique="full", epochs=16, **schedule)
    return root


def ask_and_correct(served: Served, text: str) -> str:
    """Ask as an application does, and correct the answer as its user does. Returns the answer."""
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    answer = served.client.chat.completions.create(model=served.name, messages=messages, max_tokens=24)
    body = {"id": answer.id, "rating": "down", "correction": CORRECTED, "user": "ann"}
    assert served.client.post("/feedback", cast_to=object, body=body) == {"id": answer.id, "status": "recorded"}
    return answer.choices[0].message.content or ""


def test_a_correction_becomes_a_new_champion_without_a_hand_on_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shop(tmp_path / "shop")
    first = ft(root, "run")
    assert first.returncode == 0, first.stderr[-4000:]
    before = champion_of(root / "data" / "store")
    assert before is not None and before.experiment == "support"

    with serving(root, "champion", "--log", str(root / "traffic")) as served:
        answers = [ask_and_correct(served, text) for text in questions(ABOUT_REFUNDS, 2)]
    assert CORRECTED not in answers
    proposals = ft_json(root, "inbox")["proposals"]
    assert len(proposals) == len(answers) and all(entry["acceptable"] for entry in proposals)
    assert {(entry["correction"], entry["user"]) for entry in proposals} == {(CORRECTED, "ann")}
    assert not list((root / "data" / "raw" / "traces").iterdir())

    with webhook() as hook:
        monkeypatch.setenv("FT_WEBHOOK_URL", hook.url)
        with ui_of(root) as ui:
            in_ui = {"accept": [proposals[0]["id"]], "reason": "seen in the UI"}
            launched = ui.launch(None, "inbox", config={"ops": {"inbox": {"config": in_ui}}})
            done = (launched, "SUCCESS")
            wait_until(
                lambda: done in {(run["runId"], run["status"]) for run in ui.runs()}, "the decision in the UI", PATIENCE
            )
            accepted = ft_json(root, "inbox", "accept", "--all", "--reason", "our terms")
            assert len(accepted["accepted"]) == len(answers) - 1 and len(accepted["files"]) == 1
            wait_until(lambda: champion_of(root / "data" / "store") != before, "another champion", PATIENCE)
            told = ("New champion", f"replacing {before.name}")
            wait_until(
                lambda: [text for text in hook.messages if all(part in text for part in told)], "a message", PATIENCE
            )
            reasons = [tag["value"] for run in ui.runs() for tag in run["tags"] if tag["key"] == "ft/reason"]
    after = champion_of(root / "data" / "store")
    assert after is not None and after.experiment == "support" and after.fingerprint != before.fingerprint
    assert after.sequence == before.sequence + 1
    assert len(reasons) == 1 and re.fullmatch(r"\d+ new rows", reasons[0])
    trained = pq.read_table(current(root, "conversations").path / "rows.parquet").to_pylist()
    of_traces = [row for row in trained if row["messages"][-1]["content"] == CORRECTED]
    assert len(of_traces) == len(answers) and "train" in {row["split"] for row in of_traces}
    pairs = pq.read_table(current(root, "preferences").path / "rows.parquet").to_pylist()
    assert {pair["chosen"][0]["content"] for pair in pairs} == {CORRECTED}
    assert ft_json(root, "inbox")["proposals"] == []
    audited = ft(root, "audit", "--verify")
    assert audited.returncode == 0 and "2 inbox records" in audited.stdout

    with serving(root, "champion") as served:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": questions(ABOUT_REFUNDS, 3)[0]}
        ]
        answer = served.client.chat.completions.create(model="champion", messages=messages, max_tokens=24)
        assert answer.choices[0].message.content == CORRECTED
