"""A project whose rows move into the test split: real tables and specs, and stand-ins for models and scores."""

import importlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline import scaffold
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.project import Project
from ft_pipeline.release.champion import promote
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.step import STEPS, BuildContext, MissingInput, SpecContext, planned_spec
from ft_pipeline.steps.base_model import base_model_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.scored import CORRECT, PARTS, losses, scored
from ft_pipeline_tests.projects import project_of
from ft_pipeline_tests.tables.helpers import build, build_chat_tables

THINGS = ("kettle", "rug", "lamp", "spade", "mug", "chair", "vase", "clock", "towel", "rake", "bowl", "shelf")
COLORS = ("red", "blue", "green", "white", "black")
ROWS = [
    {"instruction": f"Where is the {color} {thing} that I ordered?", "output": f"Your {color} {thing} left us."}
    for color in COLORS
    for thing in THINGS
]
GOLDEN = "golden.jsonl"
SERVED = {"technique": "lora", "quantization": None, "system_prompt": None}
AUDIT: dict[str, Any] = {"checks": {"single_bos": {"passed": True}}, "rows": {}}


def load_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill STEPS. Definitions load once per process, for the project that is open: the shipped one."""
    monkeypatch.setenv("FT_PROJECT", str(scaffold.example_folder()))
    importlib.import_module("ft_pipeline.definitions")  # which conftest.py loads
    assert "comparison" in STEPS


_BUILT: dict[str, Path] = {}
"""Tables by their files and shares: most tests have the same ones, and copy them."""


class Moving:
    """The project, and what its assets would make."""

    def __init__(self, root: Path, *experiments: str) -> None:
        self.project = project_of(root, **dict.fromkeys(experiments, "technique: lora\n"))
        settings = (
            "name: shop\nteacher: {in_comparison: false}\nevaluation: {rivals: []}\npromotion: {min_test_rows: 20}\n"
        )
        (root / "project.yaml").write_text(settings, encoding="utf-8")
        (root / "data" / "general").mkdir(parents=True)
        for name in ("questions", "texts"):
            (root / "data" / "general" / f"{name}.jsonl").write_text("", encoding="utf-8")
        self.store = ArtifactStore(self.project.store)
        spec = base_model_spec(SpecContext(self.project, self.store), "embedded", None)
        draft = self.store.begin(spec.with_code_version(STEPS["base_model"].code_version))
        (draft.out / "content").write_bytes(b"base")
        self.base = self._commit(draft, None, {})
        self.made = 0

    def put(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        files: Mapping[str, bytes | pa.Table],
        *,
        experiment: str | None = None,
        summary: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Artifact:
        draft = self.store.begin(
            Spec(kind, {name: made.reference for name, made in inputs.items()}, dict(config or {}))
        )
        for name, content in files.items():
            if isinstance(content, bytes):
                (draft.out / name).write_bytes(content)
            else:
                pq.write_table(content, draft.out / name)
        return self._commit(draft, experiment, dict(summary or {}))

    def conversations(
        self,
        alpaca: Mapping[str, Sequence[Any]] | None = None,
        sharegpt: Mapping[str, Sequence[Any]] | None = None,
        *,
        test_share: float = 0.1,
    ) -> Artifact:
        """Build and publish the conversations of these files, by default of ROWS. GOLDEN is a golden test file."""
        self.made += 1
        files = dict(alpaca or {"a.jsonl": ROWS}), dict(sharegpt or {})
        key = json.dumps([files, test_share])
        if key not in _BUILT:
            folder = self.project.root / f"tables{self.made}"
            folder.mkdir()
            shares = DataSettings(validation_share=0.2, test_share=test_share)
            build_chat_tables(folder, *files, sidecars={GOLDEN: {"split": "test"}}, settings=shares)
            _BUILT[key] = folder / "out"
        return self._publish_folder("conversations", _BUILT[key])

    def rewritten(self, conversations: Artifact, file: str, change: Callable[[pa.Table], pa.Table]) -> Artifact:
        """Publish the conversations with one of their Parquet files changed."""
        tables = {path.name: pq.read_table(path) for path in conversations.path.glob("*.parquet")}
        return self.put("conversations", {}, {**tables, file: change(tables[file])}, config={"of": file})

    def table(self, data_format: str, rows: Sequence[Any]) -> Artifact:
        """Build the table of one format."""
        self.made += 1
        folder = self.project.root / f"tables{self.made}"
        folder.mkdir()
        build(folder, data_format, {"b.jsonl": rows})
        return self._publish_folder(data_format, folder / "out")

    def train(
        self,
        experiment: str,
        conversations: Artifact,
        *,
        start: Artifact | None = None,
        ids: Mapping[str, Sequence[str]] | None = None,
        left_out: Sequence[Mapping[str, Any]] = (),
        **tables: Artifact,
    ) -> Artifact:
        """Train on the conversations, or on the rows `ids` (by split); returns the adapter. tables: other inputs."""
        rows = pq.read_table(conversations.path / "rows.parquet").to_pylist()
        audit = {**AUDIT, "left_out": list(left_out)}
        files: dict[str, bytes | pa.Table] = {"audit.json": json.dumps(audit).encode()}
        for split in ("train", "validation"):
            used = [row["id"] for row in rows if row["split"] == split] if ids is None else list(ids.get(split, ()))
            files[f"{split}.parquet"] = pa.table({"id": pa.array(used, pa.string())})
        inputs = {"conversations": conversations, "base_model": self.base, **tables}
        data = self.put("training_data", inputs, files, experiment=experiment, summary={"audit": audit})
        inputs = {"training_data": data, "base_model": self.base, **({"start": start} if start else {})}
        content = f"{experiment} {data.fingerprint}".encode()
        return self.put("adapter", inputs, {"adapter": content}, experiment=experiment)

    def score(self, experiment: str, adapter: Artifact, conversations: Artifact, level: float = 1.2) -> Artifact:
        """Merge and score an adapter; level: its loss."""
        data = self.store.require(*adapter.inputs["training_data"])
        inputs = {"adapter": adapter, "base_model": self.base, "training_data": data}
        content = b"merged " + adapter.fingerprint.encode()
        merged = self.put("merged_model", inputs, {"m": content}, experiment=experiment, summary={"passed": True})
        row = {"losses": losses(level), "technique": "lora", "correct": CORRECT}
        inputs = {"conversations": conversations, "base_model": self.base, "adapter": adapter, "merged_model": merged}
        rows = {kind: {**row, "kind": kind} for kind in ("adapter", "merged")}
        return self._scored("scores", inputs, rows, experiment, SERVED)

    def baseline(self, experiment: str, conversations: Artifact, level: float = 2.5) -> Artifact:
        rows = {"plain": {"kind": "base", "losses": losses(level), "correct": CORRECT}}
        inputs = {"conversations": conversations, "base_model": self.base}
        return self._scored("prompt_baseline", inputs, rows, experiment, {"prompting": {"variants": {}}})

    def experiment(self, name: str, conversations: Artifact, level: float = 1.2) -> Artifact:
        """Train and score an experiment, with its baseline; returns the adapter."""
        adapter = self.train(name, conversations)
        self.baseline(name, conversations)
        self.score(name, adapter, conversations, level)
        return adapter

    def release(self, name: str) -> ChampionRecord:
        """Make the merged model of an experiment the champion."""
        scores = self.current("scores", name)
        parts = {role: scores.inputs[role][1] for role in ("base_model", "adapter", "merged_model")}
        candidate = Candidate(
            name=f"{name}/merged", kind="merged", experiment=name, fingerprint=parts["merged_model"], fingerprints=parts
        )
        record = promote(
            self.store.root, lambda _: Promotion(candidate=candidate, reason="first", evidence={"served": SERVED})
        )
        assert record is not None
        return record

    def run(self, asset: str) -> Artifact:
        """Build an asset of this process with its real spec, and publish it."""
        context = SpecContext(Project(self.project.root), self.store)
        while True:
            try:
                spec = planned_spec(STEPS[asset], context)
                break
            except MissingInput as missing:
                self._score_champion(missing.spec)
        draft = self.store.begin(spec)
        inputs = {name: self.store.require(*reference).path for name, reference in spec.inputs.items()}
        build_step = STEPS[asset].build
        assert build_step is not None
        summary = build_step(BuildContext(self.project, self.store, spec, inputs, draft.out))
        return self._commit(draft, None, summary)

    def compare(self) -> Comparison:
        return read_comparison(self.run("comparison"))

    def current(self, asset: str, experiment: str | None = None) -> Artifact:
        pointer = AssetPointers(self.store.root).read(asset, experiment)
        assert pointer is not None
        return self.store.require(pointer.kind, pointer.fingerprint)

    def _publish_folder(self, kind: str, folder: Path) -> Artifact:
        draft = self.store.begin(Spec(kind, {}, {"number": self.made}))
        shutil.copytree(folder, draft.out, dirs_exist_ok=True)
        return self._commit(draft, None, {"checks": {}})

    def _score_champion(self, spec: Spec) -> None:
        """Score the champion again, with a loss of 1.5, as the worker would."""
        draft = self.store.begin(spec)
        row = {"losses": losses(1.5), "technique": "lora", "correct": CORRECT}
        parts = {**PARTS, "test_rows": spec.inputs["conversations"][1]}
        self._write_scores(draft, {kind: {**row, "kind": kind} for kind in ("adapter", "merged")}, parts)
        self.store.commit(draft, {})

    def _scored(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        rows: Mapping[str, Mapping[str, Any]],
        experiment: str,
        config: Mapping[str, Any],
    ) -> Artifact:
        """Scores whose evaluation fingerprint depends on the conversations alone."""
        references = {name: made.reference for name, made in inputs.items()}
        draft = self.store.begin(Spec(kind, references, {**config, "of": experiment}))
        self._write_scores(draft, rows, {**PARTS, "test_rows": inputs["conversations"].fingerprint})
        written = json.loads((draft.out / "scores.json").read_text(encoding="utf-8"))["rows"]
        return self._commit(draft, experiment, {"rows": written})

    def _write_scores(self, draft: Any, rows: Mapping[str, Mapping[str, Any]], parts: Mapping[str, Any]) -> None:
        draft.out.rmdir()
        scored(draft.out, rows, parts)

    def _commit(self, draft: Any, experiment: str | None, summary: dict[str, Any]) -> Artifact:
        run = {"run_id": "run-1", "asset": draft.spec.kind, "experiment": experiment, "seconds": 1.0}
        artifact = self.store.commit(draft, summary, run)
        AssetPointers(self.store.root).write(draft.spec.kind, experiment, artifact)
        return artifact
