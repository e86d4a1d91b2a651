"""What changes an evaluation fingerprint, and what does not."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.evaluation.scoring.fingerprint import differences, evaluation_parts, fingerprint
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, QUESTIONS, TEXTS

SETTINGS = {"max_new_tokens": 8, "batch_size": 4, "seed": 0}


def parts(base: Path, **changed: Any) -> dict[str, Any]:
    given = {"rows": CONVERSATIONS, "settings": SETTINGS, "questions": QUESTIONS, "texts": TEXTS, "own": {}} | changed
    general = {"general_questions": given["questions"], "general_texts": given["texts"]}
    return evaluation_parts(given["rows"], base, {"evaluation": given["settings"], **general, **given["own"]})


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
def test_a_change_is_seen_and_named(tiny_base: Path, changed: dict[str, Any], part: str) -> None:
    before, after = parts(tiny_base), parts(tiny_base, **changed)
    assert fingerprint(before) != fingerprint(after)
    assert differences(before, after) == [part]


def test_template_and_vocabulary_count_and_weights_do_not(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"others")
    assert fingerprint(parts(copy)) == fingerprint(parts(tiny_base))
    (copy / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    assert differences(parts(copy), parts(tiny_base)) == ["template"]
    (copy / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert differences(parts(copy), parts(tiny_base)) == ["template", "vocabulary"]


def test_tasks_count_by_their_files_too(tiny_base: Path) -> None:
    settings = {**SETTINGS, "tasks": ["mine"]}
    first, second = (parts(tiny_base, settings=settings, own={"task_files": {"mine.yaml": sha}}) for sha in "ab")
    assert differences(first, second) == ["tasks"]
    assert parts(tiny_base, own={"task_files": {"mine.yaml": "a"}}) == parts(tiny_base)


def test_the_batch_size_does_not_count(tiny_base: Path) -> None:
    other = {**SETTINGS, "batch_size": 64}
    assert fingerprint(parts(tiny_base)) == fingerprint(parts(tiny_base, settings=other))
