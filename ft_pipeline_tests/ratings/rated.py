"""A project with a comparison of two models whose answers can be rated."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ft_pipeline import scaffold
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.ratings.pairs import Match, open_match
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.journal import sign_new_store
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.evaluation.scored import scored

TUNED, PROMPT = "lora/merged", "few_shot"
CONVERSATIONS = 70
Answers = Callable[[int], str]
"""The answer to a test item, by its number."""
HOSTILE = "<script>alert('x')</script> & \u202e=cmd|' /C calc'!A0"


def question(number: int) -> str:
    return HOSTILE if number == 3 else f"Question {number}: where is my parcel?"


def kind_answer(number: int) -> str:
    return f"=Sorry about parcel {number}.\nPlease send your order number." if number % 2 else f"We look for {number}."


def curt_answer(number: int) -> str:
    return kind_answer(number) if number % 10 == 7 else f'No idea, {number}; sorry "really".'


class RatedProject:
    """A project folder, and its store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = ArtifactStore(root / "data" / "store")

    @classmethod
    def create(cls, root: Path, *, signed: bool = True) -> "RatedProject":
        """A new project, with test conversations."""
        project = cls(scaffold.create(root, example=False))
        if signed:
            sign_new_store(project.store.root)
        project._put("conversations", {}, {}, _write_conversations)
        return project

    def compare(self, tuned: Answers = kind_answer, prompt: Answers = curt_answer, loss: float = 2.0) -> Artifact:
        """Make a comparison the current one. loss: of the tuned model, which makes it another one."""
        answers = {TUNED.split("/")[1]: tuned, PROMPT: prompt, "plain": lambda number: "I do not know."}
        scores = {
            "lora/scores": self._score("scores", answers, {"merged": ("merged", loss)}),
            "lora/prompt_baseline": self._score(
                "prompt_baseline", answers, {"plain": ("base", 3.5), PROMPT: ("prompt", 3.0)}
            ),
        }
        config = {"primary_metric": "loss"}
        folders = {name: artifact.path for name, artifact in scores.items()}
        made = self._put("comparison", scores, config, lambda out: build_comparison(folders, config, out))
        AssetPointers(self.store.root).write("comparison", None, made)
        return made

    def match(self, candidate: str = TUNED, rival: str = PROMPT) -> Match:
        return open_match(self.store.root, candidate, rival)

    def _score(self, kind: str, answers: Mapping[str, Answers], rows: Mapping[str, tuple[str, float]]) -> Artifact:
        noise = [(7 * number % 11) / 20 for number in range(CONVERSATIONS)]
        described = {
            name: {"kind": row_kind, "losses": [loss + extra for extra in noise]}
            for name, (row_kind, loss) in rows.items()
        }

        def write(out: Path) -> dict[str, Any]:
            out.rmdir()
            scored(out, described)
            samples = pq.read_table(out / "samples.parquet").to_pylist()
            for sample in samples:
                sample["answer"] = answers[sample["name"]](int(sample["group"]))
            pq.write_table(pa.Table.from_pylist(samples), out / "samples.parquet")
            return {"rows": json.loads((out / "scores.json").read_text())["rows"]}

        return self._put(kind, {"conversations": self.store.all("conversations")[0]}, {"rows": str(rows)}, write)

    def _put(
        self,
        kind: str,
        inputs: Mapping[str, Artifact],
        config: Mapping[str, Any],
        write: Callable[[Path], dict[str, Any]],
    ) -> Artifact:
        draft = self.store.begin(Spec(kind, {name: made.reference for name, made in inputs.items()}, dict(config)))
        return self.store.commit(draft, write(draft.out))


def _write_conversations(out: Path) -> dict[str, Any]:
    rows = [
        {
            "id": f"{number:03}",
            "split": "test",
            "messages": [
                {"role": "user", "content": question(number)},
                {"role": "assistant", "content": f"answer {number}"},
            ],
        }
        for number in range(CONVERSATIONS)
    ]
    pq.write_table(pa.Table.from_pylist(rows), out / "rows.parquet")
    return {}
