"""The embedded model as a teacher, both ways: in a worker, and through `transformers serve`."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from ft_pipeline.distillation import teacher
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline_tests.distillation.material import Recorder, teacher_job, write_conversations, write_unlabelled
from ft_pipeline_tests.end_to_end.project import Finished, copy_of, current, run
from ft_pipeline_tests.end_to_end.serving import free_port, running

pytestmark = [pytest.mark.slow, pytest.mark.long]

PROMPT = "You are a support agent of an online shop. Answer in one short sentence."


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a plain folder."""
    root = tmp_path_factory.mktemp("embedded")
    (root / "smollm2").mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, root / "smollm2", root, "cpu", Recorder()))
    return root / "smollm2"


@pytest.fixture(scope="module")
def server(embedded: Path) -> Iterator[str]:
    """`transformers serve` over the embedded model; its URL."""
    port = free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", str(embedded), "--port", str(port)]
    with running([*command, "--host", "127.0.0.1"], port, embedded.parent):
        yield f"http://127.0.0.1:{port}/v1"


def test_the_embedded_model_answers_in_a_worker(embedded: Path, tmp_path: Path) -> None:
    """Answers are whole words, and at least one ends before the token limit."""
    inputs = {
        "unlabelled": write_unlabelled(tmp_path / "unlabelled", ["Where is my parcel?", "Do you sell garden swings?"]),
        "conversations": write_conversations(tmp_path / "conversations"),
        "base_model": embedded,
    }
    job = teacher_job(tmp_path, inputs, system_prompt=PROMPT, few_shot=2, max_new_tokens=64)
    teacher.run(job)
    rows = pq.read_table(job.out / "answers.parquet").to_pylist()
    assert all(len(row["answer"].split()) >= 3 and "<|" not in row["answer"] for row in rows)
    assert "stop" in {row["finish_reason"] for row in rows}


def test_the_embedded_model_answers_through_transformers_serve(
    embedded: Path, server: str, finished: Finished, tmp_path: Path
) -> None:
    """`ft run` builds the teacher's answers and the distilled rows."""
    root = copy_of(finished, tmp_path)
    settings = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8"))
    endpoint = {"url": server, "concurrency": 2, "max_failed": 0.9}
    settings["teacher"].update(
        model=str(embedded), system_prompt=PROMPT, few_shot=2, max_new_tokens=64, endpoint=endpoint
    )
    (root / "project.yaml").write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    done = run(root, "teacher_answers", "distilled")
    assert done.returncode == 0, done.stdout + done.stderr
    answers = current(root, "teacher_answers")
    rows = pq.read_table(answers.path / "answers.parquet").to_pylist()
    assert len(rows) == 8
    assert all(row["request_id"] and row["prompt_tokens"] > 40 and row["answer_tokens"] > 0 for row in rows)
    stopped = [row for row in rows if row["finish_reason"] == "stop"]
    assert stopped and all(len(row["answer"].split()) >= 3 and "<|" not in row["answer"] for row in stopped)
    assert answers.summary["spent"]["paid_requests"] == 8
    summary = current(root, "distilled").summary
    assert summary["answers"] == 8 == summary["kept"] + summary["set_aside"]
