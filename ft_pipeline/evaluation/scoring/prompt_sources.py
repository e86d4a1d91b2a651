"""What the examples and passages of prompts are taken from: the same for scoring and for serving."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.items import read_rows
from ft_pipeline.evaluation.scoring.prompts import Prompt
from ft_pipeline.job import Job
from ft_pipeline.models.chat import single_turn_rows
from ft_pipeline.settings.prompt_variant import RETRIEVED
from ft_pipeline.tables.excluded_rows import MARKER_START
from ft_pipeline.tables.formats.arrow_schema import read_columns
from ft_pipeline.tables.held_out import read_held_out

CONVERSATIONS, TEXT, EXAMPLES = "conversations", "text", "examples"
"""Artifacts: the rows that are scored, and examples of their train split; the source of passages; and, for a champion
whose examples come from earlier rows, these."""


def read_prompts(job: Job, variants: Mapping[str, Mapping[str, Any]]) -> dict[str, Prompt]:
    """Return the prompts of variants by name. Raises UserError as Prompt.from_variant does."""
    if not variants:
        return {}
    rows, (texts, left_out) = example_rows(job.inputs), shown_texts(job.inputs)
    if left_out:
        job.report.log(f"{left_out} of {len(texts) + left_out} texts show a held-out row and are left out")
    seed = job.config["evaluation"]["seed"]
    return {name: Prompt.from_variant(variant, rows, seed, texts) for name, variant in variants.items()}


def possible_variants(
    job: Job, variants: Mapping[str, dict[str, Any]], rows: Sequence[dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return variants by name, without the one that nobody asked for if the train split has too few examples for it."""
    found = len(single_turn_rows(rows, 0, seed=0))
    if RETRIEVED not in variants or variants[RETRIEVED]["few_shot"] <= found:
        return dict(variants)
    job.report.log(f"{RETRIEVED} is left out: the train split has {found} single-turn rows")
    return {name: variant for name, variant in variants.items() if name != RETRIEVED}


def read_prompt(sources: Mapping[str, Path], variant: Mapping[str, Any], seed: int) -> Prompt:
    """Return the prompt of one variant. sources: folders of the artifacts above, as far as they are needed."""
    return Prompt.from_variant(variant, example_rows(sources), seed, shown_texts(sources)[0])


def example_rows(sources: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return the rows that examples are taken from, without erased ones.

    Of earlier rows, those that show a row which is held out now are left out.
    """
    rows = [row for row in read_rows(sources.get(EXAMPLES, sources[CONVERSATIONS])) if not _is_erased(row)]
    if EXAMPLES not in sources:
        return rows
    rows = [row for row in rows if row["split"] == "train"]
    shown = read_held_out(sources[CONVERSATIONS]).in_conversations([row["messages"] for row in rows])
    return [row for row, name in zip(rows, shown, strict=True) if name is None]


def shown_texts(sources: Mapping[str, Path]) -> tuple[list[str], int]:
    """Return the texts that passages are taken from, without erased ones, and the number of texts that are left out.

    A text that shows a held-out row is left out as a whole: a row may lie across two passages.
    """
    if TEXT not in sources:
        return [], 0
    rows = read_columns(sources[TEXT] / "rows.parquet", ["id", "text"]).to_pylist()
    texts = [row["text"] for row in rows if not _is_erased(row)]
    shown = _not_held_out(texts, sources[CONVERSATIONS])
    return shown, len(texts) - len(shown)


def _not_held_out(texts: Sequence[str], conversations: Path) -> list[str]:
    found = read_held_out(conversations).in_texts(texts)
    return [text for text, name in zip(texts, found, strict=True) if name is None]


def _is_erased(row: Mapping[str, Any]) -> bool:
    return str(row.get("id")).startswith(MARKER_START)
