"""A number of a result that README and docs show is that of the result."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import results

ROOT = Path(__file__).parent.parent
RESULT: dict[str, Any] = {
    "date": "2026-11-28",
    "command": "make demo",
    "note": "",
    "version": "0.1.0",
    "commit": "0123456789",
    "machine": {"cpu": "AMD EPYC", "instruction_sets": ["avx2"], "cores": 2, "threads": 1, "computed_in": "bfloat16"},
    "rows_read": {"test_conversations": 134, "test_answers": 165},
    "metric": "nats_per_byte",
    "verdict": {"sentence": "Use a/merged: 27 % (25 to 30) better.", "basis": "One training."},
    "own_targets": {
        "a": [{"label": "Loss", "values": "3.1 → 2.4", "change": "-0.70 (-0.80 to -0.60)", "verdict": "improved"}]
    },
    "answers": [
        {"name": "a typical answer", "models": ["base", "a/merged"], "best_prompt": "few_shot", "prompted": "refund",
         "turns": [{"role": "user", "text": "Late | again?"}],
         "before": "I am\nan AI.", "after": "Please send the number.", "reference": "Send it."}
    ],
    "seconds": {"all_steps": 543.2, "steps": {"adapter[a]": 201.0}},
    "rows": {
        "a/merged": {
            "kind": "merged", "what": "tuned model (lora)", "learned_from": None, "usable": True,
            "cut_off": 0.0, "prompt_tokens": 75.2, "seconds_per_call": 0.134,
            "training_seconds": 220.0, "better_by_percent": [27.4, 25.1, 29.8],
            "better_answers": 160, "best_prompt": "few_shot",
            "scores": {"nats_per_byte": [0.61, 0.6, 0.62], "loss": [2.4204, 2.348, 2.491], "chrf": [24.29, 23.4, 25.1],
                       "length_ratio": [0.94, 0.9, 1.0], "general_accuracy": [0.7467, 0.7, 0.79]},
        },
        "base": {
            "kind": "base", "what": "base model, no prompt", "learned_from": None, "usable": False,
            "cut_off": 0.406, "prompt_tokens": 75.2, "seconds_per_call": 0.15,
            "training_seconds": None, "better_by_percent": [-12.0, -14.0, -10.2],
            "better_answers": 5, "best_prompt": "few_shot",
            "scores": {"nats_per_byte": [0.9, 0.89, 0.91], "loss": [3.491, 3.408, 3.578], "chrf": [20.7, 20, 21]},
        },
        "few_shot": {
            "kind": "prompt", "what": "base model, 6 examples", "learned_from": None, "usable": True, "cut_off": 0.5,
            "prompt_tokens": 589.0, "seconds_per_call": 0.2, "training_seconds": None,
            "scores": {"nats_per_byte": [0.8, 0.79, 0.81]},
        },
    },
}  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A reader of RESULT as `demo`, also for results.py."""

    def reader(name: str) -> Mapping[str, Any]:
        assert name == "demo"
        return RESULT

    monkeypatch.setattr(results, "read", reader)
    return reader


def test_every_page_shows_its_results() -> None:
    assert results.problems() == []


def test_a_table_is_that_of_its_result(read: Any) -> None:
    marker = "<!-- results: demo scores columns=lead,better,loss,general,training -->"
    page = f"# Page\n\n{marker}\nold\n<!-- end -->\n\nText.\n"
    text = results.rendered(page)
    assert "|  | better than the best prompt by (95 %) | better in | loss (95 %) | general | training |" in text
    assert "\n- *better in*: the test answers that it predicts better\n" in text
    assert (
        "| `a/merged`: tuned model (lora) | +27 % (25 to 30) | 160 of 165 | 2.420 (2.348 to 2.491) | 75 % | 4 min |"
        in text
    )
    assert (
        "| `base`: base model, no prompt, not usable | −12 % (−14 to −10) | 5 of 165 | 3.491 (3.408 to 3.578) |  |  |"
        in text
    )
    assert "| `few_shot`: base model, 6 examples | is the best prompt |  |  |  |  |" in text
    assert text.startswith("# Page\n") and text.endswith("<!-- end -->\n\nText.\n")
    assert results.rendered(text) == text


def test_other_tables_and_sentences(read: Any) -> None:
    shown = {what: results.rendered(f"<!-- results: demo {what} -->\n<!-- end -->\n") for what in results.RENDERERS}
    assert "> **Use a/merged: 27 % (25 to 30) better.** One training." in shown["verdict"]
    assert "| `a` | Loss | 3.1 → 2.4 | -0.70 (-0.80 to -0.60) | improved |" in shown["own_targets"]
    assert (
        "Measured on 2026-11-28 with `make demo` on 2 cores (AMD EPYC with AVX2, 1 thread, bfloat16), version"
        in shown["run"]
    )
    assert "| all steps | 9 min |" in shown["steps"]
    assert "| a customer asks | Late \\| again? |" in shown["answer"]
    assert "| `base`, untouched | I am<br>an AI. |\n| `few_shot`, its best prompt | refund |" in shown["answer"]
    assert shown["answer"].splitlines()[2] == "|  | a typical answer |"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("rows.a/merged.scores.loss 3", "2.420 (2.348 to 2.491)"),
        ("rows.a/merged.scores.general_accuracy 0%", "75 % (70 to 79)"),
        ("rows.a/merged.scores.general_accuracy 1points", "74.7 (70.0 to 79.0)"),
        ("rows.a/merged.scores.loss.0 1", "2.4"),
        ("rows.base.better_by_percent 0", "−12 (−14 to −10)"),
        ("seconds.all_steps 0min", "9"),
        ("rows.a/merged.better_answers 0", "160"),
    ],
)
def test_a_number_of_a_sentence_is_that_of_its_result(read: Any, key: str, shown: str) -> None:
    text = results.rendered(f"It is <!-- value: demo {key} -->old<!-- end --> today.\n")
    assert text == f"It is <!-- value: demo {key} -->{shown}<!-- end --> today.\n"


def test_a_key_that_a_result_lacks_is_named(read: Any) -> None:
    with pytest.raises(KeyError, match="gone"):
        results.rendered("<!-- value: demo rows.a/merged.gone 1 --><!-- end -->")


def test_a_page_with_another_number_is_named(read: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("All took <!-- value: demo seconds.all_steps 0min -->8<!-- end --> min.", encoding="utf-8")
    monkeypatch.setattr(results, "ROOT", tmp_path)
    monkeypatch.setattr(results, "pages", lambda: [page])
    assert results.problems() == ["page.md: a number differs from its result. Run `python docs/results.py render`."]


def test_results_have_their_origin_and_can_be_shown() -> None:
    for path in (ROOT / "docs" / "results").glob("*.json"):
        result = json.loads(path.read_text(encoding="utf-8"))
        assert {"date", "command", "commit", "version", "machine"} <= set(result), path.name
        if "rows" in result:
            assert all(render(result) for render in results.RENDERERS.values()), path.name


def test_other_numbers_are_recorded_with_their_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    results.record("install", "make demo-small", "", 2, ["seconds_to_report=290"])
    result = json.loads((tmp_path / "install.json").read_text(encoding="utf-8"))
    assert (result["seconds_to_report"], result["command"]) == (290.0, "make demo-small")
    assert len(result["commit"]) == 40 and result["machine"]["threads"] == 2 and result["machine"]["cpu"]
