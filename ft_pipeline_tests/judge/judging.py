"""A small comparison whose answers a judge on loopback compares."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.job import Job
from ft_pipeline.judge import judged_pairs
from ft_pipeline.judge.prompt import PROMPT_VERSION
from ft_pipeline_tests.distillation.fault_server import MODEL, FaultServer
from ft_pipeline_tests.evaluation.conftest import RecordingReporter
from ft_pipeline_tests.evaluation.scored import ITEMS, NOISE, scored

TASK = "Answer the customers of a shop."
PAIR = ("lora/merged", "base")
_FENCED = re.compile(r"Answer ([12]):\n<<< (\w+)\n(.*?)\n>>> \2$", re.DOTALL | re.MULTILINE)


def answers_in(prompt: str) -> tuple[str, str]:
    """The two answers that a judge is shown."""
    found = {order: text for order, _, text in _FENCED.findall(prompt)}
    return found["1"], found["2"]


def verdict(better: str, reason: str = "It says the next step.") -> str:
    return json.dumps({"reason": reason, "better": better})


def prefers(is_better: Callable[[str, str], bool]) -> Callable[[str], str]:
    """A judge that prefers the first answer if is_better(first, second), and the second one if the reverse holds."""

    def reply(prompt: str) -> str:
        first, second = answers_in(prompt)
        if is_better(first, second):
            return verdict("1")
        return verdict("2" if is_better(second, first) else "same")

    return reply


def likes_good(first: str, second: str) -> bool:
    return "good" in first and "good" not in second


def compared(root: Path, ours: list[str], theirs: list[str]) -> dict[str, Path]:
    """The folders of the scores of a tuned model with these answers and of its base, and of their conversations."""
    tuned = {"kind": "merged", "technique": "lora", "answers": ours}
    base = {"kind": "base", "answers": theirs}
    nats = {"lora": [0.5 + noise / 10 for noise in NOISE], "base": [0.9 + noise / 10 for noise in NOISE]}
    folder = root / "conversations"
    folder.mkdir(parents=True)
    rows = [_conversation(f"{number:03}", number) for number in range(ITEMS)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return {
        "lora/prompt_baseline": scored(
            root / "base", {"plain": {**base, "losses": [3.0] * ITEMS, "nats": nats["base"]}}
        ),
        "lora/scores": scored(root / "lora", {"merged": {**tuned, "losses": [2.0] * ITEMS, "nats": nats["lora"]}}),
        "conversations": folder,
    }


def judge_job(
    root: Path, inputs: dict[str, Path], server: FaultServer, endpoint: Mapping[str, Any] | None = None, **more: Any
) -> Job:
    """A job of the kind `judgements`, with a fresh output folder and the log of earlier jobs of the same root."""
    settings = {"url": server.url, "prices": {"input_per_million": 1000.0}}
    handling = {"attempts": 2, "patience_seconds": 0.0, "concurrency": 4, **(endpoint or {})}
    out = root / f"out{len(list(root.glob('out*')))}"
    out.mkdir(parents=True)
    judge = {
        "model": MODEL,
        "endpoint": settings,
        **{key: more[key] for key in ("rows", "budget", "rubric") if key in more},
    }
    config = {
        "comparison": {"primary_metric": "auto"},
        "judge": judge,
        "task": TASK,
        "prompt_version": PROMPT_VERSION,
        "excluded": [],
        "max_test_rows": None,
        **({"not_asked": more["not_asked"]} if "not_asked" in more else {}),
    }
    return Job("judgements", config, inputs, out, root, "cpu", RecordingReporter(), {"endpoint": handling})


def judged(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the job. Returns its summary and its table."""
    summary = judged_pairs.run(job)
    return summary, pq.read_table(job.out / "judgements.parquet").to_pylist()


def _conversation(identity: str, number: int) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": f"Where is my order LF-{number}?"},
        {"role": "assistant", "content": f"Please send a photo of the receipt of LF-{number}."},
    ]
    place = {"table": "alpaca", "file": "a.jsonl", "row": number}
    return {"id": identity, "split": "test", "group": identity, "messages": messages, **place}
