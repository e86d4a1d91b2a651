"""A store as runs leave it, at its smallest: a tiny model, a real adapter, merged, scored by the real workers."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from ft_pipeline import scaffold
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.desk import Desk
from ft_pipeline.decide.documents import read_comparison, whole_comparison
from ft_pipeline.decide.recommend import build_recommendation
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.evaluation.scoring import prompt_baseline, tuned_scores
from ft_pipeline.evaluation.scoring.probe_files import probe_digests
from ft_pipeline.job import Job
from ft_pipeline.models.base_model import template_sha256
from ft_pipeline.release.champion import promote
from ft_pipeline.release.recorded_decision import decision_document
from ft_pipeline.release.report.report import render_report
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.step import STEPS
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.formats.row_ids import row_id
from ft_pipeline.training.techniques import copy_companions, save_adapter
from ft_pipeline_tests.tiny import tiny_model

RAW_FILE = "complaints of Mrs Fenwick.jsonl"
SYSTEM_PROMPT = 'Be "brief",\nand polite: it\'s 5 °C {{ here }}.'
VARIANTS = {
    "system_prompt": {"system_prompt": SYSTEM_PROMPT, "few_shot": 0},
    "few_shot": {"system_prompt": None, "few_shot": 2},
}
EVALUATION = {"max_new_tokens": 12, "batch_size": 1, "max_test_rows": None, "seed": 0}
COMPARE = {"primary_metric": "loss", "slices": {"late": {"matches": "is late"}}}
NOISE = {"first": "base", "second": "base_4bit", "kl": 0.31, "first_loss": 3.0, "second_loss": 3.2, "difference": 0.2}
ABOUT = {"lora": {"took": {"seconds": 90.0, "gpu_hours": 0.025}, "noise": [NOISE]}}
"""What training took and what 4 bit costs, by experiment."""
AUDIT = {"audit": {"checks": {"single_bos": {"passed": True}}, "rows": {"human/train": 2, "human/validation": 1}}}
TALKS = {
    "train": [
        ("Where is my parcel?", "Sorry about the delay. Please send your order number."),
        ("Can I return the shoes?", "You can return the shoes within thirty days."),
    ],
    "test": [
        ("My package is late.", "Please send your order number."),
        ("Where can I change the address?", "Please send the new address."),
        ("My refund is late.", "Please send your order number.", "LF-1", "The refund takes five days."),
        ("Is <script>alert('x')</script> & \u202eright?", "<img src=x onerror=alert(1)> {{ 7 * 7 }}"),
    ],
}


ITEMS = 5
"""Answers in the test split."""


class Quiet:
    """A reporter that ignores everything."""

    def progress(self, step: int, total: int, **values: float) -> None: ...

    def log(self, message: str) -> None: ...


class Trained:
    """The store, and what was put into it."""

    def __init__(
        self,
        root: Path,
        *,
        model: str | None = None,
        talks: Mapping[str, Any] = TALKS,
        probes: Mapping[str, list[dict[str, str]]] | None = None,
    ) -> None:
        """root: a new project folder. model: the hub id recorded as the source of the base model. talks: by split.
        probes: questions that should be answered, by the name of the probes."""
        self.probes = probes or {}
        self.root = scaffold.create(root, example=False)
        self.store = ArtifactStore(root / "data" / "store")
        self.work = root / "work"
        self.work.mkdir()
        self.base_folder = tiny_model(self.work / "base", positions=1024, initializer_range=0.2)
        counts = {"read": 9, "accepted": 5, "quarantined": 3, "duplicates": 1, "reasons": {"empty_output": 3}}
        tables = {name: self._table(name, counts) for name in ("alpaca", "sharegpt")}
        self.conversations = self.put(
            "conversations",
            tables,
            lambda out: _write_talks(out, talks),
            {"splits": {split: len(rows) for split, rows in talks.items()}},
        )
        about = {"source": "tiny", "template_sha256": template_sha256(self.base_folder)}
        config = {"model": model or str(self.base_folder), "revision": "abc" if model else None}
        config["content"] = None if model else "by its bytes"
        self.base = self.put("base_model", {}, lambda out: _copy(self.base_folder, out), about, config)
        self.inputs: dict[str, dict[str, Artifact]] = {}
        self.served: dict[str, dict[str, Any]] = {}

    @classmethod
    def opened(
        cls, root: Path, experiments: Sequence[str], probes: Mapping[str, list[dict[str, str]]] | None = None
    ) -> "Trained":
        """Open a project that this class made and scored elsewhere. probes: those that it was made with."""
        project = cls.__new__(cls)
        project.root, project.store, project.probes = root, ArtifactStore(root / "data" / "store"), probes or {}
        (project.base,), (project.conversations,) = project.store.all("base_model"), project.store.all("conversations")
        project.inputs, project.served = {}, {}
        for name in experiments:
            parts = {asset: project._current(asset, name) for asset in ("adapter", "merged_model")}
            project.inputs[name] = {"base_model": project.base, **parts}
            config = project._current("scores", name).spec["config"]
            project.served[name] = {key: config[key] for key in ("technique", "quantization", "system_prompt")}
        return project

    def _current(self, asset: str, experiment: str) -> Artifact:
        pointer = AssetPointers(self.store.root).read(asset, experiment)
        assert pointer is not None
        return self.store.require(pointer.kind, pointer.fingerprint)

    def _table(self, name: str, counts: dict[str, Any]) -> Artifact:
        """A table, and the snapshot of a raw file that it was read from."""
        listing = [{"name": RAW_FILE, "sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": 4711}]
        raw = self.put(f"raw_{name}", {}, lambda out: _note(out, name), {}, {"files": listing})
        return self.put(name, {f"raw_{name}": raw}, lambda out: None, counts)

    def _distilled(self, teacher: str) -> Artifact:
        """Rows with answers of a model on this machine."""
        asked = {"base_model": self.base, "conversations": self.conversations}
        answers = self.put("teacher_answers", asked, lambda out: (out / "teacher.json").write_text("{}") and None)
        config = {"teacher": {"model": teacher}}
        return self.put(
            "distilled",
            {"teacher_answers": answers},
            lambda out: _write_talks(out, talks=TALKS),
            {"kept": 7, "set_aside": 2},
            config,
        )

    def put(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        write: Any,
        summary: dict[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        *,
        versioned: bool = False,
    ) -> Artifact:
        """Commit an artifact of what `write` writes to its folder; a summary that it returns is added.

        versioned: whether a step wrote it; its code version is recorded.
        """
        spec = Spec(kind, {name: artifact.reference for name, artifact in inputs.items()}, dict(config or {}))
        spec = spec.with_code_version(STEPS[kind].code_version) if versioned else spec
        draft = self.store.begin(spec)
        if kind in {"alpaca", "sharegpt"}:
            (draft.out / "table.txt").write_text(kind, encoding="utf-8")
        return self.store.commit(draft, {**(summary or {}), **(write(draft.out) or {})})

    def train(
        self,
        name: str,
        technique: str,
        *,
        objective: str = "sft",
        system_prompt: str | None = None,
        passed: bool = True,
        start: str | None = None,
        teacher: str | None = None,
    ) -> None:
        """Add an experiment: a real adapter of random weights, and its merged model.

        passed: whether its merge check passed. start: the experiment whose adapter is recorded as the start.
        teacher: the model whose answers are recorded as training rows; it ran on this machine.
        """
        settings = ExperimentSettings.model_validate(
            {"technique": technique, "objective": objective, "data": {"system_prompt": system_prompt}}
        )
        config = {"experiment": settings.model_dump(mode="json")}
        inputs = {"conversations": self.conversations, "base_model": self.base}
        inputs |= {"distilled": self._distilled(teacher)} if teacher else {}
        data = self.put("training_data", inputs, lambda out: _write_token_rows(out, name), AUDIT, config)
        model = _adapted(self.base.path, technique, seed=len(self.inputs))
        summary = {"steps": 10, "best_eval_loss": 2.5, "trainable_params": 100, "seconds": 60.0, "peak_memory_gb": 1.5}
        inputs = {"training_data": data, "base_model": self.base}
        inputs |= {"start": self.inputs[start]["adapter"]} if start else {}
        adapter = self.put("adapter", inputs, lambda out: self._save(model, out, technique), summary, config)
        inputs = {"adapter": adapter, "base_model": self.base, "training_data": data}
        mode = {"prompt_tuning": "none", "full": "full"}.get(technique, "dequantized")
        merged = self.put(
            "merged_model",
            inputs,
            lambda out: self._merge(model, out, mode),
            {"mode": mode, "passed": passed},
            config,
        )
        for asset, artifact in (("adapter", adapter), ("merged_model", merged)):
            AssetPointers(self.store.root).write(asset, name, artifact)
        self.inputs[name] = {"base_model": self.base, "adapter": adapter, "merged_model": merged}
        self.served[name] = {"technique": technique, "quantization": None, "system_prompt": system_prompt}

    def compare(self) -> Artifact:
        """Score every trained model and the prompts, and compare them."""
        self.score()
        return self.compare_scored()

    def score(
        self,
        variants: Mapping[str, Any] = VARIANTS,
        tuned_with: Sequence[str] = (),
        texts: Mapping[str, Artifact] | None = None,
    ) -> None:
        """Score every trained model and the prompts. texts: the input `text`, if there is one."""
        read = {"conversations": self.conversations, **(texts or {})}
        chosen = {"prompting": {"variants": {name: variants[name] for name in tuned_with}}} if tuned_with else {}
        for name, parts in self.inputs.items():
            scores = self._score("scores", tuned_scores.run, {**read, **parts}, {**self.served[name], **chosen})
            AssetPointers(self.store.root).write("scores", name, scores)
        inputs = {**read, "base_model": self.base}
        self._score("prompt_baseline", prompt_baseline.run, inputs, {"prompting": {"variants": dict(variants)}})

    def compare_scored(self) -> Artifact:
        """Compare the newest scores in the store."""
        compared = {"any/prompt_baseline": self.store.all("prompt_baseline")[-1]}
        compared |= {f"{name}/scores": self._current("scores", name) for name in self.inputs}
        folders = {name: artifact.path for name, artifact in compared.items()}
        talks = self.conversations.path
        rule = {"expect": "answer", "must_not": None, "refusal": None, "margin": 0.05}
        rules = {name: {**rule, "digest": digest} for name, digest in probe_digests(self.probes).items()}
        config = {**COMPARE, **({"probes": rules} if rules else {})}
        comparison = self.put(
            "comparison", compared, lambda out: build_comparison(folders, config, out, ABOUT, talks), {}, config
        )
        AssetPointers(self.store.root).write("comparison", None, comparison)
        return comparison

    def decide(self) -> Artifact:
        """The recommendation, the champion (the merged model of `lora`) and the report over the comparison."""
        compared = self.store.all("comparison")[-1]
        experiments = {name: {"technique": how["technique"], "train_rows": 2} for name, how in self.served.items()}
        settings = PromotionSettings(min_test_rows=2)
        document = decision_document(self.store, compared, settings, None, test_share=0.15, read={})
        summary = {"exposure": document["exposure"]}
        decided = self.put("decision", {"comparison": compared}, lambda out: _document(out, document), summary)
        both = whole_comparison(compared), read_comparison(compared)
        recommended = self.put(
            "recommendation",
            {"comparison": compared},
            lambda out: build_recommendation(Desk(*both, experiments, 20), "Use it.", out),
        )
        parts = {role: artifact.fingerprint for role, artifact in self.inputs["lora"].items()}
        candidate = Candidate(
            name="lora/merged", kind="merged", experiment="lora", fingerprint=parts["merged_model"], fingerprints=parts
        )
        evidence = {"served": self.served["lora"], "comparison": compared.fingerprint}
        record = promote(
            self.store.root,
            lambda _: Promotion(candidate=candidate, reason="it <i>leads</i>", evidence=evidence, forced=True),
        )
        assert record is not None
        summary = {"champion": record.model_dump(), "moved": True, "reasons": []}
        released = self.put("champion", {"comparison": compared}, lambda out: _note(out, "champion"), summary)
        made = {"comparison": compared, "decision": decided, "recommendation": recommended, "champion": released}
        project = {"name": "The <shop>", "task": "Answer & sell."}
        report = self.put(
            "report", made, lambda out: _page(out, render_report(self.store, *made.values(), project=project)[0])
        )
        for artifact in (*made.values(), report):
            AssetPointers(self.store.root).write(artifact.kind, None, artifact)
        return report

    def _score(self, kind: str, run: Any, inputs: Mapping[str, Artifact], config: Mapping[str, Any]) -> Artifact:
        config = {"evaluation": EVALUATION, "general_questions": [], "general_texts": [], **config}
        config |= {"probes": self.probes} if self.probes else {}
        folders = {name: artifact.path for name, artifact in inputs.items()}
        work = self.work / f"{kind}{len(list(self.work.iterdir()))}"
        work.mkdir()

        def write(out: Path) -> Any:
            return run(Job(kind, config, folders, out, work, "cpu", Quiet()))

        return self.put(kind, inputs, write, {}, config, versioned=True)

    def _save(self, model: Any, out: Path, technique: str) -> None:
        if technique == "full":
            model.save_pretrained(out)
            copy_companions(self.base.path, out)
            (out / "metrics.jsonl").write_text("{}\n", encoding="utf-8")
            return
        checkpoint = self.work / f"checkpoint{len(list(self.work.iterdir()))}"
        model.save_pretrained(checkpoint)
        save_adapter(checkpoint, out, self.base.path)

    def _merge(self, model: Any, out: Path, mode: str) -> None:
        if mode == "none":
            (out / "merge.json").write_text("{}", encoding="utf-8")
            return
        whole = model.merge_and_unload() if isinstance(model, PeftModel) else model
        whole.save_pretrained(out)
        copy_companions(self.base.path, out)


def _adapted(base: Path, technique: str, seed: int) -> Any:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    if technique == "full":
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
        return model
    if technique == "prompt_tuning":
        return get_peft_model(model, PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"))
    config = LoraConfig(
        r=4, lora_alpha=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _write_talks(out: Path, talks: Mapping[str, Any]) -> None:
    pq.write_table(
        pa.Table.from_pylist(
            [{**_talk(split, turns), "row": number} for split in talks for number, turns in enumerate(talks[split], 1)]
        ),
        out / "rows.parquet",
    )


def _talk(split: str, turns: tuple[str, ...]) -> dict[str, Any]:
    """A row. Its first turn is that of the system if there are an odd number."""
    roles = ["system", "user", "assistant", "user", "assistant"][1 - len(turns) % 2 :]
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    identity = row_id({"messages": messages})
    return {"id": identity, "split": split, "messages": messages, "table": "alpaca", "file": "a.jsonl", "row": 1}


def _write_token_rows(out: Path, name: str) -> None:
    """The ids of the training rows, without their tokens."""
    _note(out, name)
    (out / "audit.json").write_text('{"left_out": []}', encoding="utf-8")
    ids = [_talk("train", turns)["id"] for turns in TALKS["train"]]
    pq.write_table(pa.table({"id": ids, "source": ["human"] * len(ids)}), out / "train.parquet")


def _document(out: Path, document: Mapping[str, Any]) -> None:
    (out / "decision.json").write_text(json.dumps(document), encoding="utf-8")


def _note(out: Path, text: str) -> None:
    (out / "note.txt").write_text(text, encoding="utf-8")


def _page(out: Path, text: str) -> None:
    (out / "report.html").write_text(text, encoding="utf-8")


def _copy(folder: Path, out: Path) -> None:
    for path in folder.iterdir():
        shutil.copyfile(path, out / path.name)
