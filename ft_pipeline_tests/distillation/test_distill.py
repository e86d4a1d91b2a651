"""Every answer is kept or set aside, with its reason and its origin."""

import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation import answer_table
from ft_pipeline.distillation import distill as distill_module
from ft_pipeline.distillation.distill import DISTILLED_TABLE, distill
from ft_pipeline.tables.dedup import matching
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline_tests.distillation.material import HUMAN, answer_row, write_answers, write_conversations

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "alpaca"
TEACHER = {"model": "embedded", "fingerprint": "f" * 64}
TEST = [("How long is the warranty on pans?", "Larkfield cookware has a warranty of 5 years; other goods have 2.")]
NO_SUITE = SuiteTexts()
LABEL = "I'm e-mailing a free return label for the rug to you now; it can be printed at any post office."


def run(
    tmp_path: Path, answers: list[dict[str, Any]], suite: SuiteTexts = NO_SUITE
) -> tuple[dict[str, Any], list[dict], list[dict]]:
    out = tmp_path / "out"
    out.mkdir()
    conversations = write_conversations(tmp_path / "conversations", test=TEST)
    suite.write(conversations)
    summary = distill(write_answers(tmp_path / "answers", answers), conversations, out, teacher=TEACHER)
    return summary, *(pq.read_table(out / name).to_pylist() for name in ("rows.parquet", "set_aside.parquet"))


def test_kept_rows_are_conversations_of_the_train_split_with_provenance(tmp_path: Path) -> None:
    summary, rows, aside = run(tmp_path, [answer_row(7, "May the rug go back?", LABEL)])
    assert aside == []
    (row,) = rows
    assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
    assert row["messages"][1]["content"] == LABEL
    assert (row["split"], row["table"], row["file"], row["row"]) == ("train", "unlabelled", "inbox.jsonl", 7)
    assert (row["teacher"], row["teacher_fingerprint"]) == ("embedded", "f" * 64)
    assert row["sampling"] == '{"max_new_tokens": 80, "seed": 0, "temperature": 0.0}'
    assert (row["prompt_tokens"], row["answer_tokens"], row["template_sha256"]) == (40, 20, "t" * 64)
    assert pq.read_schema(tmp_path / "out" / "rows.parquet").names == DISTILLED_TABLE.arrow_schema.names
    assert (summary["answers"], summary["kept"], summary["set_aside"], summary["reasons"]) == (1, 1, 0, {})


def test_each_answer_is_kept_or_set_aside_with_its_reason(tmp_path: Path) -> None:
    answers = [
        answer_row(1, "May the rug go back?", LABEL),
        answer_row(2, "How long is the warranty on pans?", "Ask the maker of the pans for it, please."),
        answer_row(3, "where is my parcel", HUMAN[0][1]),
        answer_row(4, "may the rug go back", LABEL.upper()),
        answer_row(5, "Is there a shop in Leeds?", "There is no shop", finish_reason="length"),
        answer_row(6, "Do you sell swings?", ""),
    ]
    summary, rows, aside = run(tmp_path, answers)
    assert [row["row"] for row in rows] == [1]
    assert [(row["row"], row["code"], row["copy_of"]) for row in aside] == [
        (2, "train_test_overlap", "alpaca/support.jsonl:5"),
        (3, "near_duplicate", "alpaca/support.jsonl:1"),
        (4, "near_duplicate", "unlabelled/inbox.jsonl:1"),
        (5, "answer_cut_off", None),
        (6, "empty_output", None),
    ]
    assert all(row["message"] and row["raw"] for row in aside)
    assert summary["reasons"] == {"answer_cut_off": 1, "empty_output": 1, "near_duplicate": 2, "train_test_overlap": 1}
    assert summary["answers"] == summary["kept"] + summary["set_aside"] == 6
    assert summary["checks"]["answers_accounted_for"] == {"passed": True, "message": "6 answers = 1 kept + 5 set aside"}
    assert {sample["code"] for sample in summary["samples"]["set_aside"]} == set(summary["reasons"])
    assert [sample["answer"] for sample in summary["samples"]["kept"]] == [LABEL]


def test_answers_to_prompts_under_one_long_instruction_are_no_duplicates(tmp_path: Path) -> None:
    instruction = " ".join(f"Rule {number} names the class of goods {number * 7}." for number in range(40))
    goods = ("rug", "pan", "swing", "lamp", "kettle", "ladder", "mirror", "basket", "hammer", "candle")
    questions = [f"{instruction}\nA customer wants to know what to do about a broken {name}." for name in goods]
    answers = [answer_row(at, text, "Please send it back to us.") for at, text in enumerate(questions, 1)]
    summary, rows, _ = run(tmp_path, answers)
    assert (len(rows), summary["reasons"]) == (10, {})


def test_the_general_suite_is_never_trained_on(tmp_path: Path) -> None:
    question = "Which of these planets is the closest to the sun and has no moon of its own at all?"
    summary, rows, _ = run(tmp_path, [answer_row(1, question, LABEL)], suite=SuiteTexts([question]))
    assert rows == []
    assert summary["reasons"] == {"train_test_overlap": 1}


def test_keeping_no_answer_fails_a_check_that_does_not_block(tmp_path: Path) -> None:
    summary, rows, _ = run(tmp_path, [answer_row(1, "Do you sell swings?", "")])
    assert rows == []
    check = summary["checks"]["some_answers_kept"]
    assert (check["passed"], check["blocking"]) == (False, False)
    assert check["message"] == "0 of 1 answers are kept; the most common fault is empty_output (1)"


def test_no_answers_give_empty_tables(tmp_path: Path) -> None:
    summary, rows, aside = run(tmp_path, [])
    assert (rows, aside, summary["answers"]) == ([], [], 0)
    assert all(check["passed"] for check in summary["checks"].values())


def test_the_same_answers_give_the_same_rows(tmp_path: Path) -> None:
    answers = [answer_row(1, "May the rug go back?", LABEL), answer_row(2, "Do you sell swings?", "")]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "a", answers) == run(tmp_path / "b", answers)


def write_many_answers(folder: Path) -> Path:
    """Forty answers. Some are set aside: equal to an earlier one or to a human row, empty, second to another one."""
    texts = [f"Parcel {number * 7919 % 101} left our warehouse in week {number % 13}." for number in range(30)]
    rows = [answer_row(number, f"Where is parcel {number} of mine?", text) for number, text in enumerate(texts, 1)]
    rows += [
        answer_row(30 + number, f"where is parcel {3 * number + 1} of mine", texts[3 * number]) for number in range(8)
    ]
    rows += [answer_row(39, "where is my parcel", HUMAN[0][1]), answer_row(40, "Do you sell swings?", "")]
    return write_answers(folder, [*rows, {**answer_row(5, "Where is parcel 5?", "In week one."), "sample": 1}])


def rows_in_memory() -> int:
    gc.collect()
    return sum(type(item) is dict and "prompt_messages" in item for item in gc.get_objects())


@pytest.mark.parametrize("batch_rows", [1, pytest.param(5, marks=pytest.mark.long)])
def test_batches_give_the_same_rows_with_only_one_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    answers, conversations = write_many_answers(tmp_path / "answers"), tmp_path / "conversations"
    write_conversations(conversations, test=TEST)
    for name in ("whole", "batches"):
        (tmp_path / name).mkdir()
    whole = distill(answers, conversations, tmp_path / "whole", teacher=TEACHER)
    live = []
    before = rows_in_memory()

    def find_duplicates(*arguments: Any) -> Any:
        live.append(rows_in_memory() - before)
        return matching.find_duplicates(*arguments)

    monkeypatch.setattr(answer_table, "BATCH_ROWS", batch_rows)
    monkeypatch.setattr(distill_module, "find_duplicates", find_duplicates)
    assert distill(answers, conversations, tmp_path / "batches", teacher=TEACHER) == whole
    for name in ("rows.parquet", "set_aside.parquet"):
        assert pq.read_table(tmp_path / "batches" / name) == pq.read_table(tmp_path / "whole" / name)
    assert whole["reasons"].keys() >= {"near_duplicate", "not_best", "empty_output"}
    assert live[0] <= batch_rows


def test_degenerate_teacher_answers_are_set_aside(tmp_path: Path) -> None:
    """252 real answers of an old model, 239 of them known to be degenerate, with 999 answers that are not."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared/data")
    lines = (SHARED / "davinci_predictions.jsonl").read_text(encoding="utf-8").splitlines()
    people = json.loads((SHARED / "alpaca_en_demo.json").read_text(encoding="utf-8"))
    answers = [
        answer_row(number, row["prompt"], row["response"]) for number, row in enumerate(map(json.loads, lines), 1)
    ]
    pairs = [(f"{row['instruction']}\n{row['input']}", row["output"]) for row in people]
    summary = distill(
        write_answers(tmp_path / "answers", answers),
        write_conversations(tmp_path / "conversations", pairs),
        tmp_path,
        teacher=TEACHER,
    )
    assert (summary["answers"], summary["kept"], summary["reasons"]) == (252, 2, {"repetition": 250})
    assert all(set(sample) == {"prompt", "answer"} for sample in summary["samples"]["kept"])


READ_MANY_ROWS = """
import resource, sys
from pathlib import Path
import pyarrow as pa, pyarrow.parquet as pq
from ft_pipeline.distillation.distill import distill
from ft_pipeline.tables.conversations import SCHEMA

answers, conversations = Path(sys.argv[1]), Path(sys.argv[2])
with pq.ParquetWriter(conversations / "rows.parquet", SCHEMA) as writer:
    for begin in range(0, 150_000, 1000):
        turns = [[("user", f"Where is {n}?"), ("assistant", f"It is at {n}.")] for n in range(begin, begin + 1000)]
        rows = [
            {"id": str(begin), "split": "train", "table": "alpaca", "file": "a.jsonl", "row": begin + place,
             "messages": [{"role": role, "content": content} for role, content in messages]}
            for place, messages in enumerate(turns)
        ]
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
out = answers.parent / "out"
out.mkdir()
print(distill(answers, conversations, out, teacher={"model": "m", "fingerprint": "f"})["set_aside"])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


@pytest.mark.long
def test_the_human_rows_are_read_in_batches(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", [answer_row(1, "Where is 149999?", "It is at 149999.")])
    (tmp_path / "conversations").mkdir()
    process = subprocess.run(
        [sys.executable, "-c", READ_MANY_ROWS, str(answers), str(tmp_path / "conversations")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    set_aside, megabytes = map(int, process.stdout.split())
    assert set_aside == 1 and megabytes < 300, "as Python objects, 150,000 rows take 430 MB"


def test_tools_tags_and_turns_of_a_prompt_reach_the_distilled_row(tmp_path: Path) -> None:
    prompt = [
        {"role": "user", "content": "Where is order 7?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]},
        {"role": "tool", "content": "at the depot", "name": "track"},
    ]
    tools = '[{"type":"function","function":{"name":"track"}}]'
    labels = {"tools": tools, "tags": ["orders"]}
    answers = [{**answer_row(1, "", LABEL), "prompt_messages": prompt, **labels}]
    _, (row,), _ = run(tmp_path, answers)
    assert (row["tools"], row["tags"]) == (tools, ["orders"])
    assert plain(row["messages"]) == [*prompt, {"role": "assistant", "content": LABEL}]
    assert row["id"] == row_id({"messages": plain(row["messages"]), "tools": tools})


def test_answers_of_an_older_version_are_distilled(tmp_path: Path) -> None:
    answers = write_answers(tmp_path / "answers", [answer_row(7, "May the rug go back?", LABEL)])
    table = pq.read_table(answers / "answers.parquet").drop_columns(["tools", "tags"])
    pq.write_table(table, answers / "answers.parquet")
    distill(answers, write_conversations(tmp_path / "conversations"), tmp_path, teacher=TEACHER)
    (row,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert (row["tools"], row["tags"], row["messages"][1]["content"]) == (None, None, LABEL)
