"""Of a tuned model that does not lead on the validation rows, nobody reads scores, answers or slices of the test."""

import html
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.decide import documents
from ft_pipeline.decide.build import build_comparison
from ft_pipeline.decide.claim import Claim, ScreenFacts, SliceLeadFacts
from ft_pipeline.decide.documents import comparison_of, whole_comparison
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.errors import UserError
from ft_pipeline.execution.metadata import clean_metadata, metadata_of_page
from ft_pipeline.ratings.pairs import open_match
from ft_pipeline.release.card.model_card import render_card
from ft_pipeline.release.card.model_lineage import card_facts
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.steps import comparison as comparison_step
from ft_pipeline.steps import decision as decision_step
from ft_pipeline.steps import scores as scores_step
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.evaluation.scored import losses, scored
from ft_pipeline_tests.golden import shop as golden_shop
from ft_pipeline_tests.golden import worlds
from ft_pipeline_tests.golden.told import tell
from ft_pipeline_tests.release.trained import Trained

OUT = ("lora/merged", "lora/adapter")
SCORE = {"value": 7.3133, "low": 7.2122, "high": 7.4144}
LEAD = {"value": 0.6266, "low": 0.5255, "high": 0.7277}
NEEDLES = ("7.31", "7.21", "7.41", "0.627", "0.6266", "0.526", "0.728", "SECRET")
"""What a score, a lead or an answer of these models looks like on a page."""
DECIDES = {
    *("decide/documents.py", "steps/recommendation.py", "cli/exposures.py"),
    *("release/candidates.py", "release/case.py", "release/looks.py"),
}
"""Modules that read what is not shown."""


def compared(shop: Trained, is_screened: bool) -> Artifact:
    """The comparison again, with other results of two models."""
    before = shop.store.all("comparison")[0]
    document = before.document("comparison.json")
    for row in document["rows"]:
        if row["name"] in OUT:
            row["scores"] = dict.fromkeys(row["scores"], SCORE)
    leads = ("lead", "share", "slice_lead")
    for claim in document["claims"]:
        if claim["kind"] in leads and {claim["row"], claim.get("rival")} & {*OUT} and "value" in claim:
            claim |= LEAD
    document["claims"] += [claim.to_json() for claim in _claims(is_screened)]
    document["slices"] = [{"name": "late", "kind": "rule", "about": "that are late", "conversations": 25}]
    document["seeds"] = [
        {"row": name, "experiment": "lora", "trainings": 2, "scores": {"loss": _spread()}} for name in OUT
    ]
    points = [{"experiment": "lora", "share": share, "rows": 9, "scores": {"loss": SCORE}} for share in (0.5, 1.0)]
    step = {"metric": "loss", "difference": LEAD["value"], "low": LEAD["low"], "high": LEAD["high"]}
    document["learning_curves"] = [{"row": OUT[0], "experiment": "lora", "points": points, "last_step": step}]

    def write(out: Path) -> None:
        (out / "comparison.json").write_text(json.dumps(document), encoding="utf-8")
        (out / "comparison.md").write_text(comparison_markdown(comparison_of(document)), encoding="utf-8")
        samples = pq.read_table(before.path / "samples.parquet").to_pylist()
        for number, sample in enumerate(samples):
            if sample["name"] in OUT:
                sample["answer"] = f"SECRET {number}"
        pq.write_table(pa.Table.from_pylist(samples), out / "samples.parquet")

    inputs = {name: shop.store.require(*reference) for name, reference in before.inputs.items()}
    made = shop.put("comparison", inputs, write, {"left_out": []}, {**before.spec["config"], "screened": is_screened})
    AssetPointers(shop.store.root).write("comparison", None, made)
    return made


def _spread() -> dict[str, Any]:
    return {"mean": SCORE["value"], "min": SCORE["low"], "max": SCORE["high"], "values": [SCORE["low"], SCORE["high"]]}


def _claims(is_screened: bool) -> Iterator[Claim]:
    for row in OUT:
        known = {"row": row, "rival": "few_shot"}
        if is_screened:
            screen = {**known, "scope": "validation", "value": -0.1, "count": 40, "verdict": "refuted"}
            yield Claim(kind="screen", **screen, facts=ScreenFacts(error=0.02))
        in_slice = {**known, **LEAD, "measure": "loss", "scope": "late", "count": 25, "verdict": "shown"}
        yield Claim(kind="slice_lead", **in_slice, facts=SliceLeadFacts(deviation=1.0, unseen=0.5))


def shown(shop: Trained, is_screened: bool) -> dict[str, str]:
    """All that people read about the comparison."""
    made = compared(shop, is_screened)
    report = shop.decide()
    decided, recommended = (shop.store.all(kind)[-1] for kind in ("decision", "recommendation"))
    document = decided.document("decision.json")
    summary = {**document, "reasons": document["decision"]["reasons"]}
    page = SimpleNamespace(summary=summary, document=lambda _: document)
    facts = card_facts(shop.store, find_model(shop.store, "lora"), made, task="", teacher_terms="", decided=document)
    texts = {
        "report": html.unescape((report.path / "report.html").read_text(encoding="utf-8")),
        "card": render_card(facts),
        "comparison.md": (made.path / "comparison.md").read_text(encoding="utf-8"),
        "page of comparison": repr(clean_metadata(metadata_of_page(comparison_step.page(made)))),
        "page of decision": repr(clean_metadata(metadata_of_page(decision_step.page(page)))),  # type: ignore[arg-type]
        "recommendation": json.dumps(recommended.document("recommendation.json")),
        "by hand": json.dumps(document["by_hand"]),
    }
    for command in (["compare"], ["compare", "--json"], ["compare", "--on", "validation"]):
        result = CliRunner().invoke(app, [*command, "--project", str(shop.root)])
        assert result.exit_code == 0, result.output
        texts[" ".join(command)] = result.stdout
    return texts


@pytest.fixture(scope="module")
def hidden(probed: Trained) -> dict[str, str]:
    return shown(probed, is_screened=True)


def test_nothing_that_is_read_has_a_test_result_of_a_model_that_was_screened_out(hidden: dict[str, str]) -> None:
    found = {name: [needle for needle in NEEDLES if needle in _without_pictures(text)] for name, text in hidden.items()}
    assert found == {name: [] for name in hidden}
    assert "lora/merged trails few_shot on the 40 validation conversations" in hidden["compare"]


def _without_pictures(text: str) -> str:
    """A text without what is encoded in it, which may have any digits."""
    return " ".join(part for part in text.split('"') if not part.startswith("data:image"))


def test_the_same_results_are_read_of_a_model_that_was_not_screened(probed: Trained, hidden: dict[str, str]) -> None:
    """Were they not, the test above could not fail."""
    found = {name: sum(needle in text for needle in NEEDLES) for name, text in shown(probed, is_screened=False).items()}
    without = {name for name, count in found.items() if not count}
    assert without <= {"compare --on validation", "page of decision", "recommendation"}
    assert found["report"] >= 3


def test_decisions_read_what_nobody_sees(probed: Trained) -> None:
    made = compared(probed, is_screened=True)
    row = whole_comparison(made).row("lora/merged")
    assert row is not None and row.scores["loss"].value == SCORE["value"]
    shown_row = documents.read_comparison(made).row("lora/merged")
    assert shown_row is not None and shown_row.scores == {} and shown_row.seconds_per_call == row.seconds_per_call


def test_only_what_decides_reads_what_is_not_shown() -> None:
    root = Path(documents.__file__).parents[1]
    readers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if "whole_comparison" in path.read_text(encoding="utf-8")
    }
    assert readers == DECIDES


def test_nobody_rates_its_answers(probed: Trained) -> None:
    compared(probed, is_screened=True)
    with pytest.raises(UserError, match="lora/merged does not lead on the validation rows"):
        open_match(probed.store.root, "few_shot", "lora/merged")


def test_a_world_tells_no_lead_of_a_model_that_was_screened_out() -> None:
    """A lead of style/merged over base on the test rows is 0.399, its score 1.105."""
    told = tell(worlds.make("behind_on_the_validation_rows"))
    claims, read = told.split("===== decision =====")
    assert "lead style/merged base nats_per_byte: 0.399265" in claims and "nats_per_byte: 1.10549" in claims
    assert [number for number in ("0.399", "26.5", "1.105", "0.300", "19.9", "1.205") if number in read] == []


def test_the_file_for_readers_is_written_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """comparison.md, and a GGUF file is its merged model."""
    made = golden_shop.Shop()
    worlds.MADE["behind_on_the_validation_rows"](made)
    made.inputs["style/gguf_scores"] = {"q4_k_m": made.row("gguf", 0.39, "gguf")}

    def compare(inputs: Any, config: Any, *others: Any) -> Any:
        out = tmp_path / "out"
        out.mkdir()
        build_comparison(inputs, config, out, *others)
        raise StopIteration

    monkeypatch.setattr(golden_shop, "compare", compare)
    with pytest.raises(StopIteration):
        made.build("world", "", tmp_path / "world")
    document = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    scores = {row["name"]: row["scores"] for row in document["rows"]}
    assert scores["style/merged"] and scores["style/q4_k_m"]
    of_rows = {row.name: row.scores for row in comparison_of(document).rows}
    assert of_rows["style/merged"] == of_rows["style/q4_k_m"] == {} and of_rows["screened/merged"]
    markdown = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    hidden = [scores[name]["nats_per_byte"]["value"] for name in ("style/merged", "style/q4_k_m", "other/merged")]
    assert [value for value in hidden if f"{value:.3f}" in markdown] == []
    assert f"{scores['screened/merged']['nats_per_byte']['value']:.3f}" in markdown


@pytest.mark.parametrize("conversations", [40, 5])
def test_the_page_of_scores_has_test_scores_only_of_what_nothing_screens(
    tmp_path: Path, conversations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores_step, "_highest_loss", lambda _: {"highest_loss": "SECRET"})
    folder = scored(tmp_path / "scores", {"merged": {"kind": "merged", "losses": losses(1.0)}})
    known = {"name": "merged", "content_nats": 20.0, "content_bytes": 40}
    records = [{**known, "item": f"{number}:1", "group": str(number)} for number in range(conversations)]
    pq.write_table(pa.Table.from_pylist(records), folder / "validation.parquet")
    row = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["rows"][0]
    summary = {"rows": [{**row, "scores": {"loss": SCORE}}]}
    artifact: Any = SimpleNamespace(path=folder, summary=summary, inputs={}, spec={"config": {}})
    page = repr(clean_metadata(metadata_of_page(scores_step.page(artifact))))
    is_shown = conversations < 30
    assert ("7.3133" in page) == ("SECRET" in page) == is_shown
    assert ("nats_per_byte_of_validation" in page) != is_shown
