"""What changes an evaluation fingerprint, and what does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.evaluation.scoring.fingerprint import (
    differences,
    digest,
    evaluation_parts,
    fingerprint,
    tokens_fingerprint,
)
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, QUESTIONS, TEXTS

SETTINGS = {"max_new_tokens": 8, "batch_size": 4, "seed": 0}


def parts(base: Path, **changed: Any) -> dict[str, Any]:
    arguments = {
        "rows": CONVERSATIONS,
        "settings": SETTINGS,
        "questions": QUESTIONS,
        "texts": TEXTS,
        "own": {},
        "project_base": None,
    } | changed
    general = {"general_questions": arguments["questions"], "general_texts": arguments["texts"]}
    return evaluation_parts(
        arguments["rows"],
        base,
        {"evaluation": arguments["settings"], **general, **arguments["own"]},
        arguments["project_base"],
    )


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"rows": CONVERSATIONS[:-1]}, "test_rows"),
        ({"settings": {**SETTINGS, "max_new_tokens": 9}}, "generation"),
        ({"questions": QUESTIONS[:1]}, "general"),
        ({"texts": []}, "general"),
        ({"settings": {**SETTINGS, "answer_format": {"type": "json", "keys": []}}}, "measures"),
        ({"own": {"custom_metrics": {"mine": {"source": "def f(answer): ..."}}}}, "measures"),
        ({"settings": {**SETTINGS, "tasks": ["arc_easy"]}}, "tasks"),
    ],
)
def test_a_change_alters_the_fingerprint_and_is_named(tiny_base: Path, changed: dict[str, Any], part: str) -> None:
    before, after = parts(tiny_base), parts(tiny_base, **changed)
    assert fingerprint(before) != fingerprint(after)
    assert differences(before, after) == [part]


def test_a_limit_that_references_set_does_not_depend_on_whose_tokens_are_counted(
    tiny_base: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(tiny_base, tmp_path / "other"))
    (other / "tokenizer.json").write_text("{}", encoding="utf-8")
    free = {**SETTINGS, "max_new_tokens": None}
    assert differences(parts(tiny_base), parts(other)) == ["generation", "vocabulary"]
    assert differences(parts(tiny_base, settings=free), parts(other, settings=free)) == ["vocabulary"]


def test_template_and_vocabulary_have_a_fingerprint_of_their_own(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"others")
    assert parts(copy) == parts(tiny_base)
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    assert differences(parts(copy), parts(tiny_base)) == ["template"]
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    other, own = parts(copy, project_base=tiny_base), parts(tiny_base)
    assert differences(other, own) == ["template", "vocabulary"]
    assert fingerprint(other) == fingerprint(own)
    assert tokens_fingerprint(other) != tokens_fingerprint(own)


def test_the_tokens_that_limit_an_answer_are_a_measure(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert differences(parts(tiny_base, project_base=copy), parts(tiny_base)) == ["generation"]


def test_null_keys_that_older_versions_did_not_write_leave_the_fingerprint_and_values_change_it(
    tiny_base: Path,
) -> None:
    old = [
        {**row, "messages": [{"reasoning_content": None, **turn} for turn in row["messages"]]} for row in CONVERSATIONS
    ]
    new_keys = {"tool_calls": None, "tool_call_id": None, "name": None, "weight": None}
    new = [{**row, "tools": None, "messages": [{**turn, **new_keys} for turn in row["messages"]]} for row in old]
    before = parts(tiny_base, rows=old)
    assert before["test_rows"] == digest([{"id": row["id"], "messages": row["messages"]} for row in old])
    assert differences(before, parts(tiny_base, rows=new)) == []
    called = [{"name": "track", "arguments": "{}"}]
    for changed in (
        {**new[0], "tools": "[]"},
        {**new[0], "messages": [{**new[0]["messages"][0], "tool_calls": called}]},
    ):
        after = parts(tiny_base, rows=[changed, *new[1:]])
        assert differences(before, after) == ["calls", "test_rows"]


def test_the_fingerprint_covers_task_files_only_if_tasks_run(tiny_base: Path) -> None:
    settings = {**SETTINGS, "tasks": ["mine"]}
    first, second = (parts(tiny_base, settings=settings, own={"task_files": {"mine.yaml": sha}}) for sha in "ab")
    assert differences(first, second) == ["tasks"]
    assert parts(tiny_base, own={"task_files": {"mine.yaml": "a"}}) == parts(tiny_base)


def test_the_fingerprint_ignores_the_batch_size(tiny_base: Path) -> None:
    larger_batches = {**SETTINGS, "batch_size": 64}
    assert fingerprint(parts(tiny_base)) == fingerprint(parts(tiny_base, settings=larger_batches))
