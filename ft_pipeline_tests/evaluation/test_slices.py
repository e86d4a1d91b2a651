"""Slices of the test conversations: who is in them, what is said of them, and how often that is wrong."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.claim import Claim, SliceFacts, SliceLeadFacts
from ft_pipeline.decide.comparison import Comparison
from ft_pipeline.decide.plots import slice_picture
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.decide.sentences import say
from ft_pipeline.decide.slice_table import is_worse, slices_of
from ft_pipeline.decide.sources.slices import judge_slices
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.leads import Floats, bounds
from ft_pipeline.evaluation.comparison.slice_members import MOST, find_slices, slices_by_conversation
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.yaml_file import read_settings
from ft_pipeline_tests.evaluation.scored import CONFIG, scored
from ft_pipeline_tests.evaluation.sliced import COUNT, REFUND, REFUNDS, case, shop_talks, talk, write_talks

GERMAN = "Wo ist meine Bestellung geblieben, und wann kommt das Paket bei mir an?"
ENGLISH = "Where is the order that I placed, and when will the parcel arrive at my house?"


def members(folder: Path, talks: list[dict[str, Any]], **rules: Any) -> dict[str, set[int]]:
    """The numbers of the conversations in each slice."""
    conversations = write_talks(folder / "talks", talks)
    found = find_slices(conversations, [row["id"] for row in talks], rules)
    return {entry.name: {int(name) for name in entry.members} for entry in found}


def test_a_rule_reads_the_question_and_never_the_answer(tmp_path: Path) -> None:
    talks = [
        talk(0, "I want my REFUND.", "No."),
        talk(1, "Where is it?", "Your refund is on its way."),
        talk(2, "Where is it?", "On its way.", "Then money back!", "Gladly."),
        talk(3, "Hello?", "Hello.", tags=["vip", "refund"]),
    ]
    assert members(tmp_path, talks, **REFUND)["refund"] == {0, 2}


def test_a_rule_can_name_a_tag_a_source_and_a_language_and_wants_all_of_them(tmp_path: Path) -> None:
    talks = [
        talk(0, GERMAN, "Morgen.", tags=["vip"]),
        talk(1, ENGLISH, "Tomorrow.", tags=["vip", "late"]),
        talk(2, ENGLISH, "Tomorrow.", table="chat", file="mails.jsonl"),
    ]
    rules = {
        "vip": {"tag": "vip"},
        "german": {"language": "de"},
        "mails": {"source": "mails.jsonl"},
        "chat": {"source": "chat"},
        "both": {"source": "chat/mails.jsonl"},
        "vip-english": {"tag": "vip", "language": "en"},
    }
    found = members(tmp_path, talks, **rules)
    assert [found[name] for name in rules] == [{0, 1}, {0}, {2}, {2}, {2}, {1}]


def test_slices_need_no_setting(tmp_path: Path) -> None:
    talks = [
        talk(
            number,
            (GERMAN if number < 6 else ENGLISH) + " Please." * number,
            "Tomorrow." + " Sorry." * (number % 4) if number else "No.",
            *(["Thanks a lot.", "Sure."] if number == 0 else []),
            tags=["vip"] if number < 5 else ["rare"] if number < 9 else None,
            table="alpaca" if number < 7 else "sharegpt",
            file=f"{number // 7}.jsonl",
        )
        for number in range(12)
    ]
    found = members(tmp_path, talks)
    assert found["tag vip"] == {*range(5)} and "tag rare" not in found  # four are too few for a slice without a rule
    assert found["table alpaca"] == {*range(7)} and found["table sharegpt"] == {*range(7, 12)}
    assert not any(name.startswith("file") for name in found)  # each file is the same slice as its table
    assert found["language de"] == {*range(6)} and found["language en"] == {*range(6, 12)}
    assert found["several turns"] == {0} and found["single turn"] == {*range(1, 12)}
    assert [len(found[f"{third} questions"]) for third in ("short", "middle", "long")] == [4, 4, 4]
    assert found["short references"] == {0, 1, 4, 5, 8, 9}


def test_what_all_conversations_share_is_no_slice_unless_a_rule_says_so(tmp_path: Path) -> None:
    talks = [talk(number, f"Where is it{'?' * number}", "There.", tags=["all", "x" * 200]) for number in range(9)]
    found = members(tmp_path, talks, everything={"matches": "where"})
    assert [*found] == ["everything", "short questions", "middle questions", "long questions"]


def test_of_many_tags_the_most_frequent_are_slices(tmp_path: Path) -> None:
    talks = [
        talk(number, "Where?", "There.", tags=[f"tag{tag}" for tag in range(100) if tag >= number])
        for number in range(50)
    ]
    found = [name for name in members(tmp_path, talks) if name.startswith("tag")]
    assert len(found) == MOST and "tag tag48" in found and "tag tag5" not in found


def test_each_conversation_knows_its_slices(tmp_path: Path) -> None:
    talks = shop_talks()
    ids = [row["id"] for row in talks]
    found = find_slices(write_talks(tmp_path / "talks", talks), ids, REFUND)
    by_conversation = slices_by_conversation(found)
    assert by_conversation["000"] == ["refund", "tag vip", "file alpaca/chats.jsonl", "short questions"]
    counts = Counter(name for names in by_conversation.values() for name in names)
    assert counts == {entry.name: len(entry.members) for entry in found}


def test_erased_conversations_are_in_no_slice(tmp_path: Path) -> None:
    talks = shop_talks()
    found = find_slices(write_talks(tmp_path / "talks", talks[1:]), [row["id"] for row in talks], REFUND)
    assert "000" not in slices_by_conversation(found) and len(found[0].members) == REFUNDS - 1


# --- leads ------------------------------------------------------------------------------------------------------------


def test_a_slice_has_the_lead_that_its_conversations_have_alone(tmp_path: Path) -> None:
    measured = case(tmp_path, -0.5, REFUND)
    parts = slices_of(measured)
    assert parts is not None and (parts.row, parts.rivals) == ("a/merged", ["base"])
    lead = parts.lead("refund", "base")
    alone = case(tmp_path / "alone", -0.5, REFUND, count=REFUNDS)
    ours, base = (alone.row(name) for name in ("a/merged", "base"))
    assert ours is not None and base is not None and (other := alone.lead(base, ours)) is not None
    assert lead is not None and is_worse(lead) and lead.count == REFUNDS
    assert (-(lead.value or 0), -(lead.high or 0), -(lead.low or 0)) == pytest.approx(
        (other.value, other.low, other.high)
    )


def test_only_a_slice_that_is_shown_to_be_worse_is_called_worse(tmp_path: Path) -> None:
    worse, same = (slices_of(case(tmp_path / str(change), change, REFUND)) for change in (-0.5, 1.0))
    assert worse is not None and same is not None
    assert worse.sentences()[0] == (
        "a/merged is worse in refund (25 conversations) than base: -0.499 (95 %: -0.632 to -0.396)."
    )
    assert [lead.scope for lead in worse.worse] == ["refund"]  # short questions, too, have an interval below zero
    assert worse.lead("short questions", "base").high < 0  # type: ignore[union-attr,operator]
    assert same.sentences() == [
        "a/merged is in no part clearly worse than base; in refund (25) a drop under 0.7 sd (0.175) would not have "
        "shown."
    ]


def test_a_row_is_compared_with_the_champion_and_its_baseline_in_one_family(tmp_path: Path) -> None:
    measured = case(tmp_path, 0.5, REFUND, champion=1.0)
    parts, alone = slices_of(measured), slices_of(case(tmp_path / "alone", 0.5, REFUND))
    assert parts is not None and alone is not None and parts.rivals == ["champion", "base"]
    assert {lead.rival for lead in parts.worse} == {"champion"} and parts.worse[0].scope == "refund"
    assert len(parts.leads) == 2 * len(alone.leads)
    assert (
        parts.lead("refund", "base").told(SliceLeadFacts).unseen
        > alone.lead("refund", "base").told(SliceLeadFacts).unseen
    )  # type: ignore[union-attr]
    assert "| slice | conversations | lead over champion | lead over base |" in comparison_markdown(measured)


def test_small_slices_have_a_size_and_no_lead(tmp_path: Path) -> None:
    rules = {"few": {"matches": "parcel 3[0-2]"}, "one": {"matches": "parcel 33"}, "none": {"tag": "no such tag"}}
    measured = case(tmp_path, 1.0, rules)
    parts = slices_of(measured)
    assert parts is not None and [parts.lead(name, "base") for name in rules] == [None] * 3
    assert [(entry.name, entry.conversations) for entry in measured.slices[:3]] == [("few", 3), ("one", 1), ("none", 0)]
    assert parts.sentences()[1:] == [
        "The slice few has 3 conversations, and 20 are needed to compare it.",
        "The slice one has 1 conversation, and 20 are needed to compare it.",
        "No test conversation is in the slice none. Correct its rule, or add such rows.",
    ]


def test_small_slices_without_a_rule_are_counted_and_not_listed(tmp_path: Path) -> None:
    talks = [{**row, "tags": [f"agent {number // 10}"]} for number, row in enumerate(shop_talks())]
    measured = case(tmp_path, 1.0, REFUND, talks=talks)
    parts = slices_of(measured)
    assert parts is not None and len(measured.slices) == len(parts.listed) + 9
    assert parts.sentences()[-1] == "9 other slices have fewer than 20 conversations, and are not shown."
    assert "tag agent" not in comparison_markdown(measured)


def test_with_few_test_conversations_nothing_is_compared_and_nothing_fails(tmp_path: Path) -> None:
    must_hold = {"refund": {**REFUND["refund"], "must_hold": True, "margin": 0.05}}
    measured = case(tmp_path, 1.0, must_hold, count=3)
    parts = slices_of(measured)
    assert parts is not None and not measured.of_kind("slice_lead")
    assert parts.sentences()[0] == "a/merged is compared in no part: none has 20 conversations."
    assert "| refund | 3 |" in comparison_markdown(measured) and slice_picture(measured) is None
    assert parts.sentences()[-1] == (
        "a/merged: whether it holds in refund (3 conversations) cannot be told: 20 are needed, about 17 more."
    )


def test_a_document_without_slices_has_no_keys_of_them(tmp_path: Path) -> None:
    inputs = {"a/prompt_baseline": scored(tmp_path / "base", {"plain": {"kind": "base", "losses": [1.0, 2.0]}})}
    document = compare(inputs, CONFIG).to_json()
    assert not [key for key in document if key.startswith("slice")]
    assert not [claim for claim in document["claims"] if claim["kind"].startswith("slice")]
    assert slices_of(Comparison.model_validate(document)) is None
    assert "Slices" not in comparison_markdown(Comparison.model_validate(document))


@pytest.mark.usefixtures("rendered")
def test_the_document_is_read_back_and_shown(tmp_path: Path) -> None:
    talks = [{**row, "tags": ["a|b <i>$x</i>\n$"]} if row["tags"] else row for row in shop_talks()]
    measured = case(tmp_path, -0.5, REFUND, talks=talks)
    again = Comparison.model_validate(json.loads(json.dumps(measured.to_json())))
    assert again.to_json() == measured.to_json()
    markdown = comparison_markdown(again)
    assert "| refund | 25 | -0.499 (95 %: -0.632 to -0.396) worse |" in markdown
    assert "| tag a\\|b &lt;i>$x&lt;/i> $ | 30 |" in markdown
    assert (slice_picture(again) or b"").startswith(b"\x89PNG")


# --- rates ------------------------------------------------------------------------------------------------------------


def worlds(slices: int, count: int, size: int = 50) -> list[list[Floats]]:
    """Comparisons in which no slice differs."""
    return [list(world) for world in np.random.default_rng(slices).standard_normal((count, slices, size))]


@pytest.mark.parametrize(("slices", "unadjusted"), [(12, 0.26), pytest.param(30, 0.53, marks=pytest.mark.long)])
def test_without_a_difference_some_slice_is_called_worse_in_few_comparisons(slices: int, unadjusted: float) -> None:
    found = [judge_slices(world) for world in worlds(slices, 1000)]
    looks_worse = np.mean([any(entry.p is not None and entry.p <= 0.025 for entry in world) for world in found])
    called_worse = np.mean([any(entry.is_worse for entry in world) for world in found])
    assert looks_worse == pytest.approx(unadjusted, abs=0.05)
    assert called_worse <= 0.06


def test_a_drop_of_the_named_size_shows_in_most_comparisons() -> None:
    """Sizes of the specification, among twelve slices: 0.85, 0.67, 0.51 and 0.35 standard deviations."""
    for size, drop in ((20, 0.85), (30, 0.67), (50, 0.51), (100, 0.35)):
        found = judge_slices(worlds(12, 1, size)[0])
        assert found[0].unseen == pytest.approx(drop, abs=0.005)
    seen = []
    for world in worlds(12, 300):
        world[0] = world[0] - 0.508
        seen.append(judge_slices(world)[0].is_worse)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.06)


def test_slices_whose_leads_do_not_vary_decide_nothing() -> None:
    [found] = judge_slices([np.full(30, -1.0)])
    assert (found.p, found.is_worse, found.deviation) == (None, False, 0.0)
    assert judge_slices([]) == []


# --- what must hold ---------------------------------------------------------------------------------------------------


def must_hold(folder: Path, change: float, **rule: Any) -> tuple[Claim, str]:
    """The claim about the slice refund, of the tuned model against the base model, and its sentence."""
    measured = case(folder, change, {"refund": {**REFUND["refund"], "must_hold": True, "margin": 0.1, **rule}})
    [claim] = [claim for claim in measured.of_kind("slice") if (claim.row, claim.rival) == ("a/merged", "base")]
    return claim, say(measured, claim)


def test_a_slice_holds_if_its_lower_bound_is_above_the_margin(tmp_path: Path) -> None:
    """The margin is a tenth of the base model's loss, 0.3."""
    holds, unclear, behind = (must_hold(tmp_path / str(change), change) for change in (0.5, -0.25, -0.5))
    assert [claim.holds for claim, _ in (holds, unclear, behind)] == [True, False, False]
    assert holds[0].limit == pytest.approx(-0.3, abs=0.01) and holds[1].startswith("holds in refund (25 conv")
    assert unclear[1] == (
        "whether it holds in refund (25 conversations) cannot be told: its lead over base is -0.249 (at least -0.354; "
        f"-0.301 is the limit); about {unclear[0].told(SliceFacts).more:,} more would tell"
    )
    assert behind[0].told(SliceFacts).more is None and behind[1].endswith("more conversations would hardly help")


def test_about_so_many_more_conversations_would_tell() -> None:
    """With them, the slice is shown to hold in about 80 % of the cases."""
    from ft_pipeline.decide.sources.slices import _more

    random, lead, limit = np.random.default_rng(0), -0.1, 0.25
    values = random.standard_normal(40)
    values = lead + (values - values.mean()) / values.std(ddof=1)
    more = _more(values, lead + limit)
    assert more is not None
    draws = lead + random.standard_normal((400, 40 + more))
    shown = np.mean([(bounds(draw, 0.95)[0] or 0) > -limit for draw in draws])
    assert shown == pytest.approx(0.8, abs=0.06)


def test_a_true_drop_of_the_margin_rarely_holds() -> None:
    draws = -0.2 + np.random.default_rng(0).standard_normal((2000, 40))
    assert np.mean([(bounds(draw, 0.95)[0] or 0) > -0.2 for draw in draws]) <= 0.06


def test_a_slice_that_must_hold_and_matches_nothing_says_so(tmp_path: Path) -> None:
    claim, sentence = must_hold(tmp_path, 1.0, matches="no such words")
    assert not claim.holds and sentence == (
        "whether it holds in refund cannot be told: no test conversation is in this slice. Correct its rule, or add "
        "such rows"
    )


def test_all_rows_that_may_be_released_are_checked_against_all_rivals(tmp_path: Path) -> None:
    measured = case(tmp_path, 1.0, {"refund": {**REFUND["refund"], "must_hold": True, "margin": 0.1}})
    pairs = {(claim.row, claim.rival) for claim in measured.of_kind("slice")}
    assert pairs == {
        ("a/merged", "base"),
        ("a/adapter", "base"),
        ("a/merged", "a/adapter"),
        ("a/adapter", "a/merged"),
    }


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ("refund: {matches: 'a(b'}", "line 4: `matches` is 'a(b', which is not a valid regular expression"),
        ("refund: {}", "line 4: a slice has no condition. Set `matches`, `tag`, `source` or `language`."),
        ("refund: {tag: ''}", "`evaluation.slices.refund.tag` is '': string should have at least 1 character"),
        ("refund: {tag: a, must_hold: true}", "`must_hold: true` and `margin` need each other. Set both or neither."),
        ("refund: {tag: a, margin: 0.1}", "`must_hold: true` and `margin` need each other. Set both or neither."),
        ("Refund of money: {tag: a}", "the slice name 'Refund of money' is invalid. Use at most 40 lowercase letters"),
        ("refund: {tags: a}", "unknown key `evaluation.slices.refund.tags`. Did you mean `tag`?"),
        (
            "{a: &h {tag: a, must_hold: true, margin: 0}, b: *h, c: *h, d: *h}",
            "4 slices have `must_hold: true` (a, b, c, d). Keep it for at most 3.",
        ),
    ],
)
def test_a_mistake_in_the_settings_is_named(tmp_path: Path, slices: str, message: str) -> None:
    path = tmp_path / "project.yaml"
    path.write_text(f"name: shop\nevaluation:\n  slices:\n    {slices}\n", encoding="utf-8")
    with pytest.raises(UserError) as raised:
        read_settings(path, ProjectSettings)
    assert message in str(raised.value)


def test_slices_are_no_part_of_what_is_scored() -> None:
    from ft_pipeline.steps.shared.scoring_specs import NOT_SCORED_WITH

    assert "slices" in NOT_SCORED_WITH and COUNT >= 3 * REFUNDS
