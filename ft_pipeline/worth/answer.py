"""The answer of `ft worth`, as a document and in sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.rivals.answered_questions import NoRival
from ft_pipeline.page import Cell, Grid, Heading, Section
from ft_pipeline.settings.slices import SliceSettings
from ft_pipeline.worth.cross_validation import Folds
from ft_pipeline.worth.effects import NEXT, Effect, Tell, effects_of, tell_nothing
from ft_pipeline.worth.known_rows import PEOPLE, KnownRow, check, groups_by, read_known_rows, units_of
from ft_pipeline.worth.wrong_labels import Suspect, expected_errors, suspects

LEARNER = "word_model"
SCORES = ("effect", "for_others", "over_others", "of_next")
NAMED = 10
"""Largest number of groups that were not looked at, and that a sentence names."""


def ask(
    conversations: Path, distilled: Path | None, by: str, slices: Mapping[str, SliceSettings], **options: Any
) -> dict[str, Any]:
    """Return the document of the rows of a project.

    conversations, distilled: the folders of these artifacts. slices: `evaluation.slices`. options: of `worth_of`.
    """
    rows, total = read_known_rows(conversations, distilled)
    rules = {name: rule.model_dump(mode="json") for name, rule in slices.items()}
    return worth_of(rows, by, rules, total=total, **options)


def worth_of(
    rows: Sequence[KnownRow],
    by: str,
    rules: Mapping[str, Any],
    *,
    most_groups: int,
    price: float | None = None,
    total: int | None = None,
    seed: int = 0,
    tell: Tell = tell_nothing,
) -> dict[str, Any]:
    """Return the document of `ft worth --json`.

    by, rules: as in `groups_by`. most_groups: the others are named, and not looked at. price: of a row, by
    `costs.label`. total: how many rows there are, if these are a sample of them. tell: as in `effects_of`.
    """
    units = units_of(rows)
    check(rows, units)
    groups, people = groups_by(rows, by, rules), np.array([row.teacher == PEOPLE for row in rows])
    chosen, share = dict(list(groups.items())[:most_groups]), len(rows) / (total or len(rows))
    try:
        folds = Folds.of([row.talk.question for row in rows], [row.label for row in rows], units, seed)
        whole = folds.probabilities()
        found = effects_of(folds, whole, chosen, units, seed=seed, share=share, asked=people, tell=tell)
    except NoRival as reason:
        raise UserError(f"{LEARNER} cannot learn from these rows: {reason}. Check them with `ft inspect`.") from None
    probabilities = whole.mean(axis=0)
    return {
        "learner": LEARNER,
        "by": by,
        "rows": len(rows),
        "of_rows": total or len(rows),
        "units": len(np.unique(units)),
        "accuracy": float((whole.argmax(axis=-1) == folds.labels)[:, people].mean()),
        "groups": [_effect(effect, by, price, int((people & chosen[effect.group]).sum() / share)) for effect in found],
        "left_out": list(groups)[most_groups:],
        "labels": list(folds.names),
        "wrong_labels": {
            **{name: value / share for name, value in asdict(expected_errors(folds, probabilities, units)).items()},
            "rows": [_suspect(suspect, rows, folds) for suspect in suspects(folds, probabilities)],
        },
    }


def _effect(effect: Effect, by: str, price: float | None, paid: int) -> dict[str, Any]:
    """Return a group. paid: the number of its rows that people labeled."""
    cost = price * paid if price is not None and paid else None
    return {
        **asdict(effect),
        "finding": _finding(effect, by),
        "cost": cost,
        "points_per_100": 100 * 100 * effect.effect.value / cost if cost else None,
    }


def _finding(effect: Effect, by: str) -> str | None:
    """Return what is shown of a group: nothing of a label, whose rows are neither left out nor mended. Of a teacher,
    the question is whether its answers help at all."""
    if by == "label":
        return None
    helps = by == "teacher" and effect.for_others is not None and (effect.for_others.low or 0) > 0
    return "helps" if helps else effect.finding


def _suspect(suspect: Suspect, rows: Sequence[KnownRow], folds: Folds) -> dict[str, Any]:
    row = rows[suspect.row]
    return {
        "id": row.talk.id,
        "source": row.source,
        "question": row.talk.question,
        "label": row.label,
        "likely": folds.names[suspect.likely],
        "can_be_asked": row.can_be_asked,
        "probability": suspect.probability,
        "own_probability": suspect.own_probability,
        "nearest": [{"id": rows[other].talk.id, "question": rows[other].talk.question} for other in suspect.nearest],
    }


# --- for people -------------------------------------------------------------------------------------------------------


def sections(document: Mapping[str, Any], most_labels: int) -> list[Section]:
    """Return the groups, what is shown of them, and the labels that are probably wrong. most_labels: how many of
    them."""
    return [_of_groups(document), _of_labels(document, most_labels)]


def _of_groups(document: Mapping[str, Any]) -> Section:
    priced = any(group["cost"] is not None for group in document["groups"])
    titles = dict(zip(SCORES, ("effect", "for other rows", "beyond as many others", f"next {NEXT} rows"), strict=True))
    if document["by"] == "label":
        titles = {name: title for name, title in titles.items() if name in ("effect", "of_next")}
    headings = [
        Heading(f"without {document['by']}", is_number=False),
        Heading("rows"),
        *(Heading(title, is_main=True) for title in titles.values()),
        *([Heading("cost"), Heading("points per 100")] if priced else []),
    ]
    cells = [
        [
            group["group"],
            f"{group['rows']:,}",
            *(_points(group[name]) for name in titles),
            *([_number(group["cost"]), _number(group["points_per_100"])] if priced else []),
        ]
        for group in document["groups"]
    ]
    rows, total = document["rows"], document["of_rows"]
    sample = "" if rows == total else f", a sample of {total:,}"
    title = (
        f"{document['learner']} is right in {100 * document['accuracy']:.1f} % of {rows:,} rows of train and "
        f"validation{sample}. What it loses without a {document['by']}, in points; the intervals of a column hold "
        "together."
    )
    said = list(filter(None, map(say_of, document["groups"])))
    return Section(title, Grid(headings, cells), [*said, *_not_looked_at(document)])


def say_of(group: Mapping[str, Any]) -> str:
    """Return what is shown of a group, and what to do, as a sentence; empty if nothing is."""
    if group["finding"] == "harms":
        points = _as_points({key: -group["for_others"][key] for key in ("value", "high", "low")})
        return f"{group['group']} lowers the score of other rows by {points}: mend it or leave it out."
    if group["finding"] == "helps":
        points = _as_points({key: group["for_others"][key] for key in ("value", "low", "high")})
        return f"{group['group']} raises the score of other rows by {points}."
    if group["finding"] == "needed":
        points = _as_points({key: group["over_others"][key] for key in ("value", "low", "high")})
        return f"{group['group']} is needed: without it, its own rows lose {points} more than without as many others."
    if group["of_next"] is not None and group["of_next"]["low"] is not None and group["of_next"]["low"] > 0:
        points = _as_points({key: group["of_next"][key] for key in ("value", "low", "high")})
        return f"{group['group']}: the next {NEXT} rows should bring {points}."
    return ""


def _as_points(ends: Mapping[str, float]) -> str:
    """Return a value and its two ends in points."""
    value, first, second = (100 * end for end in ends.values())
    return f"{value:.1f} points ({first:.1f} to {second:.1f})"


def _not_looked_at(document: Mapping[str, Any]) -> list[str]:
    names = document["left_out"]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return [f"Not looked at: {', '.join(names[:NAMED])}{more}. Raise --groups."] if names else []


def _points(score: Mapping[str, float | None] | None) -> Cell:
    if score is None or score["value"] is None:
        return Cell("")
    value, low, high = score["value"], score["low"], score["high"]
    ends = None if low is None or high is None else (f"{100 * low:.1f}", f"{100 * high:.1f}")
    return Cell(f"{100 * value:+.1f}", ends)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"


def _of_labels(document: Mapping[str, Any], most: int) -> Section:
    wrong = document["wrong_labels"]
    rows = wrong["rows"][:most]
    title = (
        f"About {wrong['value']:.0f} labels are wrong ({wrong['low']:.0f} to {wrong['high']:.0f}), if they are as "
        "frequent where they are easy to see as elsewhere."
    )
    if not rows:
        return Section(title)
    headings = [Heading(name, is_number=False) for name in ("question", "its label", "likely", "where")]
    cells = [[_short(row["question"]), row["label"], row["likely"], row["source"]] for row in rows]
    note = (
        f"The surest {len(rows)} of {len(wrong['rows'])} rows to which {LEARNER} gives another label. Nothing was "
        "changed. `ft relabel` asks a person about train rows, and an experiment shows what the new labels bring."
    )
    return Section(title, Grid(headings, cells), [note])


def _short(text: str, most: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
