"""Whether trainings without a file agree with what `ft worth` says of it.

    python -m benchmarks.worth_trained

The train rows of the classification example are in three files by their situation; the answers of one are shuffled.
`ft worth` is asked of them, and LoRA is trained with all, and without each of them (`data.without`), by `ft run`. What
each file does for the score is read from the comparison of the four. No general questions are asked. Results go to
benchmarks/results/worth_trained.json, with the time that shared steps saved. Some 25 minutes on two cores.
"""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from benchmarks import machine
from benchmarks.embedded import ROOT
from ft_pipeline import scaffold
from ft_pipeline.decide.claim import Claim
from ft_pipeline.decide.documents import whole_comparison
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact

RESULTS = ROOT / "benchmarks" / "results" / "worth_trained.json"
FILES = ("first", "second", "shuffled")
SEED = 0


def make_project(root: Path) -> None:
    """Write the example with its train rows in FILES, and an experiment without each."""
    scaffold.create(root, example=False, small_example="classification")
    folder, experiments = root / "data" / "raw" / "alpaca", root / "experiments"
    path, chance = folder / "messages.jsonl", random.Random(SEED)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    situations = sorted({row["group"] for row in rows})
    chance.shuffle(situations)
    file_of = {situation: FILES[place % len(FILES)] for place, situation in enumerate(situations)}
    for name in FILES:
        of_file = [row for row in rows if file_of[row["group"]] == name]
        if name == "shuffled":
            answers = [row["output"] for row in of_file]
            chance.shuffle(answers)
            of_file = [{**row, "output": answer} for row, answer in zip(of_file, answers, strict=True)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in of_file)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    path.unlink()
    project = yaml.safe_load((root / "project.yaml").read_text(encoding="utf-8")) | {"worth": {"by": "file"}}
    for name in ("general_questions", "general_texts"):
        del project["evaluation"][name]
    (root / "project.yaml").write_text(yaml.safe_dump(project), encoding="utf-8")
    settings = yaml.safe_load((experiments / "lora.yaml").read_text(encoding="utf-8"))
    for other in experiments.glob("*.yaml"):
        other.unlink()
    for name, without in {"every": [], **{f"without_{name}": [f"alpaca/{name}.jsonl"] for name in FILES}}.items():
        document = {**settings, **({"data": {"without": without}} if without else {})}
        (experiments / f"{name}.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def ft(root: Path, *arguments: str) -> str:
    """Run `ft` and return what it prints. CalledProcessError if it fails."""
    command = [str(Path(sys.executable).with_name("ft")), *arguments, "--project", str(root)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def saved_by_sharing(steps: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds that steps of experiments would have taken which found what another experiment had made.

    steps: of `ft run --json`.
    """
    built: dict[str, list[float]] = {}
    for step in steps:
        if step["experiment"] and step["state"] == "built":
            built.setdefault(step["asset"], []).append(step["seconds"])
    reused = [step["asset"] for step in steps if step["experiment"] and step["state"] == "reused"]
    return sum(fmean(built[asset]) for asset in reused if asset in built)


def measure(root: Path) -> dict[str, Any]:
    """Return what `ft worth` and the trainings say of each file."""
    make_project(root)
    done = json.loads(ft(root, "run", "--json"))
    document = json.loads(ft(root, "worth", "--json"))
    # All of it, and not what people see: a model that does not lead on the validation rows shows them no test result.
    compared = current_artifact(ArtifactStore(root / "data" / "store"), "comparison")
    assert compared is not None
    comparison = whole_comparison(compared)
    asked = {group["group"]: group for group in document["groups"]}
    metric = comparison.primary
    scores = {row.name: row.scores[metric].value for row in comparison.rows if metric in row.scores}
    leads = {(lead.row, lead.rival): lead for lead in comparison.of_kind("lead") if lead.measure == metric}
    files: dict[str, Any] = {}
    for name in FILES:
        of_file, others = asked[f"alpaca/{name}.jsonl"], ("every/merged", f"without_{name}/merged")
        files[name] = {
            "rows": of_file["rows"],
            "finding": of_file["finding"],
            "of_word_model": of_file["effect"],
            "of_lora": _lead(leads, *others),
        }
    return {
        "minutes_of_run": round(done["seconds"] / 60, 1),
        "minutes_saved_by_shared_steps": round(saved_by_sharing(done["steps"]) / 60, 1),
        "metric": metric,
        "files": files,
        "scores": scores,
    }


def _lead(leads: Mapping[tuple[str, str], Claim], row: str, rival: str) -> dict[str, float | None] | None:
    """Return by how much a row is ahead of another, with the ends of the interval; None if they were not compared."""
    if claim := leads.get((row, rival)):
        return {"value": claim.value, "low": claim.low, "high": claim.high}
    if claim := leads.get((rival, row)):
        ends = {"value": claim.value, "low": claim.high, "high": claim.low}
        return {end: None if value is None else -value for end, value in ends.items()}
    return None


def main() -> None:
    """Measure, print and write."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine.describe(), **measure(Path(folder) / "messages")}
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
