"""The report: one self-contained file that agrees with the store and shows users' text as text."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ft_pipeline.cli import app
from ft_pipeline.decide.claim import KeptFacts
from ft_pipeline.decide.documents import read_comparison
from ft_pipeline.decide.sentences import say
from ft_pipeline.evaluation.comparison.slice_members import slices_of_test_conversations
from ft_pipeline.evaluation.error_analysis.trained_rows import trained_answers
from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline.release.report.answers import MAX_ITEMS, escape_invisible, side_by_side
from ft_pipeline.release.report.errors import explain_worse_answers
from ft_pipeline.store.artifacts import Artifact
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline_tests.end_to_end.ui import browsing, chromium
from ft_pipeline_tests.fixtures.make_present import PROBES
from ft_pipeline_tests.release.trained import ITEMS, TALKS, Trained

VOID = {"meta", "img", "br", "input"}


class Page(HTMLParser):
    """What a browser would see: the tags, properly nested, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.cells: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in {"td", "th"}:
            self.cells.append(data)

    def of_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


@pytest.fixture(scope="module")
def shop(probed: Trained) -> Trained:
    """A project with two trained models and a comparison."""
    return probed


@pytest.fixture(scope="module")
def made(shop: Trained) -> Artifact:
    return shop.decide()


@pytest.fixture(scope="module")
def page(made: Artifact) -> Page:
    return Page((made.path / "report.html").read_text(encoding="utf-8"))


def samples(shop: Trained) -> list[dict[str, Any]]:
    return pq.read_table(shop.store.all("comparison")[-1].path / "samples.parquet").to_pylist()


def test_the_report_shows_scores_recommendation_and_champion(shop: Trained, page: Page) -> None:
    document = shop.store.all("comparison")[-1].document("comparison.json")
    for row in document["rows"]:
        loss = row["scores"]["loss"]
        assert row["name"] in page.text
        assert f"{loss['value']:.3f}{loss['low']:.3f} to {loss['high']:.3f}" in page.text
    recommendation = shop.store.all("recommendation")[-1].summary
    assert all(reason in page.text for reason in recommendation["reasons"])
    assert "Released: lora/merged since" in page.text
    assert " (forced): it <i>leads</i>" in page.text
    assert page.of_class("released") == 1
    assert "the base model without training, with 2 fixed examples" in page.text


def test_the_report_shows_what_probes_say_and_answers_that_changed(shop: Trained, page: Page) -> None:
    comparison = read_comparison(shop.store.all("comparison")[-1])
    checks = {claim.row: claim for claim in comparison.of_kind("probes")}
    assert set(checks) == {row.name for row in comparison.rows if row.kind in TUNED}
    assert all(f"{name}: {say(comparison, check)}." in page.text for name, check in checks.items())
    [first, *_] = [row.name for row in comparison.rows if row.name in checks]
    changed = checks[first].told(KeptFacts).lost + checks[first].told(KeptFacts).won
    titles = page.text.count("comply: lost") + page.text.count("comply: won")
    assert titles == min(changed, 3) and changed > 0
    records = pq.read_table(shop.store.all("scores")[-1].path / "probes.parquet").to_pylist()
    assert {record["query"] for record in records} == {probe["query"] for probe in PROBES}
    assert page.text.count("Where is <b>it</b>?") <= 1  # as text


def test_a_lead_that_may_be_chance_is_marked(shop: Trained, page: Page) -> None:
    document = shop.store.all("comparison")[-1].document("comparison.json")
    leads = [claim for claim in document["claims"] if (claim["kind"], claim.get("measure")) == ("lead", "loss")]
    lows = [lead["low"] for lead in leads if "low" in lead]
    chance = sum(low <= 0 for low in lows)
    assert 0 < chance <= len(lows)  # of so few conversations, hardly a lead is clear
    assert page.cells.count("may be chance") == chance
    assert page.cells.count("clear") == len(lows) - chance


def test_the_report_shows_the_slices(shop: Trained, page: Page) -> None:
    assert "The slice late has 2 conversations, and 20 are needed to compare it." in page.text
    position = page.cells.index("late")
    assert page.cells[position + 1] == "2"
    assert "conversations whose question matches is late" in page.cells[position:]
    names = slices_of_test_conversations(shop.store, shop.store.all("comparison")[-1])
    assert Counter(name for of_one in names.values() for name in of_one)["late"] == 2


def test_the_report_shows_the_cost_of_training(page: Page) -> None:
    assert "lora/merged reads " in page.text
    assert "its training took 1 min 30 s. By time it is " in page.text
    assert page.cells.count("1 min 30 s") == 2  # the adapter's row, and the merged model's


def test_the_report_shows_the_cost_of_4_bit_quantization(page: Page) -> None:
    position = page.cells.index("base_4bit")
    assert page.cells[position - 2 : position + 5] == [
        "lora",
        "base",
        "base_4bit",
        "0.3100",
        "3.0000",
        "3.2000",
        "+0.2000",
    ]


def test_every_answer_is_shown_with_its_question_and_reference(shop: Trained, page: Page) -> None:
    for question, *_ in TALKS["test"]:
        assert escape_invisible(question) in page.text
    for sample in samples(shop):
        assert escape_invisible(sample["answer"]) in page.text
        assert escape_invisible(sample["reference"]) in page.text
    assert page.of_class("item") == ITEMS
    changes = [page.of_class(change) for change in ("improved", "regressed", "same")]
    assert sum(changes) == ITEMS
    summary = f"{changes[0]} answers improved, {changes[2]} were unchanged, {changes[1]} regressed"
    assert summary in " ".join(page.text.split())


def test_the_answers_that_got_worse_are_explained(shop: Trained, made: Artifact, page: Page) -> None:
    comparison = read_comparison(shop.store.all("comparison")[-1])
    assert comparison.changes is not None
    by_name = {row.name: [] for row in comparison.rows}
    for sample in sorted(samples(shop), key=lambda sample: sample["item"]):
        by_name[sample["name"]].append(sample)
    found = explain_worse_answers(shop.store, shop.store.all("comparison")[-1], comparison, by_name, {})
    assert found is not None
    assert found.worse == comparison.changes.regressed > 0
    assert len(found.worst) == found.worse
    assert [answer.gain for answer in found.worst] == sorted(answer.gain for answer in found.worst)
    assert sum(count.after for count in found.faults) >= ITEMS
    assert page.of_class("first") >= found.worse
    for answer in found.worst:
        assert answer.like_question is not None
        assert answer.like_question.origin in page.text
        assert all(fault in page.text for fault in answer.faults)


def test_the_rows_of_an_adapter_are_those_of_the_train_split(shop: Trained) -> None:
    found = trained_answers(shop.store, shop.inputs["lora"]["adapter"])
    assert [(row.origin, row.question) for row in sorted(found, key=lambda row: row.origin)] == [
        ("alpaca/a.jsonl:1", "Where is my parcel?"),
        ("alpaca/a.jsonl:2", "Can I return the shoes?"),
    ]


def test_the_report_needs_no_other_file_and_runs_no_script(page: Page) -> None:
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link", "form", "svg"})
    for tag, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/png;base64,")
            assert attributes["alt"]
    policy = next(attributes["content"] for tag, attributes in page.tags if "http-equiv" in attributes)
    assert "default-src 'none'" in (policy or "")
    assert "<script>alert('x')</script> & \\u202eright?" in page.text
    assert "<img src=x onerror=alert(1)> {{ 7 * 7 }}" in page.text


def test_invisible_characters_are_written_out() -> None:
    assert escape_invisible("a\x1b[31m\u202eb\nc\t\x00") == "a\\x1b[31m\\u202eb\nc\t\\x00"
    assert escape_invisible(1.5) == 1.5


def test_an_erased_conversation_shows_only_the_rendered_prompt() -> None:
    shown = side_by_side({"base": [a_sample(0)]}, {}, ("loss", METRICS["loss"]), None)
    assert shown[0]["turns"] == [{"role": "prompt", "text": "the rendered prompt"}]


def test_the_largest_changes_of_many_items_are_kept() -> None:
    count = MAX_ITEMS + 50
    gained = [0.0] * count
    gained[count - 1], gained[count - 2] = 3.0, -2.0
    rows = {"base": [a_sample(number) for number in range(count)]}
    shown = side_by_side(rows, {}, ("loss", METRICS["loss"]), gained)
    assert len(shown) == MAX_ITEMS
    assert [item["gain"] for item in shown[-2:]] == ["regressed by 2.00", "improved by 3.00"]
    assert shown[0]["gain"] == "unchanged"


def a_sample(number: int) -> dict[str, Any]:
    return {
        "item": f"{number:04}:1",
        "prompt": "the rendered prompt",
        "reference": "yes",
        "answer": "no",
        "loss_sum": None,
        "answer_tokens": 1,
        "finish_reason": "stop",
    }


def run(shop: Trained, *arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["report", "--project", str(shop.root), *arguments])
    return done.exit_code, done.stdout or str(done.exception)


def test_ft_report_prints_its_path_and_copies_it(shop: Trained, made: Artifact, tmp_path: Path) -> None:
    code, output = run(shop, "--json")
    assert (code, json.loads(output)["path"]) == (0, str(made.path / "report.html"))
    copy = tmp_path / "to" / "comparison.html"
    assert run(shop, str(copy))[0] == 0
    assert copy.read_bytes() == (made.path / "report.html").read_bytes()
    code, output = run(shop, str(copy))
    assert code != 0
    assert "already exists" in output


def test_an_outdated_report_is_refused(tmp_path: Path) -> None:
    shop = Trained(tmp_path / "shop")
    assert "There is no report yet" in run(shop)[1]
    first, second = (shop.put("comparison", {}, lambda out, n=n: write(out, n)) for n in ("first", "second"))
    report = shop.put("report", {"comparison": first}, lambda out: write(out, "page"))
    AssetPointers(shop.store.root).write("report", None, report)
    AssetPointers(shop.store.root).write("comparison", None, second)
    assert "The report is older than the current comparison. Run `ft run` to update it." in run(shop)[1]


def write(out: Path, content: str) -> None:
    (out / "note.txt").write_text(content, encoding="utf-8")


@pytest.mark.long
@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs Chromium: apt-get install chromium")
def test_a_browser_opens_the_report_and_filters_its_answers(page: Page, made: Artifact) -> None:
    requested_urls, console_messages = [], []
    with browsing() as browser:
        tab = browser.new_page()
        tab.on("request", lambda request: requested_urls.append(request.url))
        tab.on("console", lambda message: console_messages.append(message.text))
        tab.goto((made.path / "report.html").as_uri())
        assert tab.locator(".item:visible").count() == ITEMS
        for change in ("regressed", "improved", "same"):
            tab.check(f"#show-{change}")
            assert tab.locator(".item:visible").count() == page.of_class(change)
        widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert all(widths) and len(widths) == 2, "each picture is in the file; a width of 0 is one that does not load"
    assert len([url for url in requested_urls if not url.startswith("data:")]) == 1
    assert console_messages == []
