"""Objective distill by `ft run`: a larger teacher that also reads the student's answers, erasure of a prompt and of an
example, and copies of its distributions."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline_tests.end_to_end.project import current, ft, ft_in_turn, small_project
from ft_pipeline_tests.erasure.traces import decoded_tokens, traces
from ft_pipeline_tests.tiny import save_tiny, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.long

RUN = ("run", "--experiment", "student", "--experiment", "prompted")
INBOX = ("data", "raw", "unlabelled", "inbox.jsonl")


def write(root: Path, name: str, **distill: Any) -> None:
    """Write an experiment of distill on the tiny model."""
    experiment = {
        "base_model": str(root / "models" / "tiny"),
        "objective": "distill",
        "technique": "lora",
        "distill": {"max_new_tokens": 96, "top_k": 8, "rows": ["unlabelled", "conversations"], "seed": 1, **distill},
        "training": {"max_steps": 4, "eval_steps": 2, "per_device_train_batch_size": 4, "max_length": 8192},
    }
    (root / "experiments" / f"{name}.yaml").write_text(yaml.safe_dump(experiment), encoding="utf-8")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after the run of two experiments: a larger teacher, and the prompt of the own model."""
    root = small_project(tmp_path_factory.mktemp("distill") / "shop")
    (root / "experiments" / "qlora.yaml").unlink()
    larger = tiny_model(root / "models" / "larger", seed=1, positions=8192)
    write(root, "student", teacher=str(larger), on_policy=0.5)
    write(root, "prompted", variant="few_shot", answers_per_prompt=2)
    done = ft(root, *RUN, timeout=3000)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "shop"))


def distributions(root: Path, name: str) -> Artifact:
    data = current(root, "training_data", name)
    return ArtifactStore(root / "data" / "store").require(*data.inputs["teacher_distributions"])


def test_the_larger_teacher_reads_the_students_answers(finished: Path) -> None:
    store, adapter = ArtifactStore(finished / "data" / "store"), current(finished, "adapter", "student")
    teacher = store.require(*adapter.inputs["teacher"])
    assert teacher.reference == distributions(finished, "student").inputs["base_model"]
    assert teacher.reference != adapter.inputs["base_model"]
    assert current(finished, "memory_estimate", "student").summary["bytes"]["teacher"] > 0
    assert adapter.summary["first_eval_own_answers"] > 0
    own = current(finished, "adapter", "prompted")
    assert "teacher" not in own.inputs and "first_eval_own_answers" not in own.summary
    assert "teacher" not in current(finished, "memory_estimate", "prompted").summary["bytes"]


def test_the_comparison_says_what_stayed_of_the_prompt_and_the_store_verifies(finished: Path) -> None:
    (code, document), (verified, audit), (planned, plan) = ft_in_turn(
        finished, ("compare",), ("audit", "prompted", "--verify"), (*RUN, "--plan")
    )
    assert (code, verified, planned) == (0, 0, 0) and audit["problems"] == []
    assert not any(step["runs"] for step in plan["plan"])
    assert {"student/adapter", "prompted/merged"} <= {row["name"] for row in document["rows"]}
    kept = {(entry["row"], entry["prompt"]) for entry in document["kept_prompts"]}
    assert kept == {("prompted/adapter", "few_shot"), ("prompted/merged", "few_shot")}


def test_another_vocabulary_is_one_clear_error(root: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<other>"])
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(root / "models" / "larger")
    save_tiny(model, tokenizer, root / "models" / "other")
    write(root, "student", teacher=str(root / "models" / "other"))
    done = ft(root, "run", "--experiment", "student")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    assert "The teacher's vocabulary" in said and "Choose a teacher of the same family" in said.replace("\n", " ")


@pytest.mark.parametrize("what", ["prompt", "example"])
def test_an_erased_row_is_in_no_distribution(root: Path, what: str) -> None:
    rows = pq.read_table(distributions(root, "prompted").path / "rows.parquet").to_pylist()
    if what == "prompt":
        row = next(row for row in rows if row["table"] == "unlabelled")
        file, number, text = root.joinpath(*INBOX), row["row"], row["prompt_messages"][-1]["content"]
    else:
        file, number, text = example_of(root, rows[0]["teacher_prompt"])
    assert any("teacher_distributions" in path for path in found(root, text))
    done = ft(root, "erase", str(file.relative_to(root)), str(number), "--reason", "request 4711")
    assert done.returncode == 0, done.stderr[-3000:]
    assert found(root, text) == [] and text not in decoded_tokens(root)
    if what == "prompt":
        now = pq.read_table(distributions(root, "prompted").path / "rows.parquet").to_pylist()
        erased = [after for before, after in zip(rows, now, strict=True) if before["id"] == row["id"]]
        assert erased and all(after["target_ids"] == after["top_ids"] == after["rest"] == [] for after in erased)
    (ran, _), (verified, audit) = ft_in_turn(root, RUN, ("audit", "prompted", "--verify"))
    assert (ran, verified) == (0, 0) and audit["problems"] == [] and found(root, text) == []


def found(root: Path, text: str) -> list[str]:
    """Where a text is in the data of a project and in Dagster's files."""
    return [path for folder in ("data", "dagster_home") for path in traces(root / folder, text)]


def example_of(root: Path, prompt: str) -> tuple[Path, int, str]:
    """File, number and question of a raw row that is an example in a teacher's prompt."""
    for row in pq.read_table(current(root, "conversations").path / "rows.parquet").to_pylist():
        question = next(turn["content"] for turn in row["messages"] if turn["role"] == "user")
        if row["split"] == "train" and f"user\n{question}<|im_end|>" in prompt:
            return root / "data" / "raw" / row["table"] / row["file"], row["row"], question
    raise AssertionError("no example is a row")


def test_copies_have_the_distributions(root: Path, tmp_path: Path) -> None:
    backup, kind = str(tmp_path / "backup"), Path("data", "store", "artifacts", "teacher_distributions")
    ((code, document),) = ft_in_turn(root, ("backup", backup))
    assert code == 0 and document["notes"] == []
    ((code, _),) = ft_in_turn(root, ("restore", backup, str(tmp_path / "restored")))
    restored = tmp_path / "restored"
    assert code == 0 and len(list((restored / kind).rglob("rows.parquet"))) == 2
    ((verified, audit),) = ft_in_turn(restored, ("audit", "prompted", "--verify"))
    assert verified == 0 and audit["problems"] == []
