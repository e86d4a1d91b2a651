"""What every objective promises. Its own tests are only about its rows and its formula."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.distillation.distill import DISTILLED_TABLE
from ft_pipeline.errors import UserError
from ft_pipeline.job import Job, Reporter
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.objectives import objective_rules
from ft_pipeline.step import STEPS
from ft_pipeline.tables.finished_tables import CONVERSATIONS as TABLE_OF_CONVERSATIONS
from ft_pipeline.tables.finished_tables import table_of_format
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.training import adapter, training_data
from ft_pipeline.training.objectives.registry import OBJECTIVES, ObjectiveSpec
from ft_pipeline.training.token_rows import failures, read_split
from ft_pipeline.training.token_table import COLUMNS as TOKEN_COLUMNS
from ft_pipeline_tests.contracts.objectives import CONVERSATIONS, MATERIAL, TRAINING, Material
from ft_pipeline_tests.training.subject import SHARES, conversation, job, known_rows, write_conversations

Trained = tuple[Job, dict[str, Any]]


@dataclass(frozen=True)
class Subject:
    """An objective with its material, on the tiny model."""

    material: Material
    base: Path

    @property
    def spec(self) -> ObjectiveSpec:
        """What the registry says."""
        return OBJECTIVES[self.settings().objective]

    def settings(self) -> ExperimentSettings:
        """The settings of its experiment."""
        training = {**TRAINING, "learning_rate": 5e-3, **self.material.training}
        given = {"objective": self.material.objective, "technique": "lora", "training": training}
        return ExperimentSettings.model_validate({**given, **self.material.settings})

    def rows(self, folder: Path, conversations: list[dict[str, Any]] | None = None, **changed: Any) -> Job:
        """Make the training data, and return the job that made it."""
        known = conversations or (CONVERSATIONS if self.material.trains_on_conversations else known_rows())
        inputs = {"conversations": write_conversations(folder / "conversations", known), "base_model": self.base}
        inputs |= self.material.write(folder, self.base, **changed)
        work = job("training_data", folder / "training_data", self.settings(), inputs)
        work.config["data"] = SHARES
        training_data.run(work)
        return work

    def train(self, folder: Path, data: Path, report: Reporter | None = None) -> Trained:
        """Train an adapter, and return its job and its summary."""
        work = job("adapter", folder, self.settings(), {"training_data": data, "base_model": self.base}, report)
        self.material.prepare(work)
        return work, adapter.run(work)


def usual(*names: str) -> list[Any]:
    """All objectives; those that are not named are long."""
    return [name if name in names else pytest.param(name, marks=pytest.mark.long) for name in MATERIAL]


OF_OTHER_ROWS = [name for name in MATERIAL if name != "distill on own answers"]
"""It has the rows of `distill`."""


@pytest.fixture(scope="module", params=MATERIAL)
def subject(request: pytest.FixtureRequest, tiny_base: Path) -> Subject:
    return Subject(MATERIAL[request.param], tiny_base)


@pytest.fixture(scope="module")
def data(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return subject.rows(tmp_path_factory.mktemp("data")).out


@pytest.fixture(scope="module")
def trained(subject: Subject, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return subject.train(tmp_path_factory.mktemp("trained"), data)


def table_columns(table: str) -> set[str]:
    """The columns of a table."""
    if table == "distilled":
        return {*DISTILLED_TABLE.arrow_schema.names}
    return {*(TABLE_OF_CONVERSATIONS if table == "conversations" else table_of_format(FORMATS[table])).descriptions}


def test_every_objective_has_material() -> None:
    covered = {material.objective for material in MATERIAL.values()}
    assert covered == set(OBJECTIVES), "add its smallest rows to MATERIAL in contracts/objectives.py"


def test_its_settings_and_its_training_agree_whether_it_draws_answers(subject: Subject) -> None:
    settings = subject.settings()
    draws = objective_rules()[settings.objective].draws_answers
    assert draws == (subject.spec.groups(settings) is not None)


def test_its_rows_pass_the_audit_and_have_the_columns_of_its_lineage(subject: Subject, data: Path) -> None:
    audit = json.loads((data / "audit.json").read_text(encoding="utf-8"))
    assert failures(audit) == [] and all(audit["rows"].values()) and audit["left_out"] == []
    columns = {*pq.read_schema(data / "train.parquet").names}
    assert columns == {*subject.spec.lineage, "source"} <= {*TOKEN_COLUMNS}
    for column, sources in subject.spec.lineage.items():
        assert sources, column
        for table, name in sources:
            assert table in STEPS["training_data"].deps and name in table_columns(table), f"{column}: {table}.{name}"
    train, validation = (read_split(data, split) for split in ("train", "validation"))
    assert train and validation and not {row["id"] for row in train} & {row["id"] for row in validation}
    sequences = (len(train) + len(validation)) * subject.spec.sequences_per_row
    assert sequences == sum(audit["rows"].values())


@pytest.mark.parametrize("subject", usual(*OF_OTHER_ROWS), indirect=True)
def test_a_row_near_a_held_out_one_is_left_out_and_named(subject: Subject, tmp_path: Path) -> None:
    if (name := subject.material.filtered) is None:
        pytest.skip("its rows come from tables that are filtered before")
    near = subject.material.rows[name](subject.base)[3]
    text = text_of(near)
    held_out = conversation(700, [(text, "Something else.")], "test")
    work = subject.rows(tmp_path, [*known_rows(), held_out])
    left_out = json.loads((work.out / "audit.json").read_text(encoding="utf-8"))["left_out"]
    place = {"file": near["file"], "row": near["row"], "code": "train_test_overlap", "copy_of": "alpaca/rows.jsonl:701"}
    assert place in [{key: row[key] for key in place} for row in left_out]
    alike = {row["row"] for row in subject.material.rows[name](subject.base) if text_of(row)[:12] == text[:12]}
    assert {row["row"] for row in left_out} <= alike
    if name != "text":  # its texts are packed into blocks
        assert near["id"] not in {row["id"] for split in ("train", "validation") for row in read_split(work.out, split)}


def text_of(row: dict[str, Any]) -> str:
    """The question of a row, or its text."""
    text: str = row["prompt_messages"][0]["content"] if "prompt_messages" in row else row["text"]
    return text


@pytest.mark.parametrize("subject", usual(*OF_OTHER_ROWS), indirect=True)
def test_an_empty_table_is_refused_by_name(subject: Subject, tmp_path: Path) -> None:
    if (name := subject.material.filtered) is None:
        pytest.skip("it has no table of its own")
    empty = pa.Table.from_pylist(subject.material.rows[name](subject.base)).slice(0, 0)
    folder = subject.spec.table or "unlabelled"
    with pytest.raises(UserError, match=rf"^No .*: .*data/raw/{folder}"):
        subject.rows(tmp_path, **{name: empty})


def test_it_measures_its_targets_and_starts_where_it_says(subject: Subject, trained: Trained) -> None:
    work, summary = trained
    log = [json.loads(line) for line in (work.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = TRAINING["max_steps"]
    for target in subject.spec.targets:
        values = {entry["step"]: entry[target.measure] for entry in log if target.measure in entry}
        assert list(values) == [0, 2, 4], target.measure
        if target.at_start is not None:  # in bf16, the reference may depend on the shape of its batch
            assert values[0] == pytest.approx(target.at_start, abs=0.51 if target.unit == "share" else 0.02)
    assert summary["steps"] == steps and summary["best_step"] in (2, 4) and summary["resumed_from_step"] == 0
    held_out = json.loads((work.out / "held_out.json").read_text(encoding="utf-8"))
    assert held_out["items"] and subject.spec.targets[0].measure in held_out["measures"]
    assert len([entry for entry in log if "loss" in entry]) == steps
    assert [(step, total) for step, total, _ in work.report.steps] == [(step, steps) for step in range(1, steps + 1)]


def test_the_same_seed_gives_the_same_rows(subject: Subject, data: Path, tmp_path: Path) -> None:
    """The next test says the same of a training: its resumed one is the second."""
    work = subject.rows(tmp_path / "rows")
    for split in ("train", "validation"):
        assert (work.out / f"{split}.parquet").read_bytes() == (data / f"{split}.parquet").read_bytes()


class StopsAt:
    """A reporter that interrupts the training after a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def progress(self, step: int, total: int, **values: float) -> None:
        """Press Ctrl-C."""
        if step == self._step:
            os.kill(os.getpid(), signal.SIGINT)

    def log(self, message: str) -> None:
        """Be quiet."""


@pytest.mark.parametrize("subject", usual("sft", "dpo", "grpo", "distill on own answers"), indirect=True)
def test_a_training_that_is_stopped_resumes_to_the_same_bytes(
    subject: Subject, data: Path, trained: Trained, tmp_path: Path
) -> None:
    """The signal arrives in the step after the one that is reported.

    Long: cpt and distill, which train on rows of tokens as sft does, and kto, which has a reference as dpo has.
    """
    with pytest.raises(KeyboardInterrupt):
        subject.train(tmp_path, data, StopsAt(1))
    resumed, summary = subject.train(tmp_path, data)
    assert summary["resumed_from_step"] in (1, 2)
    assert result_of(resumed) == result_of(trained[0])


def result_of(work: Job) -> dict[str, Any]:
    """The bytes of what a training learned, and the losses and rewards that it logged."""
    lines = (work.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    log = [entry for entry in map(json.loads, lines) if "train_runtime" not in entry]
    timed = ("second", "memory", "time")
    measured = [{key: value for key, value in entry.items() if not any(word in key for word in timed)} for entry in log]
    names = ("adapter_model.safetensors", "adapter_config.json", "held_out.json")
    return {"log": measured, **{name: (work.out / name).read_bytes() for name in names}}
