"""What people read about a world, as one text: claims, decision, recommendation, terminal, pages, report and card."""

import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import dagster as dg
from jinja2 import Environment, FileSystemLoader, Template
from rich.console import Console

from ft_pipeline.cli.display_comparison import show_comparison
from ft_pipeline.decide.claim import Claim, RailFacts
from ft_pipeline.decide.desk import Decided, Desk
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.screened_out import as_shown
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.execution.metadata import clean_metadata, metadata_of_page
from ft_pipeline.page import Page
from ft_pipeline.release.card.model_card import LIMITATIONS, CardFacts, render_card
from ft_pipeline.release.recorded_decision import exposure_facts
from ft_pipeline.release.report import report
from ft_pipeline.release.report.answers import escape_invisible
from ft_pipeline.steps import comparison as comparison_step
from ft_pipeline.steps import decision as decision_step
from ft_pipeline.steps import recommendation as recommendation_step
from ft_pipeline_tests.decide.rules import decide, desk_of, document_of, verdict
from ft_pipeline_tests.golden.shop import SINCE, World

PICTURES = ("score_picture", "learning_curve_picture", "slice_picture", "confusion_picture")
WIDTH = 160
HIDDEN = ("evaluation", "fingerprint", "metrics", "changes", "rows")
"""Keys of comparison.json that are not told, or in another form."""
COSTS = ("prompt_tokens_per_call", "generated_tokens_per_call", "seconds_per_call", "trainable_params")
HIDDEN_OF_ROWS = ("fingerprint", "tokens", "scores", "source", "source_row", "general", *COSTS)
TOLD_OF_THE_CARD = ("", "At a glance", "Limitations")
"""Sections of the card that a comparison changes, but for its table of scores."""
AGAIN = ("leads", "all_rows", "all_tests", "evidence", "more_reasons")
"""Entries of the pages that are a picture, or whose values are told elsewhere."""
Document = dict[str, Any]


def decided(world: World) -> Document:
    """Return decision.json, as `decision_document` makes it from a store."""
    comparison, exposure = world.comparison, world.exposure
    decision = decide(comparison, world.candidates, world.settings, world.champion, world.rejected, exposure)
    said = verdict(comparison, decision, world.champion_row, world.champion is not None)
    return {
        **document_of(decision, said, world.champion_row),
        "exposure": exposure_facts(exposure, decision.tests, world.settings) | {"entry": 1},
        "looks": dict(world.looks),
        "matrix": {name: [cell.model_dump() for cell in cells] for name, cells in decision.matrix.items()},
    }


def desk(world: World, document: Document) -> Desk:
    """Return what the rules of the recommendation ask. document: decision.json."""
    least = world.settings.min_test_rows
    return desk_of(world.comparison, world.experiments, least, Decided.of(document), world.at_hand)


def recommended(world: World, document: Document) -> Document:
    """Return recommendation.json."""
    return {"verdict": document["verdict"]["sentence"], **recommend(desk(world, document))}


def tell(world: World) -> str:
    """Return the text of a world."""
    document = decided(world)
    advice = recommended(world, document)
    sections = {
        "claims": _claims(world),
        "decision": _decision(document),
        "recommendation": _recommendation(advice),
        "ft compare": _terminal(world),
        **_pages(world, document, advice),
        "first screen of the report": _first_screen(world, document, advice),
        "model card": _card(world, document),
    }
    told = [f"{world.name}: {world.about}\n", *(f"===== {name} =====\n{text}\n" for name, text in sections.items())]
    return "\n".join(re.sub("[ \t]+$", "", text, flags=re.MULTILINE) for text in told)


# --- numbers and records ----------------------------------------------------------------------------------------------


def _rounded(value: Any) -> Any:
    """Return a value with six digits, and a p-value with three: processors differ in the last ones."""
    if isinstance(value, float):
        return 0.0 if abs(value) < 1e-9 else float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {
            key: f"{item:.3g}" if key == "p" and isinstance(item, float) else _rounded(item)
            for key, item in value.items()
        }
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _line(record: Any) -> str:
    """Return a record in a line, without what is unknown or empty."""
    if not isinstance(record, Mapping):
        return _plain(record)
    known = {key: value for key, value in _rounded(record).items() if value not in (None, [], {}, "")}
    return ", ".join(f"{key}: {_plain(value)}" for key, value in known.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(_rounded(value), ensure_ascii=False)


def _lines(values: Mapping[str, Any]) -> list[str]:
    """Return a line per value, and one per entry of a list."""
    lines = []
    for key, value in _rounded(values).items():
        if isinstance(value, list | tuple) and value:
            lines += [f"{key}:", *(f"  - {_line(entry)}" for entry in value)]
        elif value not in (None, [], {}, ""):
            lines.append(f"{key}: {_line(value)}")
    return lines


def _claims(world: World) -> str:
    document = world.comparison.to_json()
    lines = []
    for row in document["rows"]:
        lines.append(_line({key: value for key, value in row.items() if value and key not in HIDDEN_OF_ROWS}))
        lines += [f"  {metric}: {_interval(score)}" for metric, score in row["scores"].items()]
    changes = document["changes"] or {}
    told = {key: value for key, value in document.items() if key not in HIDDEN}
    told["claims"] = [_claim(claim) for claim in world.comparison.claims if _is_told(claim)]
    told |= {"changes": {key: value for key, value in changes.items() if not isinstance(value, list)}}
    return "\n".join([*lines, *_lines(told)])


def _is_told(claim: Claim) -> bool:
    """Return whether a claim says more than that none of the answers has a fault."""
    return claim.kind != "rail" or claim.verdict != "shown" or claim.told(RailFacts).faults > 0


def _claim(claim: Claim) -> str:
    """Return a claim in a line: what it is about, its value with the interval, and the rest."""
    document = claim.to_json()
    about = " ".join(str(document.pop(key)) for key in ("kind", "row", "rival", "measure", "scope") if key in document)
    ends = [_plain(document.pop(key, None)) for key in ("value", "low", "high")]
    return f"{about}: {ends[0]} [{ends[1]}, {ends[2]}], {_line(document)}"


def _interval(score: Mapping[str, Any]) -> str:
    return f"{_plain(score['value'])} [{_plain(score['low'])}, {_plain(score['high'])}]"


def _decision(document: Document) -> str:
    made = document["decision"]
    tests = [{key: value for key, value in test.items() if key not in ("key", "fingerprint")} for test in made["tests"]]
    lines = _lines({"verdict": document["verdict"], "champion_row": document["champion_row"]})
    lines += _lines({**{key: made[key] for key in ("move", "name", "reasons")}, "tests": tests})
    lines += [f"failed by {name}: {'; '.join(failed) or 'nothing'}" for name, failed in made["failed"].items()]
    lines += [
        f"requirement of {name}: {cell['requirement']} | {cell['outcome']} | {cell['sentence']}"
        for name, cells in document["matrix"].items()
        for cell in cells
        if cell["outcome"] != "holds" or cell["requirement"] != "answers without faults"
    ]
    lines += [f"evidence {line}" for line in _lines(made["evidence"])]
    return "\n".join([*lines, *_lines({key: document[key] for key in ("exposure", "looks")})])


def _recommendation(advice: Document) -> str:
    lines = _lines({key: advice[key] for key in ("decision", "experiment", "row", "reasons")})
    return "\n".join([*lines, *(f"evidence {line}" for line in _lines(advice["evidence"]))])


# --- terminal, pages --------------------------------------------------------------------------------------------------


def _terminal(world: World) -> str:
    console = Console(file=io.StringIO(), record=True, width=WIDTH)
    show_comparison(console, as_shown(world.comparison))
    return console.export_text()


@contextmanager
def _without_pictures() -> Iterator[None]:
    with ExitStack() as stack:
        for name in PICTURES:
            stack.enter_context(patch.object(comparison_step, name, lambda *_: None))
        stack.enter_context(patch.object(comparison_step, "Image", lambda *_: None))
        yield


def _pages(world: World, document: Document, advice: Document) -> dict[str, str]:
    """Return the pages of the three assets in the UI as Markdown."""
    compared = {"left_out": [row.model_dump() for row in world.comparison.left_out]}
    summary = {**{key: document[key] for key in ("verdict", "exposure")}, "reasons": document["decision"]["reasons"]}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "comparison.md").write_text(comparison_markdown(as_shown(world.comparison)), encoding="utf-8")
        with _without_pictures():
            of_comparison = comparison_step.page(_artifact(world.comparison.to_json(), compared, folder))
    return {
        "page of comparison": _page(of_comparison),
        "page of decision": _page(decision_step.page(_artifact(document, summary))),
        "page of recommendation": _page(recommendation_step.page(_artifact(advice, advice))),
    }


def _artifact(document: Document, summary: Document, folder: str = ".") -> Any:
    """Return what stands for an artifact with one document."""
    return SimpleNamespace(path=Path(folder), summary=summary, document=lambda _: document, inputs={})


def _page(page: Page) -> str:
    """Return the entries of a page without those behind a click that only tell a table again."""
    cleaned = {key: value for key, value in clean_metadata(metadata_of_page(page)).items() if key not in AGAIN}
    shown = [(key, re.sub(" {4,}", " ", _entry(value))) for key, value in cleaned.items()]
    return "\n".join(f"{key}:{chr(10) if chr(10) in text else ' '}{text}" for key, text in shown)


def _entry(value: Any) -> str:
    if isinstance(value, dg.TableMetadataValue):
        names = [column.name for column in value.schema.columns]
        return "\n" + "\n".join(" | ".join(_plain(record.data[name]) for name in names) for record in value.records)
    if isinstance(value, dg.JsonMetadataValue):
        return _plain(value.data)
    return _plain(getattr(value, "value", value))


# --- report, card -----------------------------------------------------------------------------------------------------


def _first_screen(world: World, document: Document, advice: Document) -> str:
    chosen = document["verdict"]["row"] or advice["row"] or advice["evidence"]["tuned"]
    comparison = as_shown(world.comparison)
    values = report._TemplateValues(SimpleNamespace(), _artifact({}, {}), comparison)  # type: ignore[arg-type]
    prompt = {"system_prompt": "Be brief.", "few_shot": 2}
    known: dict[str, Any] = {row.name: {**prompt, "passages": row.passages} for row in world.comparison.rows}
    values.__dict__ |= {"_prompt_facts": known, "samples": world.samples, "conversations": {}}
    html = _template().render(
        title="shop",
        task="Answer customers.",
        items=world.comparison.test_items,
        conversations=world.comparison.test_rows,
        verdict=document["verdict"],
        champion=_record(world, document),
        **values.first_screen(chosen, document),
        **(values._first_answers(chosen, {}) if world.shows_answers else {"first_answers": []}),
    )
    return _text(html)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(report.__file__).parent),
        autoescape=True,
        trim_blocks=True,
        finalize=escape_invisible,
    )
    source = '{% from "macros.html.jinja" import wide_table, head, before_and_after %}'
    return environment.from_string(source + '{% include "first_screen.html.jinja" %}')


def _text(html: str) -> str:
    """Return the text of HTML, a line per block."""
    text = re.sub(r"\s+", " ", html)
    text = re.sub(r"</(p|li|h\d|tr|caption|section|article|div|dd)>", "\n", text)
    text = re.sub(r"</(th|td|dt)>", " | ", text)
    text = re.sub(r"<[^>]*>", "", text)
    for code, character in (
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#39;", "'"),
        ("&#34;", '"'),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ):
        text = text.replace(code, character)
    return "\n".join(line for line in (re.sub(" +", " ", line).strip() for line in text.split("\n")) if line)


def _record(world: World, document: Document) -> Document | None:
    """Return the champion's record after the decision."""
    made = document["decision"]
    if made["move"]:
        own = world.candidates[made["name"]]
        return {
            "name": own.name,
            "kind": own.kind,
            "fingerprint": own.fingerprint,
            "since": SINCE,
            "reason": made["reasons"][-1],
            "forced": False,
            "evidence": made["evidence"],
        }
    return world.champion.model_dump() if world.champion else None


def _card(world: World, document: Document) -> str:
    """Return the sections of the model card that a comparison changes."""
    record = _record(world, document)
    if record is None:
        return "No champion yet."
    made, name = document["decision"], record["name"]
    row = made["name"] if made["move"] else world.champion_row
    is_about = name == (made["name"] if made["move"] else None) or document["verdict"]["row"] in (name, "champion")
    facts = CardFacts(
        name=name,
        row=row,
        kind=record["kind"],
        task="Answer customers.",
        base_model="small",
        hub_id=None,
        license="apache-2.0",
        row_counts={},
        splits={"test": world.comparison.test_rows},
        comparison=as_shown(world.comparison),
        fingerprints={},
        champion=record,
        decided=document if is_about else {},
    )
    body = render_card(facts).split("\n---\n", 1)[-1].strip()
    parts = re.split("(?m)^## ", body)
    titles = ["", *(part.split("\n", 1)[0] for part in parts[1:])]
    told = [part for title, part in zip(titles, parts, strict=True) if title in TOLD_OF_THE_CARD]
    lines = "\n## ".join(part.strip() for part in told).split("\n")
    return "\n".join(line for line in lines if line.removeprefix("- ") not in LIMITATIONS)
