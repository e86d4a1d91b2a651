"""`ft import openai`: chat, preference and reinforcement rows, test files, jobs."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.project import Project
from ft_pipeline.settings.teacher import PriceSettings
from ft_pipeline_tests.exchange.helpers import Imported, answer, question, run_import, write_json, write_lines

TOOL = {
    "type": "function",
    "function": {"name": "track", "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}},
}


def chat_row(number: int) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "developer", "content": "Help customers."},
            {"role": "user", "content": question(number)},
            {"role": "assistant", "content": answer(number)},
        ]
    }


def call_row(number: int) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "track", "arguments": f'{{"order": "{number}"}}'}}
    turns = [{"role": "user", "content": question(number)}, {"role": "assistant", "tool_calls": [call]}]
    return {"messages": turns, "tools": [TOOL]}


def pair_row(number: int, names: tuple[str, str] = ("preferred_output", "non_preferred_output")) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": question(number)}]},
        names[0]: [{"role": "assistant", "content": answer(number)}],
        names[1]: [{"role": "assistant", "content": "No idea."}],
    }


def reinforcement_row(number: int, **keys: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question(number)}], **keys}


def imported(tmp_path: Path, *names: str, **options: str | bool) -> Imported:
    """An import of the folder, or of these files in it."""
    theirs = tmp_path / "theirs"
    return run_import("openai", *([theirs / name for name in names] or [theirs]), into=tmp_path / "ours", **options)


def test_chat_rows(tmp_path: Path) -> None:
    rows = [*map(chat_row, range(4)), *map(call_row, range(4, 8))]
    source = write_lines(tmp_path / "theirs" / "train.jsonl", rows)
    got = imported(tmp_path)
    assert (tmp_path / "ours/data/raw/chat/train.jsonl").read_bytes() == source.read_bytes()
    assert got.account("chat/train.jsonl").accepted == 8
    experiment = got.experiment("sft")
    assert (experiment.base_model, experiment.objective, experiment.technique) == ("embedded", "sft", "qlora")
    assert "not published" in got.effect("model: ")


@pytest.mark.parametrize(
    "names", [("preferred_output", "non_preferred_output"), ("preferred_completion", "non_preferred_completion")]
)
def test_preference_rows(tmp_path: Path, names: tuple[str, str]) -> None:
    write_lines(tmp_path / "theirs" / "pairs.jsonl", [pair_row(number, names) for number in range(4)])
    got = imported(tmp_path)
    assert got.account("preferences/pairs.jsonl").accepted == 4
    assert got.experiment("dpo").start_from is None
    assert len(got.rows("chat/pairs-chosen-test.jsonl")) == len(got.rows("chat/pairs-chosen.jsonl")) == 1


def test_preferences_follow_the_answers_if_there_are_both(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "sft.jsonl", list(map(chat_row, range(4))))
    write_lines(tmp_path / "theirs" / "pairs.jsonl", [pair_row(number) for number in range(4, 8)])
    got = imported(tmp_path)
    assert got.experiment("dpo").start_from == "sft"
    assert not (tmp_path / "ours/data/raw/chat/pairs-chosen.jsonl").exists()


@pytest.mark.parametrize(
    ("keys", "columns"),
    [
        ({"reference_answer": "5 days"}, None),
        ({"correct_answer": "5 days", "difficulty": 3}, {"correct_answer": "reference"}),
        ({"sku": "A-5"}, {"sku": "reference"}),
    ],
)
def test_reinforcement_rows_keep_their_reference(
    tmp_path: Path, keys: dict[str, Any], columns: dict[str, str] | None
) -> None:
    rows = [reinforcement_row(number, **keys) for number in range(4)]
    write_lines(tmp_path / "theirs" / "rft.jsonl", rows)
    got = imported(tmp_path)
    assert got.account("unlabelled/rft.jsonl").accepted == 4
    sidecar = tmp_path / "ours/data/raw/unlabelled/rft.yaml"
    assert sidecar.exists() == (columns is not None)
    assert columns is None or got.sidecar("unlabelled/rft.yaml") == {"columns": columns}
    assert ("rft: difficulty" in got.lines("no_counterpart")) == ("difficulty" in keys)


def test_references_are_answers_if_there_are_no_conversations(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("valid", 4)):
        rows = [reinforcement_row(number, ground_truth=answer(number)) for number in range(start, start + 4)]
        write_lines(tmp_path / "theirs" / f"rft_{name}.jsonl", rows)
    got = imported(tmp_path)
    assert got.account("chat/rft_train-reference.jsonl").accepted == 4
    assert got.sidecar("chat/rft_valid-reference.yaml") == {"split": "test"}


def test_references_of_rows_with_tools_are_no_answers(tmp_path: Path) -> None:
    rows = [reinforcement_row(number, tools=[TOOL], reference_answer="A-5") for number in range(4)]
    write_lines(tmp_path / "theirs" / "rft.jsonl", rows)
    got = imported(tmp_path)
    assert "ft run` stops at the splits" in got.effect("no conversations")


@pytest.mark.parametrize(("kind", "named"), [("text_similarity", "rouge_l"), ("python", "evaluation.metrics")])
def test_a_file_with_a_grader_is_told_what_does_the_same(tmp_path: Path, kind: str, named: str) -> None:
    rows = [reinforcement_row(number, reference_answer=answer(number)) for number in range(4)]
    write_lines(tmp_path / "theirs" / "rft.jsonl", rows)
    write_json(tmp_path / "theirs" / "grader.json", {"type": kind, "name": "g", "source": "def grade(): ..."})
    got = imported(tmp_path)
    assert named in got.effect(f"grader: {kind}") and "docs/rewards.md" in got.effect(f"grader: {kind}")
    assert "objective: grpo" in got.effect("rft: reinforcement rows")
    assert "objective: grpo" in got.effect("rft: no conversations")


def test_a_grader_without_rows_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "theirs" / "grader.json", {"type": "string_check", "operation": "eq"})
    with pytest.raises(UserError, match="has no rows"):
        imported(tmp_path)


def test_a_validation_file_is_a_test_file(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "support_train.jsonl", list(map(chat_row, range(4))))
    write_lines(tmp_path / "theirs" / "support_val.jsonl", list(map(chat_row, range(4, 8))))
    got = imported(tmp_path)
    assert got.sidecar("chat/support_val.yaml") == {"split": "test"}
    assert "keeps it for the test" in got.effect("support_val.jsonl: validation or test file")
    assert "its rows" in got.effect("a test file")


def test_the_only_file_is_for_training_whatever_its_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "validation.jsonl", list(map(chat_row, range(4))))
    got = imported(tmp_path)
    assert not (tmp_path / "ours/data/raw/chat/validation.yaml").exists()
    assert "only file of its kind" in got.effect("validation.jsonl: validation")


def test_rows_of_other_providers(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    write_lines(theirs / "together.jsonl", [{"prompt": question(n), "completion": answer(n)} for n in range(4)])
    write_lines(theirs / "corpus.jsonl", [{"text": f"A passage about {question(n)}"} for n in range(4)])
    sides = [
        {
            "chosen": chat_row(n),
            "rejected": {"messages": [*chat_row(n)["messages"][:-1], {"role": "assistant", "content": "No."}]},
        }
        for n in range(4, 8)
    ]
    write_lines(theirs / "fireworks.jsonl", sides)
    got = imported(tmp_path)
    assert got.project.experiment_names() == ["cpt", "dpo", "sft"]
    assert got.account("chat/together.jsonl").accepted == 4
    assert got.account("text/corpus.jsonl").accepted == 4
    assert got.account("preferences/fireworks.jsonl").accepted == 4


def test_mixed_rows_are_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "mixed.jsonl", [*map(chat_row, range(4)), pair_row(5), ["not", "a", "row"]])
    got = imported(tmp_path)
    assert got.effect("mixed.jsonl: mixed rows").startswith("2 of 6 rows have another shape")
    assert got.account("chat/mixed.jsonl").read == 6


def job(**keys: Any) -> dict[str, Any]:
    return {
        "object": "fine_tuning.job",
        "id": "ftjob-1",
        "model": "gpt-4o-mini-2024-07-18",
        "status": "succeeded",
        **keys,
    }


def test_a_job(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    parameters = {"n_epochs": 4, "batch_size": 24, "learning_rate_multiplier": 1.8}
    method = {"type": "supervised", "supervised": {"hyperparameters": parameters}}
    document = job(
        method=method, seed=5, user_provided_suffix="Support", fine_tuned_model="ft:gpt-4o-mini-2024-07-18:acme::x"
    )
    write_json(tmp_path / "theirs" / "job.json", document)
    got = imported(tmp_path)
    training = got.experiment("support").training
    assert (training.num_train_epochs, training.seed) == (4, 5)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (8, 3)
    assert "does not publish" in got.effect("learning_rate_multiplier: 1.8")
    assert got.project.settings.evaluation.contenders[0].model == "ft:gpt-4o-mini-2024-07-18:acme::x"
    assert "gpt-4o-mini" in str(got.lines("changed"))


@pytest.mark.parametrize(
    ("model", "ends"),
    [
        ("ft:gpt-4o-mini-2024-07-18:org::id", date(2027, 1, 14)),
        ("ft:gpt-4o-2024-08-06:org:support-v2:id", date(2027, 1, 14)),
        ("ft:gpt-4.1-mini-2025-04-14:org::id:ckpt-step-90", date(2027, 1, 14)),
        ("ft:gpt-3.5-turbo-0125:org::id", None),
    ],
)
def test_the_tuned_model_is_the_incumbent(tmp_path: Path, model: str, ends: date | None) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    got = imported(tmp_path, tuned_model=model)
    (today,) = got.project.settings.evaluation.contenders
    assert (today.name, today.model, today.incumbent, today.ends) == ("today", model, True, ends)
    assert today.endpoint is not None
    assert (today.endpoint.url, today.endpoint.api_key_env) == ("https://api.openai.com/v1", "OPENAI_API_KEY")
    assert ("2027-01-14" in got.effect(f"the tuned model {model}")) == (ends is not None)


def test_the_successor_needs_only_a_name(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    got = imported(tmp_path, tuned_model="ft:gpt-4o-2024-08-06:org::id")
    path = got.root / "project.yaml"
    text = re.sub(r"^  # (?=- name|  )", "  ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    today, successor = Project(got.root).settings.evaluation.contenders
    assert today.endpoint is not None and today.endpoint.prices == PriceSettings()
    assert successor.model == "NAME" and set(successor.variants) == {"prompted", "few_shot"}


def test_the_newest_tuned_model_of_several_jobs_is_the_incumbent(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    names = {20: "ft:gpt-4o-2024-08-06:acme::new", 10: "ft:gpt-4o-2024-08-06:acme::old"}
    jobs = [job(created_at=at, fine_tuned_model=name, user_provided_suffix="today") for at, name in names.items()]
    write_json(tmp_path / "theirs" / "jobs.json", {"object": "list", "data": jobs})
    got = imported(tmp_path)
    (contender,) = got.project.settings.evaluation.contenders
    assert contender.model == names[20]
    assert contender.name not in got.project.experiment_names()
    assert "evaluation.contenders" in got.effect(f"fine_tuned_model: {names[10]}")


def test_the_tuned_model_of_another_provider_is_only_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    write_json(tmp_path / "theirs" / "job.json", job(fine_tuned_model="acme/llama-support"))
    got = imported(tmp_path)
    assert got.project.settings.evaluation.contenders == []
    assert "evaluation.contenders" in got.effect("fine_tuned_model: acme/llama-support")


@pytest.mark.parametrize("name", ["gpt-4o", "ft:gpt-4o", "ft:gpt-4o:org::id\n  evil: 1", "ftjob-abc"])
def test_what_is_not_the_name_of_a_tuned_model_is_refused(tmp_path: Path, name: str) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    with pytest.raises(UserError, match=r"is not the name of a tuned model\. Write it as ft:BASE:ORG:SUFFIX:ID"):
        imported(tmp_path, tuned_model=name)
    assert not (tmp_path / "ours").exists()


def test_automatic_hyperparameters_are_our_defaults(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    automatic = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    write_json(tmp_path / "theirs" / "jobs.json", {"object": "list", "data": [job(hyperparameters=automatic)]})
    got = imported(tmp_path)
    assert got.experiment("sft").training.num_train_epochs == 3
    assert "our defaults" in str(got.report) or "its defaults" in got.effect("n_epochs: auto")


def test_a_preference_job(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "pairs.jsonl", [pair_row(number) for number in range(4)])
    parameters = {"beta": 0.3, "n_epochs": 2}
    write_json(tmp_path / "theirs" / "job.json", job(method={"type": "dpo", "dpo": {"hyperparameters": parameters}}))
    experiment = imported(tmp_path).experiment("dpo")
    assert (experiment.dpo.beta, experiment.training.num_train_epochs) == (0.3, 2)


def test_a_reinforcement_job_names_its_grader(tmp_path: Path) -> None:
    rows = [reinforcement_row(number, reference_answer=answer(number)) for number in range(4)]
    write_lines(tmp_path / "theirs" / "rft.jsonl", rows)
    grader = {"type": "score_model", "model": "gpt-4o", "input": []}
    method = {"type": "reinforcement", "reinforcement": {"grader": grader, "hyperparameters": {"n_epochs": 1}}}
    write_json(tmp_path / "theirs" / "job.json", job(method=method))
    got = imported(tmp_path)
    assert "teacher" in got.effect("method: reinforcement")
    assert "evaluation.metrics" in got.effect("grader: score_model")


def test_a_job_with_an_impossible_number_is_not_taken_over(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    write_json(tmp_path / "theirs" / "job.json", job(hyperparameters={"batch_size": -1}))
    got = imported(tmp_path)
    assert "`batch_size` is -1" in got.effect("job ftjob-1")
    assert got.project.experiment_names() == ["sft"]


def test_a_job_without_its_rows_is_said(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    write_json(tmp_path / "theirs" / "job.json", job(method={"type": "dpo"}))
    assert "no file of its kind" in imported(tmp_path).effect("job dpo")


def test_base_model(tmp_path: Path) -> None:
    write_lines(tmp_path / "theirs" / "train.jsonl", list(map(chat_row, range(4))))
    assert imported(tmp_path, base_model="acme/base-1b").experiment("sft").base_model == "acme/base-1b"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", r"^rows\.jsonl cannot be read: no rows"),
        (b'{"a": 1}\n{"b": 2}\n', r"^rows\.jsonl: No row has"),
        (b"\x1f\x8b\x08 not gzip", r"^rows\.jsonl cannot be read: the gzip stream is "),
        (b"PK\x03\x04 zip", r"^rows\.jsonl cannot be read: .* zip archive"),
    ],
)
def test_files_without_rows_are_refused(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "theirs" / "rows.jsonl"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(UserError, match=named):
        imported(tmp_path)
    assert not (tmp_path / "ours").exists()


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no .*gone\.jsonl\. Name a JSONL file"):
        imported(tmp_path, "gone.jsonl")
