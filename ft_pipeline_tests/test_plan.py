"""`ft plan` in a project of its own: before and after a training, of each objective, and what it refuses."""

import json
import re
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.training import time_estimate
from ft_pipeline_tests.projects import project_of
from ft_pipeline_tests.training.test_work import AUDIT, CONFIG

SFT = "technique: lora\ntraining: {per_device_train_batch_size: 8, num_train_epochs: 2}\n"
EXPERIMENTS = {
    "lora": SFT,
    "dpo": SFT + "objective: dpo\nstart_from: lora\n",
    "grpo": SFT + "objective: grpo\ngrpo: {rewards: {chrf: 1}}\n",
    "distill": SFT + "objective: distill\ndistill: {variant: brief, answers_per_prompt: 2}\n",
    "full": SFT.replace("lora", "full"),
    "two": SFT + "gpu: {count: 2}\n",
}


class Store:
    """A store with what `ft plan` reads, in artifacts of a few bytes."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root / "data" / "store")

    def put(self, kind: str, experiment: str | None, summary: Any, **rest: Any) -> Artifact:
        """Commit an artifact. rest: inputs, config, files, run."""
        inputs = {name: artifact.reference for name, artifact in rest.get("inputs", {}).items()}
        draft = self.store.begin(Spec(kind, inputs, rest.get("config", {})))
        for name, content in {"file": b"%d" % len(self.store.all()), **rest.get("files", {})}.items():
            (draft.out / name).write_bytes(content)
        artifact = self.store.commit(draft, summary, {"run_id": "1", **rest.get("run", {})})
        AssetPointers(self.store.root).write(kind, experiment, artifact)
        return artifact

    def prepare(self, name: str, *, tokens: bool = True) -> dict[str, Artifact]:
        """Materialize what comes before the training of an experiment."""
        splits = {"train": 100, "validation": 20, "test": 30}
        self.put("conversations", None, {"splits": splits, "checks": {}})
        base = self.put("base_model", name, {"params": 150_000}, files={"config.json": json.dumps(CONFIG).encode()})
        if not tokens:
            return {"base_model": base}
        audit = {**AUDIT, "lengths": {"max": 300}, "checks": {}}
        return {"base_model": base, "training_data": self.put("training_data", name, {"audit": audit})}

    def train(self, name: str, inputs: dict[str, Artifact], seconds: float, **summary: Any) -> Artifact:
        """Add a training of 26 steps on this machine."""
        experiment = {"technique": "lora", "training": {"per_device_train_batch_size": 8, "num_train_epochs": 2}}
        facts = {"seconds": seconds, "steps": 26, "computed_in": "bfloat16", "peak_memory_gb": 1.0}
        facts |= {"stopped_early": False, "resumed_from_step": 0, **summary}
        run = {"seconds": seconds, "device": "cpu", "gpus": []}
        return self.put("adapter", name, facts, inputs=inputs, config={"experiment": experiment}, run=run)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    project_of(tmp_path, **EXPERIMENTS)
    text = "name: shop\nprompting: {variants: {brief: {system_prompt: Be brief.}}}\ncosts: {gpu_hour: 2.0}\n"
    (tmp_path / "project.yaml").write_text(text, encoding="utf-8")
    return tmp_path


def planned(root: Path, name: str) -> Any:
    done = CliRunner().invoke(app, ["plan", name, "--project", str(root), "--json"])
    assert done.exit_code == 0, done.exception
    return json.loads(done.stdout)


def parts(document: Any) -> dict[str, Any]:
    return {part["step"]: part for part in document["parts"]}


def test_without_earlier_steps_everything_is_assumed(shop: Path) -> None:
    Store(shop).prepare("lora")
    document = planned(shop, "lora")
    assert (document["tokens"], document["steps"], document["afterwards"]) == (20_000, 26, None)
    assert list(parts(document)) == ["training", "merge", "prompt baseline", "scoring"]
    assert {part["basis"] for part in document["parts"]} == {"assumed"}
    here, *others = document["devices"]
    assert here["here"] and here["cost"] == [2.0 * value / 3600 for value in here["seconds"]]
    assert here["seconds"][1] == pytest.approx(sum(part["seconds"][1] for part in document["parts"]))
    assert [row["device"] for row in others] == [gpu.name for gpu in time_estimate.COMMON_GPUS]
    assert all(row["fits"] and row["cost"][0] < row["cost"][1] for row in others)


def test_an_earlier_training_is_measured_and_told_how_far_off_it_was(shop: Path) -> None:
    store = Store(shop)
    inputs = store.prepare("lora")
    store.train("lora", inputs, 50.0)
    assert planned(shop, "lora")["afterwards"]["estimate"] is None, "there was no earlier one"
    store.train("lora", inputs, 100.0, memory_before_gb=0.4)
    document = planned(shop, "lora")
    assert parts(document)["training"]["basis"] == "measured: 2 alike"
    assert parts(document)["training"]["seconds"] == pytest.approx([50.0, 100.0])
    after = document["afterwards"]
    assert after["estimate"] == pytest.approx([40.0, 62.5]) and after["off_by"] == pytest.approx(2.0)
    assert after["memory_off_by"] == pytest.approx(0.6 / after["memory_gb"])
    assert parts(document)["scoring"]["basis"] == "measured: 2 other trainings; decoding assumed"
    assert planned(shop, "lora")["devices"][0]["basis"] == "measured and assumed"


def test_an_interrupted_training_tells_its_memory_only(shop: Path) -> None:
    store = Store(shop)
    inputs = store.prepare("lora")
    store.train("lora", inputs, 50.0)
    store.train("lora", inputs, 5.0, resumed_from_step=20)
    after = planned(shop, "lora")["afterwards"]
    assert after["interrupted"] and after["estimate"] is None and after["peak_memory_gb"] == 1.0
    shown = CliRunner().invoke(app, ["plan", "lora", "--project", str(shop)]).stdout
    assert "was interrupted, so its time is not compared" in shown and "Memory: 1.00 GB at its peak" in shown


def test_rewards_take_time_for_their_answers(shop: Path) -> None:
    store = Store(shop)
    store.train("lora", store.prepare("lora"), 50.0)
    store.prepare("grpo")
    training = parts(planned(shop, "grpo"))["training"]
    assert training["basis"] == "measured: 1 other training; decoding assumed"
    assert training["seconds"][0] > parts(planned(shop, "lora"))["training"]["seconds"][0]


def test_a_phase_before_it_counts_until_the_store_has_it(shop: Path) -> None:
    Store(shop).prepare("dpo")
    document = planned(shop, "dpo")
    assert list(parts(document))[:3] == ["training of lora", "merge of lora", "training"]
    assert parts(document)["training of lora"] == {
        "step": "training of lora",
        "counts": True,
        "seconds": None,
        "basis": "unknown",
    }


def test_a_teacher_is_planned_before_it_has_answered(shop: Path) -> None:
    store = Store(shop)
    store.prepare("distill", tokens=False)
    rows = pa.table({"messages": [[{"role": "user", "content": "Where is it? " * 8}]] * 40})
    sink = shop / "rows.parquet"
    pq.write_table(rows, sink)
    store.put("unlabelled", None, {"accepted": 40, "checks": {}}, files={"rows.parquet": sink.read_bytes()})
    document = planned(shop, "distill")
    assert document["tokens_assumed"]
    assert list(parts(document)) == ["teacher", "training", "merge", "prompt baseline", "scoring"]
    # 80 answers, of which 8 are held out, after prompts of 104 letters, in three epochs' worth of two
    assert document["tokens"] == 2 * 72 * (26 + 96)
    shown = CliRunner().invoke(app, ["plan", "distill", "--project", str(shop)]).stdout
    assert "The teacher has not answered yet" in shown


def test_all_weights_have_nothing_to_merge(shop: Path) -> None:
    Store(shop).prepare("full")
    assert "merge" not in parts(planned(shop, "full"))


def test_the_times_of_several_gpus_are_called_those_of_one(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ft_pipeline.cli import plan

    Store(shop).prepare("two")
    gpu = SimpleNamespace(name="NVIDIA L4")
    monkeypatch.setattr(plan, "visible_gpus", lambda: [gpu] * 4)
    document = planned(shop, "two")
    here, *others = document["devices"]
    assert (document["gpus"], here["device"], here["basis"]) == (2, "2 x NVIDIA L4", "assumed for one GPU")
    bases = {part["step"]: part["basis"] for part in document["parts"]}
    assert bases.pop("training") == "assumed for one GPU"
    assert set(bases.values()) == {"assumed"}, "these steps lease one GPU"
    assert [row["device"] for row in others] == [f"1 x {gpu.name}" for gpu in time_estimate.COMMON_GPUS]


def test_what_is_not_there_is_one_clear_error(shop: Path) -> None:
    for name, message in (
        ("lora", "Prepare it first, without training: ft plan lora --prepare"),
        ("distill", "ft plan distill --prepare"),
        ("nope", "there is no experiment 'nope'"),
    ):
        refused = CliRunner().invoke(app, ["plan", name, "--project", str(shop)])
        assert isinstance(refused.exception, UserError) and message in str(refused.exception)


def test_the_plan_fits_a_terminal_and_says_how_old_its_prices_are(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ft_pipeline.cli import command, display_text, plan

    store = Store(shop)
    inputs = store.prepare("lora")
    for seconds in (4000.0, 90_000.0):
        store.train("lora", inputs, seconds)
    monkeypatch.setattr(command, "stdout", command.stdout.__class__(width=80, highlight=False))
    monkeypatch.setattr(display_text, "is_terminal", lambda console: True)
    shown = CliRunner().invoke(app, ["plan", "lora", "--project", str(shop)]).stdout
    assert max(len(line.rstrip()) for line in shown.splitlines() if not line.startswith("The last")) <= 80
    assert f"assumed in {time_estimate.PRICED:%B %Y}. Look yours up" in " ".join(shown.split())
    monkeypatch.setattr(plan, "PRICED", date(2020, 1, 1))
    shown = CliRunner().invoke(app, ["plan", "lora", "--project", str(shop)]).stdout
    assert re.search(r"assumed in January 2020, \d+ months ago\. Look yours up", " ".join(shown.split()))
