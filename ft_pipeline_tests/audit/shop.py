"""A project with every kind of artifact, made without Dagster and without a model: real snapshots and tables, and
stand-ins of a few bytes for what a GPU would make."""

import atexit
import copy
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline.decide.released import Candidate, ChampionRecord, Promotion
from ft_pipeline.release.champion import promote
from ft_pipeline.settings.data import DataSettings
from ft_pipeline.sources.local_folder import snapshot_folder
from ft_pipeline.sources.snapshot import Snapshot, checkout, read_listing, write_listing
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.accounts import TableReport
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.excluded_rows import Excluded, read_excluded
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.held_out import SuiteTexts

THINGS = ("kettle", "rug", "lamp", "spade", "mug", "chair", "vase", "clock", "towel", "rake", "bowl", "shelf")
ALPACA = [
    {"instruction": f"Where is the {thing} that I ordered on day {day}?", "output": f"Your {thing} left us on {day}."}
    for day, thing in enumerate(THINGS, start=1)
]
SECRET = {
    "instruction": "My name is Ada Fenwick of 12 Mill Lane, please change the address.",
    "output": "It is changed to 12 Mill Lane, Ada, and the parcel follows you there.",
}
BROKEN = {"instruction": "Do you sell gift cards?", "output": ""}
SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Is the {thing} in stock?"}, {"from": "gpt", "value": "It is."}]}
    for thing in THINGS[:6]
]
SPLITS = DataSettings(validation_share=0.2, test_share=0.2)


_BUILT: dict[str, tuple[Path, TableReport]] = {}
"""Tables of the same files, which most tests have: their folder, and their report."""


def _built(data_format: str, files: list[SourceFile], out: Path, excluded: Excluded) -> TableReport:
    """Build a table in `out`, or copy one of the same files."""
    contents = [(file.name, file.sha256, file.path.suffix) for file in files]
    key = json.dumps([data_format, contents, excluded.to_json()])
    if key not in _BUILT:
        report = build_table(data_format, files, out, max_quarantined=0.1, excluded=excluded)
        folder = Path(tempfile.mkdtemp(prefix="ft-tests-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        shutil.copytree(out, folder, dirs_exist_ok=True)
        _BUILT[key] = folder, report
        return report
    folder, report = _BUILT[key]
    shutil.copytree(folder, out, dirs_exist_ok=True)
    return copy.deepcopy(report)


class Shop:
    """A project folder, and `materialize` to bring it up to date, as a run would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore(root / "data" / "store")

    def write_project(self) -> None:
        """Write the project's settings and raw rows: accepted, personal and broken ones."""
        root = self.root
        (root / "dagster_home").mkdir(parents=True)
        (root / "project.yaml").write_text("name: shop\n", encoding="utf-8")
        for data_format in FORMATS:
            (root / "data" / "raw" / data_format).mkdir(parents=True)
        self.write("alpaca", "support.jsonl", [*ALPACA[:4], SECRET, *ALPACA[4:], BROKEN])
        self.write("sharegpt", "chats.jsonl", SHAREGPT)

    def raw(self, data_format: str, name: str) -> Path:
        return self.root / "data" / "raw" / data_format / name

    def write(self, data_format: str, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.raw(data_format, name)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    def materialize(self, experiment: str = "qlora", learning_rate: float = 1e-3) -> dict[str, Artifact]:
        """Build every asset, from the raw files to the comparison; returns the artifacts by asset."""
        made = {f"raw_{name}": self._raw(name) for name in ("alpaca", "sharegpt")}
        made |= {name: self._table(name, made[f"raw_{name}"]) for name in ("alpaca", "sharegpt")}
        made["conversations"] = self._conversations(made)
        made["base_model"] = self.put("base_model", experiment, {}, {"model": "tiny"}, {"model.safetensors": b"base"})
        parts = {name: made[name] for name in ("conversations", "base_model")}
        made["training_data"] = self._training_data(experiment, parts)
        config = {"experiment": {"training": {"learning_rate": learning_rate, "seed": 42}}}
        parts = {name: made[name] for name in ("training_data", "base_model")}
        content = made["training_data"].fingerprint.encode() + str(learning_rate).encode()
        made["adapter"] = self.put("adapter", experiment, parts, config, {"adapter_model.safetensors": content})
        parts = {name: made[name] for name in ("adapter", "base_model", "training_data")}
        made["merged_model"] = self.put("merged_model", experiment, parts, {}, {"model.safetensors": b"+" + content})
        parts = {name: made[name] for name in ("conversations", "base_model", "adapter", "merged_model")}
        rows = [{"name": name, "kind": name, "fingerprint": "f"} for name in ("adapter", "merged")]
        content = json.dumps({"of": made["merged_model"].fingerprint, "on": made["conversations"].fingerprint})
        made["scores"] = self.put("scores", experiment, parts, {}, {"samples.json": content.encode()}, {"rows": rows})
        document = {
            "test_rows": 1,
            "test_items": 1,
            "primary_metric": "loss",
            "of": made["scores"].fingerprint,
            "rows": [
                {
                    "name": f"{experiment}/{name}",
                    "kind": name,
                    "experiment": experiment,
                    "scores": {},
                    "source": f"{experiment}/scores",
                }
                for name in ("adapter", "merged")
            ],
        }
        made["comparison"] = self.put(
            "comparison",
            None,
            {f"{experiment}/scores": made["scores"]},
            {},
            {"comparison.json": json.dumps(document).encode()},
        )
        return made

    def table(self, data_format: str) -> Artifact:
        """Build the table of one format from its raw files."""
        return self._table(data_format, self._raw(data_format))

    def release(self, made: dict[str, Artifact], value: float = 2.5) -> ChampionRecord:
        """Make the merged model the champion."""
        parts = {name: made[name].fingerprint for name in ("base_model", "adapter", "merged_model")}
        candidate = Candidate(
            name="qlora/merged",
            kind="merged",
            experiment="qlora",
            fingerprint=made["merged_model"].fingerprint,
            fingerprints=parts,
            gates={"merge": True},
        )
        evidence = {"comparison": made["comparison"].fingerprint, "metric": "loss", "score": {"value": value}}
        record = promote(
            self.store.root,
            lambda _: Promotion(candidate=candidate, reason="beats base by 0.4 on loss", evidence=evidence),
        )
        assert record is not None
        document = json.dumps(record.model_dump()).encode()
        summary = {"champion": record.model_dump(), "moved": True}
        self.put("champion", None, {"comparison": made["comparison"]}, {}, {"champion.json": document}, summary)
        return record

    def put(
        self,
        kind: str,
        experiment: str | None,
        inputs: dict[str, Artifact],
        config: dict[str, Any],
        files: dict[str, bytes],
        summary: dict[str, Any] | None = None,
    ) -> Artifact:
        """Commit an artifact of these files, and make it the current one."""
        named = {name: artifact.reference for name, artifact in inputs.items()}
        draft = self.store.begin(Spec(kind, named, config).with_code_version("1"))
        for name, content in files.items():
            (draft.out / name).write_bytes(content)
        return self._commit(draft, experiment, summary or {})

    def _commit(self, draft: Any, experiment: str | None, summary: dict[str, Any]) -> Artifact:
        kind = draft.spec.kind
        run = {"run_id": "run-1", "started_by": "cli ada", "asset": kind, "experiment": experiment}
        artifact = self.store.commit(draft, summary, run)
        AssetPointers(self.store.root).write(kind, experiment, artifact)
        return artifact

    def _raw(self, data_format: str) -> Artifact:
        spec = snapshot_folder(self.root / "data" / "raw" / data_format, self.store).spec(data_format)
        draft = self.store.begin(spec.with_code_version("1"))
        return self._commit(draft, None, write_listing(Snapshot.from_json(spec.config), draft.out))

    def _table(self, data_format: str, raw: Artifact) -> Artifact:
        excluded = read_excluded(self.root / "data", data_format)
        config = {"format": data_format, "excluded": excluded.to_json()}
        draft = self.store.begin(Spec(data_format, {"raw": raw.reference}, config))
        copies = checkout(read_listing(raw), self.store, draft.folder / "raw")
        files = [
            SourceFile(copy.entry.name, copy.path or Path(), copy.entry.sha256 or "", data_dir=copy.path.parent)
            for copy in copies
            if copy.path
        ]
        report = _built(data_format, files, draft.out, excluded)
        return self._commit(draft, None, {**report.to_json(), "preview": report.preview})

    def _conversations(self, made: dict[str, Artifact]) -> Artifact:
        tables = {name: made[name] for name in ("alpaca", "sharegpt")}
        draft = self.store.begin(Spec("conversations", {name: table.reference for name, table in tables.items()}))
        folders = {name: table.path for name, table in tables.items()}
        report = build_conversations(folders, draft.out, settings=SPLITS, suite=SuiteTexts())
        return self._commit(draft, None, report.to_json())

    def _training_data(self, experiment: str, inputs: dict[str, Artifact]) -> Artifact:
        draft = self.store.begin(Spec("training_data", {name: artifact.reference for name, artifact in inputs.items()}))
        rows = pq.read_table(inputs["conversations"].path / "rows.parquet").to_pylist()
        for split in ("train", "validation"):
            chosen = [row for row in rows if row["split"] == split]
            tokens = [[len(turn["content"]) for turn in row["messages"]] for row in chosen]
            columns = {"id": [row["id"] for row in chosen], "source": ["human"] * len(chosen)}
            pq.write_table(pa.table({**columns, "input_ids": tokens, "labels": tokens}), draft.out / f"{split}.parquet")
        audit = {"checks": {"single_bos": {"passed": True, "message": ""}}, "example": {"text": "", "marked": ""}}
        (draft.out / "audit.json").write_text(json.dumps(audit), encoding="utf-8")
        return self._commit(draft, experiment, {"audit": audit})
