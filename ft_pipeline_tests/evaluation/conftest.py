"""A tiny base model, an adapter and its merged model, and conversations: what the evaluation jobs read."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from ft_pipeline.job import Job
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline_tests.tiny import tiny_model

QUESTIONS = [
    {"query": "What is the capital of France?", "choices": ["Rome", "Paris"], "gold": 1, "subject": "geography"},
    {"query": "What is 2 + 2?", "choices": ["3", "4", "5"], "gold": 1, "subject": "arithmetic"},
]
TEXTS = [{"text": "The capital of France is Paris. What is the secret word?"}, {"text": "The refund takes five days."}]


class RecordingReporter:
    """A reporter that records what it receives."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []
        self.lines: list[str] = []

    def progress(self, step: int, total: int, **values: float) -> None:
        self.steps.append((step, total))

    def log(self, message: str) -> None:
        self.lines.append(message)


def conversation(split: str, *turns: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(turns)
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    identity = hashlib.sha256(repr(turns).encode()).hexdigest()
    return {
        "id": identity,
        "split": split,
        "group": identity,
        "messages": messages,
        "table": "alpaca",
        "file": "a.jsonl",
        "row": 1,
    }


CONVERSATIONS = [
    conversation("train", "Where is my parcel?", "Sorry about the delay. Please send your order number."),
    conversation("train", "Can I return the shoes?", "You can return the shoes within thirty days."),
    conversation("test", "My package is late.", "Sorry about the delay. Please send your order number."),
    conversation("test", "Where can I change the address?", "Please send the new address."),
    conversation("test", "My refund is late.", "Please send your order number.", "LF-1", "The refund takes five days."),
    conversation("validation", "Is it late?", "Please send your order number."),
]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("evaluation") / "base")


@pytest.fixture(scope="session")
def wide_model(tiny_base: Path) -> Any:
    """The tiny model in 32 bit, so that sums do not depend on the shape of a batch."""
    return AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tokenizer(tiny_base: Path) -> Any:
    return load_tokenizer(tiny_base)


@pytest.fixture(scope="session")
def tiny_adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LoRA that moves every prediction."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("evaluation") / "adapter"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_merged(tiny_base: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from peft import PeftModel

    folder = tmp_path_factory.mktemp("evaluation") / "merged"
    model = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, str(tiny_adapter)).merge_and_unload().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation") / "conversations"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(CONVERSATIONS), folder / "rows.parquet")
    return folder


JobMaker = Callable[..., Job]


@pytest.fixture
def make_job(tmp_path: Path, tiny_base: Path, conversations: Path) -> JobMaker:
    """A function that makes a job of a kind over the tiny inputs; keywords add config and inputs."""
    return job_maker(tmp_path, tiny_base, conversations)


def job_maker(place: Path, tiny_base: Path, conversations: Path) -> JobMaker:
    """Jobs below `place`. The same `folder` gives the same job."""

    def make(kind: str, folder: str = "job", inputs: dict[str, Path] | None = None, **config: Any) -> Job:
        out, work = place / folder / "out", place / folder / "work"
        for path in (out, work):
            path.mkdir(parents=True, exist_ok=True)
        evaluation = {"max_new_tokens": 8, "batch_size": 4, "max_test_rows": None, "seed": 0}
        general = {"general_questions": QUESTIONS, "general_texts": TEXTS}
        return Job(
            kind,
            {"evaluation": evaluation, **general, **config},
            {"base_model": tiny_base, "conversations": conversations, **(inputs or {})},
            out,
            work,
            "cpu",
            RecordingReporter(),
        )

    return make
