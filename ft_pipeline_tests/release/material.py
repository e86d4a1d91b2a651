"""A store with invented scores, the artifacts that they belong to, and a comparison: what a promotion reads."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.released import ChampionRecord
from ft_pipeline.release import manual_promotion
from ft_pipeline.release.candidates import decision_key_of
from ft_pipeline.release.champion import champion_before
from ft_pipeline.release.recorded_decision import decision_document
from ft_pipeline.release.requests import MoveRequest
from ft_pipeline.settings.promotion import PromotionSettings
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.scored import scored

HARD = [0.4, -0.3, 0.1, -0.2, 0.0, 0.3, -0.1, -0.2, 0.2, -0.2] * 3
"""What all models find hard or easy, per test item."""
COMPARE = {"primary_metric": "loss", "fingerprint": None}
READ = {"promotion.forgetting_margin": 0.05}
"""What a decision reads of the settings."""


def losses(mean: float) -> list[float]:
    """Losses with this mean. What is hard for one model is less so for another."""
    begin = round(37 * mean) % 10
    return [mean + offset for offset in HARD[begin:] + HARD[:begin]]


class Material:
    """One experiment `lora` over a base model, a prompt variant, and what they scored."""

    def __init__(self, root: Path) -> None:
        self.store = ArtifactStore(root / "store")
        self._drafts = root
        self.base = self.put("base_model", {}, {"weights": "untouched"})
        variants = {"few_shot": {"system_prompt": "Be brief.", "few_shot": 2}}
        rows = {"plain": ("base", 3.5, 0.5), "few_shot": ("prompt", 3.0, None)}
        self.baseline = self.put_scores(
            "prompt_baseline", {"base_model": self.base}, rows, {"prompting": {"variants": variants}}
        )

    def put(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        content: Any,
        summary: dict[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Artifact:
        spec = Spec(
            kind, {name: artifact.reference for name, artifact in inputs.items()}, dict(config or {"of": content})
        )
        draft = self.store.begin(spec)
        (draft.out / "content.json").write_text(json.dumps(content), encoding="utf-8")
        return self.store.commit(draft, summary or {})

    def put_scores(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        rows: Mapping[str, tuple[str, float, float | None]],
        config: Mapping[str, Any],
        technique: str | None = None,
    ) -> Artifact:
        """rows: name → (kind, mean loss, general accuracy)."""
        spec = Spec(
            kind, {name: artifact.reference for name, artifact in inputs.items()}, {**config, "rows": str(rows)}
        )
        draft = self.store.begin(spec)
        written = {
            name: {"kind": kind, "losses": losses(loss), "technique": technique, **_general(accuracy)}
            for name, (kind, loss, accuracy) in rows.items()
        }
        draft.out.rmdir()
        return self.store.commit(draft, {"rows": _rows(scored(draft.out, written))})

    def train(
        self, loss: float, *, accuracy: float = 0.5, merge: bool = True, audit: bool = True, label: str = ""
    ) -> Artifact:
        """Train and score the experiment `lora`; returns its scores. merge, audit: whether these checks pass."""
        checks = {"audit": {"checks": {"single_bos": {"passed": audit}}}}
        data = self.put("training_data", {"base_model": self.base}, ["rows", label], checks)
        adapter = self.put("adapter", {"training_data": data, "base_model": self.base}, f"lora {loss} {label}")
        inputs = {"adapter": adapter, "base_model": self.base, "training_data": data}
        merged = self.put("merged_model", inputs, f"merged {loss} {label}", {"passed": merge})
        rows = {"adapter": ("adapter", loss + 0.01, accuracy), "merged": ("merged", loss, accuracy)}
        config = {"technique": "lora", "quantization": None, "system_prompt": None}
        inputs = {"adapter": adapter, "base_model": self.base, "merged_model": merged}
        scores = self.put_scores("scores", inputs, rows, config, "lora")
        AssetPointers(self.store.root).write("scores", "lora", scores)
        return scores

    def compare(
        self,
        scores: Artifact,
        champion: tuple[ChampionRecord | None, Artifact] | None = None,
        opinions: Mapping[str, Artifact] | None = None,
        **config: Any,
    ) -> Artifact:
        """Compare scores; champion: the current champion and its scores. opinions: artifacts by name of the input.
        config: further settings of the comparison."""
        inputs = {"lora/prompt_baseline": self.baseline, "lora/scores": scores, **(opinions or {})}
        settings: dict[str, Any] = {**COMPARE, **config}
        if champion is not None and champion[0] is not None:
            inputs["champion/scores"] = champion[1]
            settings["champion"] = {key: getattr(champion[0], key) for key in ("name", "experiment", "fingerprint")}
        spec = Spec("comparison", {name: artifact.reference for name, artifact in inputs.items()}, settings)
        draft = self.store.begin(spec)
        summary = build_comparison({name: artifact.path for name, artifact in inputs.items()}, settings, draft.out)
        comparison = self.store.commit(draft, summary)
        AssetPointers(self.store.root).write("comparison", None, comparison)
        return comparison

    def decide(self, comparison: Artifact, settings: PromotionSettings, read: Mapping[str, Any] = READ) -> Artifact:
        """Decide on a comparison, as the asset `decision` does."""
        standing = champion_before(self.store.root, decision_key_of(comparison))
        number = standing.sequence if standing else None
        document = decision_document(self.store, comparison, settings, number, test_share=0.15, read=read)
        config = {"promotion": settings.model_dump(mode="json"), "standing": number, "test_share": 0.15, "read": read}
        draft = self.store.begin(Spec("decision", {"comparison": comparison.reference}, config))
        (draft.out / "decision.json").write_text(json.dumps(document), encoding="utf-8")
        decision = self.store.commit(draft, {key: document[key] for key in ("verdict", "exposure")})
        AssetPointers(self.store.root).write("decision", None, decision)
        return decision

    def promote(
        self, comparison: Artifact, settings: PromotionSettings, name: str, *, force: bool = False, reason: str = ""
    ) -> tuple[ChampionRecord | None, bool, MoveRequest | None]:
        """`ft promote` on the present decision."""
        of_two = settings.two_people
        return manual_promotion.promote(
            self.store, comparison, name, read=READ, force=force, reason=reason, two_people=of_two
        )

    def decide_and_promote(
        self, comparison: Artifact, settings: PromotionSettings, name: str, *, force: bool = False, reason: str = ""
    ) -> tuple[ChampionRecord | None, bool, MoveRequest | None]:
        """`ft promote` after a run has decided."""
        self.decide(comparison, settings)
        return self.promote(comparison, settings, name, force=force, reason=reason)


def _general(accuracy: float | None) -> dict[str, Sequence[int]]:
    right = round((accuracy or 0) * 400)
    return {} if accuracy is None else {"correct": [1] * right + [0] * (400 - right)}


def _rows(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))["rows"]
