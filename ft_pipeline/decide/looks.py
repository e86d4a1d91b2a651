"""What the ledger of looks says about the candidates of a comparison: how strict their tests are, and what was changed
since the first look."""

import json
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from ft_pipeline.decide.exposure import Exposure, Tries
from ft_pipeline.decide.exposure_ledger import Entry, Look, digest_of_rows

Weights = Mapping[str, float]
"""By id of a test conversation, its share in what is known about a lead."""


def exposure_of(
    entries: Sequence[Entry],
    test_ids: Sequence[str],
    present: Mapping[str, Look] | None = None,
    weights: Mapping[str, Weights] | None = None,
    test_share: float = 0.0,
) -> Exposure:
    """Return how exposed the test conversations are.

    entries: those that count, oldest first. present: by row name, the looks at the candidates of the comparison.
    weights: by row name, those of its lead over its rival. Rows on which the two are the same have none, so that easy
    fresh rows do not dilute the count. Default: all conversations weigh the same.
    """
    looks, alike, own = list((present or {}).values()), dict.fromkeys(test_ids, 1.0), weights or {}
    now = _identities(looks)
    seen, designs = _shares(entries, alike, lambda other: other.identity not in now)
    of = {name: _tries(entries, look, looks, own.get(name, alike)) for name, look in (present or {}).items()}
    rows, count = digest_of_rows(test_ids), sum(seen.values())
    return Exposure(rows, count, sum(designs.values()), of, test_share=test_share)


def _tries(entries: Sequence[Entry], look: Look, present: Sequence[Look], weights: Weights) -> Tries:
    """Return what the test of a candidate must allow for."""
    before, group = _compared_with(entries, look, present)
    together = {other.identity for other in group if other.is_tuned == look.is_tuned}
    kept = {other.settings_hash for other in present}
    seen, designs = _shares(
        before, weights, lambda other: other.identity not in together and _counts(other, look, kept)
    )
    designs.pop(look.settings_hash, None)
    return Tries(sum(seen.values()), len(together), sum(designs.values()))


def _compared_with(
    entries: Sequence[Entry], look: Look, present: Sequence[Look]
) -> tuple[Sequence[Entry], Sequence[Look]]:
    """Return the entries before a candidate was first compared, and the looks that were first compared with it, its own
    included. What no comparison has shown is compared now."""
    shown = [entry for entry in entries if entry.compared]
    group = next((entry for entry in shown if look.identity in _identities(entry.looks)), None)
    if group is not None:
        return [entry for entry in entries if entry.sequence < group.sequence], group.looks
    known = {identity for entry in shown for identity in _identities(entry.looks)}
    return entries, [other for other in present if other.identity not in known]


def _shares(
    entries: Sequence[Entry], weights: Weights, counts: Callable[[Look], bool]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the looks that count, by identity, and their settings, each with the share of the present rows that it
    saw."""
    known = {name: weight for name, weight in weights.items() if weight} or dict.fromkeys(weights, 1.0)
    total, seen, designs = sum(known.values()), dict[str, float](), dict[str, float]()
    for entry in entries:
        share = sum(weight for name, weight in known.items() if name in entry.ids) / total if total else 0.0
        for look in filter(counts, entry.looks):
            seen[look.identity] = share
            designs[look.settings_hash] = max(share, designs.get(look.settings_hash, 0.0))
    return seen, designs


def _counts(other: Look, look: Look, kept: Set[str]) -> bool:
    """Return whether a look makes the test of another one stricter: it is of the same kind, or a prompt that a tuned
    model no longer has to beat, because it is not compared any more. The others it must beat."""
    return other.is_tuned == look.is_tuned or (look.is_tuned and other.settings_hash not in kept)


def comparisons_before(entries: Sequence[Entry], settings_hash: str) -> int:
    """Return how many comparisons had been shown when a model of these settings first appeared."""
    before = entries[: _first(entries, settings_hash)]
    return sum(1 for entry in before if entry.compared)


def rows_before(entries: Sequence[Entry], settings_hash: str) -> set[str]:
    """Return the test conversations that had been looked at when a model of these settings first appeared."""
    first = _first(entries, settings_hash)
    return {name for entry in entries[: first + 1] for name in entry.ids}


def _first(entries: Sequence[Entry], settings_hash: str) -> int:
    return next((number for number, entry in enumerate(entries) if settings_hash in entry.designs), len(entries))


def changes(
    entries: Sequence[Entry], present: Sequence[Look], test_ids: Sequence[str], settings: Mapping[str, Any]
) -> list[str]:
    """Return what a decision reads and was otherwise at the first look at one of the present candidates: settings with
    their old values, test conversations that were dropped, and prompts that are no longer compared."""
    kept = {look.settings_hash for look in present}
    first = next((entry for entry in entries if entry.settings and entry.designs & kept), None)
    if first is None:
        return []
    was = [
        f"{name} was {json.dumps(first.settings.get(name), ensure_ascii=False)} when these models were first looked at."
        for name in sorted({*first.settings, *settings})
        if first.settings.get(name) != settings.get(name)
    ]
    if dropped := len(first.ids - set(test_ids)):
        was.append(f"{dropped} of the {len(first.ids)} test conversations of the first look are no longer tested.")
    prompts = {look.name: look for entry in entries for look in entry.looks if not look.is_tuned}
    gone = sorted(name for name, look in prompts.items() if look.settings_hash not in kept)
    if gone:
        was.append(f"{' and '.join(gone)} {'was' if len(gone) == 1 else 'were'} looked at, and no longer compared.")
    return was


def _identities(looks: Sequence[Look]) -> Set[str]:
    return {look.identity for look in looks}
