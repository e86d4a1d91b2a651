"""The asset `worth`: what it says goes to the recommendation and the report; without its setting, nothing changes."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from ft_pipeline.execution.build import build_artifact
from ft_pipeline.job import Job, Reporter
from ft_pipeline.project import Project
from ft_pipeline.step import STEPS, SpecContext, planned_spec
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import current_artifact
from ft_pipeline.store.spec import Spec
from ft_pipeline.worth import answer
from ft_pipeline.worth.worth import HOW, page
from ft_pipeline.worth.worth import run as ask_rows
from ft_pipeline_tests.end_to_end.project import change_yaml, ft_here
from ft_pipeline_tests.fixtures.packing import FINISHED, unpack_signed
from ft_pipeline_tests.worth.test_worth import EXAMPLE, LIGHT

SCORE = {"value": -0.019, "low": -0.033, "high": -0.004}
BAD = {"group": "alpaca/faq_2023.csv", "rows": 40, "effect": SCORE, "for_others": SCORE, "over_others": None}
ANSWER: dict[str, Any] = {
    "by": "file",
    "groups": [{**BAD, "of_next": None, "finding": "harms", "cost": 20.0, "points_per_100": -9.5}],
    "left_out": [],
    "wrong_labels": {"value": 3.0, "low": 1.0, "high": 9.0, "rows": []},
}


def made(root: Path, asset: str) -> Artifact:
    found = current_artifact(ArtifactStore(root / "data" / "store"), asset)
    assert found is not None
    return found


def here(spec: Spec, inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """The work of the step in this process, where the answer is replaced."""
    return ask_rows(Job("worth", spec.config, dict(inputs), out, out, "cpu", cast(Reporter, None)))


def run(root: Path, assets: str) -> None:
    (done,) = ft_here(root, ("run", "--select", assets))
    assert done.returncode == 0, done.stderr + done.stdout


def test_it_asks_the_rows_and_shows_groups_a_picture_and_labels(tmp_path: Path) -> None:
    root = tmp_path / "messages"
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns("store"))
    change_yaml(root / "project.yaml", worth={"by": "label", "groups": 2}, costs={"label": 0.5})
    run(root, f"{LIGHT},worth")
    shown = page(made(root, "worth"))
    assert [row["finding"] for row in shown["groups"].rows] == ["", ""] and len(shown["not_looked_at"]) == 3
    assert shown["effects"].markdown.startswith("![")
    assert {"question", "label", "likely"} <= set(shown["look_at"].rows[0])


def test_what_is_shown_of_a_group_is_in_the_recommendation_and_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = unpack_signed(FINISHED, tmp_path)
    before = made(root, "recommendation")
    run(root, "worth,recommendation")
    assert page(made(root, "worth"))["worth"].text == HOW
    assert made(root, "recommendation").reference == before.reference

    change_yaml(root / "project.yaml", worth={"by": "file"})
    run(root, "worth,recommendation")
    assert "`ft worth` needs answers that are labels" in page(made(root, "worth"))["worth"].text
    assert made(root, "recommendation").reference == before.reference

    monkeypatch.setattr(answer, "worth_of", lambda *given, **named: ANSWER)
    change_yaml(root / "project.yaml", worth={"by": "file", "groups": 3})
    project, store = Project(root), ArtifactStore(root / "data" / "store")
    build_artifact(None, store, planned_spec(STEPS["worth"], SpecContext(project, store)), build=here)
    run(root, "worth,recommendation,champion,report")
    sentence = "alpaca/faq_2023.csv lowers the score of other rows by 1.9 points (0.4 to 3.3): mend it or leave it out."
    now = made(root, "recommendation")
    assert now.summary["reasons"] == [*before.summary["reasons"], sentence]
    assert now.summary["verdict"] == before.summary["verdict"]
    text = (made(root, "report").path / "report.html").read_text(encoding="utf-8")
    assert "What the rows are worth" in text and text.count(sentence) == 2 and 'alt="A line per group' in text
