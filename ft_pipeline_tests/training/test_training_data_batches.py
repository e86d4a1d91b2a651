"""The training data is the same however it is divided into batches, and the same as when all rows were in memory."""

import gc
import shutil
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.store.row_hash import sha256_of_rows
from ft_pipeline.training import training_data
from ft_pipeline.training.objectives import rows as batches
from ft_pipeline.training.tokens.token_audit import Row
from ft_pipeline_tests.training.subject import (
    PAIRS,
    SHARES,
    Listener,
    conversation,
    job,
    known_rows,
    preference_rows,
    support_rows,
    text_rows,
    write_conversations,
)

GOLDEN = {
    "sft": ("65f6882de0496d18", "860871a834fb3065", "ea32209de5cbe7b3"),
    "sft with faults": ("ba84cf6bafcda6a6", "0cf51fef383d1cae", "ea32209de5cbe7b3"),
    "sft by turn": ("fb07c202e9a31963", "cd0ff6698bd4525f", "c0cc47ee92dde91d"),
    "mixed": ("80757359eaa4e666", "3a47b218483f8e04", "c0cc47ee92dde91d"),
    "cpt": ("a3c6fde33ee222b6", "8336d6d43422148d", "5928fc2eace8ca35"),
    "dpo": ("63f560851e474906", "d3b5f49c8affb1eb", "3bb1534a95cd4072"),
    "dpo with faults": ("e4cfb3f045fabda3", "d3b5f49c8affb1eb", "3bb1534a95cd4072"),
}
"""Per case: the first 16 digits of the hashes of audit.json, and of the rows of train.parquet and validation.parquet.
They were computed by the code that kept all rows in memory; those of texts and pairs again when the words of a prompt
alone decided its split."""


def distilled_rows():
    return [conversation(800 + n, [(f"why {n}?", "It takes five working days.")], "train") for n in range(8)]


def faulty_rows():
    """Rows that are too long, or whose reasoning the template leaves out, among the others."""
    reasoned = conversation(500, [("Where is it?", "Late."), ("And now?", "It is here.")], "train")
    reasoned["messages"][3]["reasoning_content"] = "It should have come"
    long = [conversation(510 + n, [("Where is it?", "It is heliotrope. " * (40 + n))], "train") for n in range(7)]
    return [*long[:3], *support_rows(), reasoned, *long[3:]]


def case(name: str):
    """Return (settings, conversations, other tables by input name) of a case."""
    training = {"max_length": 128, "num_train_epochs": 1}
    weights = {}
    if name == "mixed":
        weights = {"data": {"weights": {"human": 1.5, "distilled": 0.5, "replay": 0.7}, "share": 0.9}}
    if name == "cpt":
        training["max_length"] = 31
    if name == "dpo with faults":
        training["max_length"] = 40
    objective = "sft" if name == "mixed" else name.partition(" ")[0]
    settings = ExperimentSettings.model_validate(
        {"objective": objective, "technique": "lora", "training": training, **weights}
    )
    tables = {
        "mixed": {"distilled": distilled_rows(), "text": text_rows(6)},
        "cpt": {"text": text_rows()},
        "dpo": {"preferences": preference_rows()},
        "dpo with faults": {"preferences": preference_rows()},
    }
    rows = faulty_rows() if name == "sft with faults" else support_rows() if name == "sft" else known_rows()
    if name == "sft by turn":
        rows += [conversation(600 + n, [PAIRS[n], PAIRS[n - 1]], "train") for n in range(5)]
    return settings, rows, tables.get(name, {})


def base_without_earlier_answers(base, folder):
    """A base model whose chat template leaves out earlier answers, so that each turn is a separate text."""
    shutil.copytree(base, folder)
    template = (folder / "chat_template.jinja").read_text()
    content = "message['content'] if loop.last or message['role'] == 'user' else ''"
    (folder / "chat_template.jinja").write_text(template.replace("message['content']", f"({content})"))
    return folder


def write_case(folder, base, name):
    """Write the inputs of a case. Return (settings, folders by input name)."""
    settings, rows, tables = case(name)
    inputs = {"conversations": write_conversations(folder / "conversations", rows), "base_model": base}
    for table, content in tables.items():
        (folder / table).mkdir()
        pq.write_table(pa.Table.from_pylist(content), folder / table / "rows.parquet")
        inputs[table] = folder / table
    return settings, inputs


def make(folder, base, name, report=None):
    if name == "sft by turn":
        base = base_without_earlier_answers(base, folder / "base")
    work = job("training_data", folder / "job", *write_case(folder, base, name), report)
    work.config["data"] = SHARES
    training_data.run(work)
    hashes = [sha256((work.out / "audit.json").read_bytes()).hexdigest()]
    hashes += [sha256_of_rows(work.out / f"{split}.parquet") for split in ("train", "validation")]
    return tuple(digest[:16] for digest in hashes)


@pytest.mark.parametrize("batch_rows", [1, 5, 1024])
@pytest.mark.parametrize("name", GOLDEN)
def test_batches_do_not_change_the_training_data(tmp_path, tiny_base, monkeypatch, name, batch_rows):
    monkeypatch.setattr(batches, "BATCH_ROWS", batch_rows, raising=False)
    assert make(tmp_path, tiny_base, name) == GOLDEN[name]


class LiveRows(Listener):
    """Counts the rows that are in memory at each progress: those of the training, and those of the tables."""

    def __init__(self):
        super().__init__()
        self.most = self.most_of_tables = 0
        gc.collect()
        self._before = self._count()  # of other tests

    @staticmethod
    def _count():
        objects = gc.get_objects()
        of_tables = sum(type(item) is dict and "file" in item and "row" in item for item in objects)
        return sum(type(item) is Row for item in objects), of_tables

    def progress(self, step, total, **values):
        rows, of_tables = (now - before for now, before in zip(self._count(), self._before, strict=True))
        self.most, self.most_of_tables = max(self.most, rows), max(self.most_of_tables, of_tables)


@pytest.mark.parametrize(
    "name", ["sft", *(pytest.param(name, marks=pytest.mark.long) for name in ("mixed", "cpt")), "dpo"]
)
def test_only_one_batch_of_rows_is_in_memory(tmp_path, tiny_base, monkeypatch, name):
    monkeypatch.setattr(batches, "BATCH_ROWS", 5, raising=False)
    report = LiveRows()
    make(tmp_path, tiny_base, name, report)
    assert 0 < report.most <= 11, "a batch, of pairs two; of blocks, also the first"
    assert report.most_of_tables <= 11
