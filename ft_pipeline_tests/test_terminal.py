"""What `ft` prints in a terminal of 80 columns, and in a log."""

import io
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from rich.table import Table

from ft_pipeline.cli.display import show_experiments, show_findings
from ft_pipeline.cli.display_outcome import show_outcome
from ft_pipeline.cli.display_tables import new_table, print_columns, print_rows
from ft_pipeline.cli.display_text import say, say_line
from ft_pipeline.cli.runs import RunLog
from ft_pipeline.events import StepEvent
from ft_pipeline.execution.run import RunResult
from ft_pipeline.execution.run_batches import Batch, BatchResult
from ft_pipeline_tests.fixtures.packing import unpack
from ft_pipeline_tests.pseudo_terminal import ESCAPE, in_terminal

WIDTH = 80
SENTENCE = "The training data has 72 rows, under the 500 that are usually wanted: more of them should help a lot."
LONG_PATH = f"/data/{'folder/' * 14}report.html"
STORE = Path(__file__).parent / "fixtures" / "store_a73cd80.tar.zst"
COMMANDS = ("status", "experiments", "compare", "recommend", "champion", "exposures", "inspect conversations")
FT = """
import contextlib, sys
from ft_pipeline.cli import main
for command in sys.argv[1:]:
    sys.argv[:] = ["ft", *command.split()]
    with contextlib.suppress(SystemExit):
        main()
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(show: Callable[[Console], None], file: io.StringIO | None = None) -> list[str]:
    """The lines that a terminal, or another file, of 80 columns gets."""
    out = file or Terminal()
    show(Console(file=out, width=WIDTH, highlight=False, color_system=None))
    return out.getvalue().splitlines()


# --- sentences --------------------------------------------------------------------------------------------------------


def test_sentences_are_wrapped_between_words_and_indented() -> None:
    lines = shown(lambda console: say(console, f"  · {SENTENCE}"))
    assert len(lines) == 2 and all(len(line) <= WIDTH for line in lines)
    assert lines[1].startswith("    ") and " ".join(" ".join(lines).split()) == f"· {SENTENCE}"


def test_a_log_has_a_sentence_on_one_line() -> None:
    assert shown(lambda console: say(console, f"  · {SENTENCE}"), io.StringIO()) == [f"  · {SENTENCE}"]


def test_paths_and_commands_are_never_broken() -> None:
    assert LONG_PATH in shown(lambda console: say(console, f"See the report at {LONG_PATH} and read it."))
    command = f"ft run --project {LONG_PATH} --experiment lora"
    assert shown(lambda console: say_line(console, command)) == [command]


def test_texts_of_users_are_not_read_as_markup_or_emoji() -> None:
    assert shown(lambda console: say(console, "row :100: of a.jsonl:1:")) == ["row :100: of a.jsonl:1:"]


# --- tables -----------------------------------------------------------------------------------------------------------


def numbers(columns: int) -> Table:
    """A table of two models with many metrics."""
    titles = [f"metric {number}" for number in range(columns)]
    table = new_table("model", *titles, right=titles)
    for name in ("lora_r32/merged", "system_prompt"):
        table.add_row(name, *(f"{number}.123" for number in range(columns)))
    return table


def test_columns_that_do_not_fit_follow_below_with_the_names() -> None:
    lines = shown(lambda console: print_columns(console, numbers(14)))
    assert all(len(line) <= WIDTH for line in lines)
    words = " ".join(lines).split()
    assert all(words.count(f"{number}.123") == 2 for number in range(14)), "each number is whole"
    assert len({words.count(name) for name in ("model", "lora_r32/merged", "system_prompt")}) == 1
    assert words.count("model") == 3


def test_a_table_that_fits_is_one_table() -> None:
    assert len(shown(lambda console: print_columns(console, numbers(4)))) == 3


def test_rows_with_many_texts_are_records() -> None:
    titles = ["id", "question", "answer", "comment", "model", "file"]
    lines = shown(lambda console: print_rows(console, titles, [[SENTENCE] * 6, ["a", None, "c", "d", "e", "f"]]))
    assert all(len(line) <= WIDTH for line in lines)
    assert [line for line in lines if line.endswith(".") and not line.startswith(" ")] == ["1.", "2."]
    assert " ".join(" ".join(lines).split()).count(SENTENCE) == 6


def test_rows_with_few_texts_are_a_table() -> None:
    lines = shown(lambda console: print_rows(console, ["code", "message"], [["empty_output", SENTENCE]]))
    assert lines[0].split() == ["code", "message"] and lines[1].startswith("empty_output  The training")


def test_the_fix_of_a_problem_is_below_it() -> None:
    finding = SimpleNamespace(what="signing key", status="warning", seen=SENTENCE, fix="ft keys new --reason TEXT")
    lines = shown(lambda console: show_findings(console, [finding]))
    assert all(len(line) <= WIDTH for line in lines)
    assert lines[1].startswith("signing key  warning  The training data")
    assert lines[-1].split() == ["→", "ft", "keys", "new", "--reason", "TEXT"]


def test_a_score_has_its_metric_and_unit() -> None:
    known = {"name": "lora", "objective": "sft", "technique": "lora", "base_model": "embedded", "state": "fresh"}
    row = {**known, "primary_score": 2.2014, "primary_metric": "loss (nats per token, lower is better)", "error": None}
    lines = shown(lambda console: show_experiments(console, [row]))
    assert "2.201" in lines[1] and lines[2] == "Score: loss (nats per token, lower is better)."


# --- the end of a run -------------------------------------------------------------------------------------------------

RELEASED = {"sequence": 2, "name": "lora/merged", "since": "2026-11-28T10:00:00+00:00"}
DECIDED = {"decision": "lora", "verdict": f"Use the fine-tuned model lora/merged: {SENTENCE}", "reasons": ["It leads."]}


def outcome(*steps: StepEvent, failures: list[str] | None = None, **fields: object) -> RunResult:
    batch = Batch("lora", ("training_data", "adapter", "merged_model", "scores"))
    results = [BatchResult(batch, list(steps), failures or [], 61.0)] if steps else []
    values = {"recommendation": DECIDED, "champion": RELEASED, "champion_before": RELEASED, **fields}
    return RunResult(list(steps), failures or [], results, 3, 61.0, **values)  # type: ignore[arg-type]


def test_the_end_of_a_run_says_what_changed_and_what_to_do_next() -> None:
    steps = [StepEvent(name, "lora", "built", 1.0) for name in ("adapter", "recommendation")]
    ended = outcome(*steps, StepEvent("scores", "lora", "reused"), champion_before=None)
    lines = shown(lambda console: show_outcome(console, ended, " --project ../shop"))
    text = " ".join(" ".join(lines).split())
    assert "✓ Done in 1 min 1 s: built 2 assets, reused 1 from the store, 3 were up to date." in text
    assert f"Verdict: {DECIDED['verdict']}" in text
    assert "Champion: lora/merged, new with this run (the first one)." in text
    assert "ft report --open --project ../shop" in text and "Next: ft serve champion --project ../shop" in text
    assert len(lines) <= 12 and all(len(line) <= WIDTH for line in lines)


def test_the_end_of_a_failed_run_says_why_and_what_is_kept() -> None:
    why = "adapter: the worker was killed by SIGKILL (usually out of memory)."
    steps = (StepEvent("training_data", "lora", "built", 1.0), StepEvent("adapter", "lora", "failed", 1.0, why))
    lines = shown(lambda console: show_outcome(console, outcome(*steps, failures=[why]), ""))
    text = " ".join(" ".join(lines).split())
    assert f"· {why}" in text and "Not run, because of that: merged_model, scores." in text
    assert "Kept: 1 asset of this run" in text and "Champion: lora/merged, unchanged since 2026-11-28." in text
    assert "Look at: ft logs lora" in text and "Next: ft run" in text
    assert "Verdict" not in text, "the comparison is older than this run"
    assert len(lines) <= 12 and all(len(line) <= WIDTH for line in lines)


def test_a_run_with_nothing_to_do_says_so() -> None:
    lines = shown(lambda console: show_outcome(console, outcome(), ""))
    assert lines[0] == "✓ Up to date: 3 assets, nothing to run."
    rated = outcome(recommendation={**DECIDED, "decision": "rate"})
    assert "Next:    ft rate" in "\n".join(shown(lambda console: show_outcome(console, rated, "")))


# --- the log of a run -------------------------------------------------------------------------------------------------


def test_a_terminal_shows_the_day_once_and_a_file_the_whole_time() -> None:
    def show(console: Console) -> None:
        log = RunLog(console)
        log.print(datetime(2026, 11, 28, 12, 0, 1), "adapter", SENTENCE)
        log.print(datetime(2026, 11, 28, 12, 0, 2), None, "Started.")

    day, first, second, last = shown(show)
    assert day == "2026-11-28" and last == "12:00:02  Started."
    assert first.startswith("12:00:01  adapter: The training data") and second.startswith(" " * 10)
    assert " ".join(f"{first} {second}".split()) == f"12:00:01 adapter: {SENTENCE}"
    assert shown(show, io.StringIO())[0] == f"2026-11-28 12:00:01  {'adapter':<20}  {SENTENCE}"


# --- a real terminal --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project."""
    return unpack(STORE, tmp_path_factory.mktemp("terminal") / "shop")


def test_nothing_is_wider_than_the_terminal(project: Path) -> None:
    lines = in_terminal(FT, *COMMANDS, FT_PROJECT=str(project)).splitlines()
    plain_lines = [ESCAPE.sub("", line).rstrip() for line in lines]
    for expected in ("Champion: qlora/merged", "Recommendation: lora", "lora/merged", "Longest"):
        assert any(expected in line for line in plain_lines), expected
    copied = re.compile(r"  ft |/")  # a person copies commands and paths, so they stay on one line
    assert [line for line in plain_lines if len(line) > WIDTH and not copied.match(line)] == []
    assert any("\x1b[1m" in line for line in lines)
    assert "8 test answers. Lower is better for loss, general loss." in " ".join(" ".join(plain_lines).split())


def test_no_color_is_printed_if_none_is_wanted(project: Path) -> None:
    lines = in_terminal(FT, "recommend", FT_PROJECT=str(project), NO_COLOR="1")
    assert not re.search(r"\x1b\[3\dm", lines)
