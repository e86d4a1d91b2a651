"""Every relative link in Markdown leads to a file, and every anchor to a heading, as GitHub makes them."""

import re
from functools import cache
from pathlib import Path

import pytest

from ft_pipeline.evaluation.metrics.definitions import METRICS
from ft_pipeline_tests.test_docs import DOCS, PAGES, ROOT

FENCE = re.compile(r"^ *(```+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)")
LIST_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*?) *$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found.add(next(name for name in (slug, *(f"{slug}-{number}" for number in range(1, 99))) if name not in found))
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=str)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in LINK.findall(prose(page)):
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{page.name}: there is no {path}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {target.name} has no heading #{anchor}"


def misread_lines(text: str) -> list[str]:
    """The lines that the site reads in another way than GitHub does.

    GitHub also reads lists right after a paragraph, and what is indented by less than four spaces in a list."""
    found, before, fence = [], "", None
    for line in text.splitlines():
        words = line.lstrip()
        indent = len(line) - len(words)
        if fence is None and words:
            starts_block = not before.strip() or words.startswith("```")
            if 0 < indent < 4 and starts_block:
                found.append(f"indent by four spaces: {line!r}")
            if words.startswith("<!-- value:"):
                found.append(f"a number of a result must not begin its line: {line!r}")
            if LIST_ITEM.match(line) and before.strip() and not before.startswith(" ") and not LIST_ITEM.match(before):
                found.append(f"an empty line is missing before {line!r}")
        if mark := re.match(r"```+", words):
            fence = mark[0] if fence is None else None if fence == mark[0] else fence
        before = line
    return found


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_lists_and_blocks_are_written_as_the_site_reads_them(page: Path) -> None:
    assert misread_lines(page.read_text(encoding="utf-8")) == []


def glossary() -> list[str]:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    return [term.lower() for entry in re.findall(r"^\*\*(.+?)\*\*: ", text, re.MULTILINE) for term in entry.split(", ")]


TERMS = re.compile(
    r"\b("
    r"adapter|alpaca|artifact|asset|base model|baseline|break-even|champion|chat template|checkpoint|chrf|"
    r"contender|conversation|dagster|distillation|duplicate|embedded model|endpoint|epoch|experiment|few-shot|"
    r"fine-tuning|fingerprint|gguf|held-out|hub|inbox|interval|judge|kl|lead|lease|lineage|lm-eval|lora|loss|"
    r"manifest|materialize|merged model|model card|modelfile|nats|nf4|objective|paired|partition|pool|"
    r"preference pair|probe|prompt|prompt tuning|prompt variant|provenance|qlora|quantization|quarantine|rail|"
    r"reason code|recommendation|reference|report|reward|rouge-l|row|sharegpt|sidecar|signature|slice|snapshot|"
    r"split|stale|store|sweep|system prompt|table|teacher|technique|test rows|thumb|token|tool call|trace|"
    r"verdict|worker"
    r")s?\b"
)


def test_terms_of_the_readme_are_in_the_glossary() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8").lower()
    used = set(TERMS.findall(readme))
    assert len(used) > 10
    assert sorted(used - set(glossary())) == []


def test_objectives_and_techniques_are_in_the_glossary() -> None:
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    from ft_pipeline.settings.experiment import ExperimentSettings

    fields = ExperimentSettings.model_fields
    for key in ("objective", "technique"):
        for name in re.findall(r"'(\w+)'", str(fields[key].annotation)):
            assert f"**{name}**" in text or f"`{name}`" in text, f"the glossary lacks {name}"
    assert "nats_per_byte" in METRICS and "nats per byte" in glossary()


def test_the_glossary_is_sorted_and_has_each_term_once() -> None:
    terms = glossary()
    assert terms == sorted(terms)
    assert len(terms) == len(set(terms))
