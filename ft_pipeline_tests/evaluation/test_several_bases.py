"""Models of several families in one table: what may be paired, and which baseline a tuned model must beat."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.advise import Advice
from ft_pipeline.decide.build import build as compare
from ft_pipeline.decide.comparison import Comparison, Row
from ft_pipeline.decide.notes import shown_metrics
from ft_pipeline.decide.observations import observe_one_training
from ft_pipeline.decide.recommend import recommend
from ft_pipeline.decide.sections import comparison_markdown
from ft_pipeline.evaluation.comparison.result_records import SeedScores, SeedSpread
from ft_pipeline_tests.decide.rules import desk_of, leads
from ft_pipeline_tests.evaluation.scored import NOISE, PARTS, losses, scored

FIRST, SECOND = ({**PARTS, "vocabulary": name} for name in ("first", "second"))
BASES = {"a/prompt_baseline": "1", "a/scores": "1", "b/prompt_baseline": "2", "b/scores": "2"}
CONFIG = {"primary_metric": "auto", "bases": BASES, "base_names": {"1": "small", "2": "large"}}


def row(kind: str, nats: float, *, loss: float = 3.0, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "losses": losses(loss), "nats": [nats + noise / 10 for noise in NOISE], **more}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """Two base models. By loss per token, the second seems worse; by nats per byte, it is better without tuning."""
    tuned = {"technique": "lora"}
    return {
        "a/prompt_baseline": scored(tmp_path / "a0", {"plain": row("base", 0.9), "brief": row("prompt", 0.8)}, FIRST),
        "a/scores": scored(tmp_path / "a1", {"merged": row("merged", 0.7, **tuned)}, FIRST),
        "b/prompt_baseline": scored(tmp_path / "b0", {"plain": row("base", 0.6, loss=5.0)}, SECOND),
        "b/scores": scored(tmp_path / "b1", {"merged": row("merged", 0.5, loss=4.0, **tuned)}, SECOND),
        "a/teacher_scores": scored(
            tmp_path / "t", {"teacher": {"kind": "teacher", "chrf": [60.0] * len(NOISE)}}, FIRST
        ),
    }


def named(comparison: Comparison, name: str) -> Row:
    found = comparison.row(name)
    assert found is not None
    return found


def test_two_families_and_an_endpoint_stand_in_one_table(inputs: dict[str, Path]) -> None:
    comparison = compare(inputs, CONFIG)
    assert comparison.left_out == []
    names = [entry.name for entry in comparison.rows]
    assert names == ["b/merged", "base@b", "a/merged", "brief", "base", "teacher"]  # best first by nats per byte
    assert [entry.base_model for entry in comparison.rows] == ["large", "large", "small", "small", "small", None]
    assert comparison.primary_metric == "nats_per_byte"
    assert "Two keys" in comparison.decided_by


def test_pairs_are_made_where_the_metric_allows_it(inputs: dict[str, Path]) -> None:
    comparison = compare(inputs, CONFIG)
    paired: dict[str, set[frozenset[str]]] = {}
    for claim in leads(comparison):
        paired.setdefault(claim.measure, set()).add(frozenset((claim.row, claim.rival)))
    assert len(paired["nats_per_byte"]) == 5 * 4 // 2
    assert len(paired["chrf"]) == 6 * 5 // 2
    of_first, of_second = {"base", "brief", "a/merged"}, {"base@b", "b/merged"}
    assert paired["loss"] == {frozenset(pair) for pair in (("base", "brief"), ("base", "a/merged"))} | {
        frozenset(("brief", "a/merged")),
        frozenset(of_second),
    }
    across = {frozenset((entry.a, entry.b)) for entry in comparison.incomparable if "vocabulary" in entry.because}
    assert across == {frozenset((first, second)) for first in of_first for second in of_second}
    assert {entry.metric for entry in comparison.incomparable if "vocabulary" in entry.because} == {"loss"}


def test_what_a_teacher_without_likelihoods_cannot_be_paired_on_is_listed(inputs: dict[str, Path]) -> None:
    comparison = compare(inputs, CONFIG)
    of_teacher = [entry for entry in comparison.incomparable if "teacher" in (entry.a, entry.b)]
    assert {(entry.metric, entry.because) for entry in of_teacher} == {
        ("nats_per_byte", "its server gives no likelihoods"),
        ("loss", "its server gives no likelihoods"),
    }
    assert len(of_teacher) == 2 * 5
    document = comparison.to_json()
    assert set(document["incomparable"][0]) == {"a", "b", "metric", "because"}


def test_a_tuned_model_must_beat_the_best_use_of_its_own_base(inputs: dict[str, Path]) -> None:
    comparison = compare(inputs, CONFIG)
    bars = {name: comparison.best_bar(named(comparison, name)) for name in ("a/merged", "b/merged")}
    assert {name: bar.name for name, bar in bars.items() if bar} == {"a/merged": "brief", "b/merged": "base@b"}
    assert comparison.best_bar() == named(comparison, "base@b")


def test_a_loss_per_token_is_not_shown_between_tokenizers(inputs: dict[str, Path]) -> None:
    comparison = compare(inputs, CONFIG)
    assert "loss" not in shown_metrics(comparison)
    table = comparison_markdown(comparison)
    assert "| base model |" in table.splitlines()[0]
    assert "not comparable between tokenizers" in table
    alone = compare({name: folder for name, folder in inputs.items() if name.startswith("a/")}, CONFIG)
    assert "loss" in shown_metrics(alone)
    assert "base model" not in comparison_markdown(alone).splitlines()[0]


def test_a_tokenizer_that_loses_texts_has_no_nats_per_byte(inputs: dict[str, Path], tmp_path: Path) -> None:
    because = "its tokenizer loses 3 of the references"
    rows = {"plain": {"kind": "base", "losses": losses(5.0), "withheld": {"nats_per_byte": because}}}
    inputs["b/prompt_baseline"] = scored(tmp_path / "lost", rows, SECOND)
    comparison = compare(inputs, CONFIG)
    assert "nats_per_byte" not in named(comparison, "base@b").scores
    assert {(entry.a, entry.because) for entry in comparison.incomparable if entry.because == because} == {
        ("base@b", because)
    }
    assert f"base@b has no nats per byte: {because}." in comparison_markdown(comparison)


def test_the_first_base_model_has_the_plain_names(inputs: dict[str, Path]) -> None:
    names = [entry.name for entry in compare(inputs, {**CONFIG, "first": ["b/prompt_baseline"]}).rows]
    assert names == ["b/merged", "base", "a/merged", "brief@a", "base@a", "teacher"]


def test_a_recommendation_keeps_the_base_models_apart(inputs: dict[str, Path], tmp_path: Path) -> None:
    """The large model gains nothing from tuning, the small one does: it is what is recommended, with a note."""
    inputs["b/scores"] = scored(tmp_path / "same", {"merged": row("merged", 0.61, loss=4.0, technique="lora")}, SECOND)
    similar = row("merged", 0.7, technique="lora", chrf=[54.0] * len(NOISE))
    inputs["a/scores"] = scored(tmp_path / "similar", {"merged": similar}, FIRST)
    del inputs["a/teacher_scores"]
    found = recommend(desk_of(compare(inputs, CONFIG), {}, 20))
    assert (found["row"], found["decision"]) == ("a/merged", "lora")
    assert found["reasons"][0].startswith("Tuning pays off: a/merged beats the best use of its base model.")
    assert any(reason.startswith("Prompting helps: nats per byte: brief leads base") for reason in found["reasons"])
    assert any(reason.startswith("large does better without tuning, as base@b") for reason in found["reasons"])


def test_a_lead_is_kept_only_within_one_base_model(inputs: dict[str, Path]) -> None:
    assert compare(inputs, CONFIG).of_kind("share") == []


def test_a_check_of_the_answers_decides_before_any_likelihood(inputs: dict[str, Path], tmp_path: Path) -> None:
    exact = [False] * len(NOISE)  # what the results are changes nothing: the references are short
    inputs["a/prompt_baseline"] = scored(tmp_path / "short", {"plain": row("base", 0.9)}, FIRST, short=True)
    inputs["a/scores"] = scored(
        tmp_path / "exact", {"merged": row("merged", 0.7, technique="lora", exact=exact)}, FIRST
    )
    comparison = compare(inputs, CONFIG)
    assert comparison.primary_metric == "exact_match"
    assert comparison.of_kind("answers") == []  # one key is enough
    assert compare(inputs, {**CONFIG, "primary_metric": "chrf"}).primary_metric == "chrf"


def test_scores_of_older_versions_are_decided_by_their_loss(tmp_path: Path) -> None:
    rows = {"plain": {"kind": "base", "losses": losses(2.0)}}
    assert compare({"a/prompt_baseline": scored(tmp_path / "old", rows)}, CONFIG).primary_metric == "loss"


@pytest.mark.parametrize(("worse", "shown"), [(-3.0, True), (0.0, False), (4.0, False)])
def test_answers_must_confirm_what_a_likelihood_proposes(tmp_path: Path, worse: float, shown: bool) -> None:
    """On forty conversations, 9 in a hundred answers may be empty: only a lead shows that they are not worse by 2."""
    chrf = [50.0 + 10 * noise for noise in NOISE]
    after = [value - worse + (number % 2 - 0.5) for number, value in enumerate(chrf)]
    inputs = {
        "a/prompt_baseline": scored(tmp_path / "0", {"plain": row("base", 0.9, chrf=chrf)}, FIRST),
        "a/scores": scored(tmp_path / "1", {"merged": row("merged", 0.5, chrf=after, technique="lora")}, FIRST),
    }
    [check] = compare(inputs, CONFIG).of_kind("answers")
    assert (check.row, check.rival, check.measure) == ("a/merged", "base", "chrf")
    assert check.value == pytest.approx(-worse, abs=0.1)
    assert check.holds is shown


def test_one_training_quotes_the_spread_of_others_of_its_technique(inputs: dict[str, Path]) -> None:
    comparison = compare({name: folder for name, folder in inputs.items() if name.startswith("a/")}, CONFIG)
    row = named(comparison, "a/merged")
    assert desk_of(comparison, {}, 20).pooled_spread(row) is None
    values = [0.70, 0.72, 0.71]
    spread = SeedSpread(
        row="a/merged",
        experiment="a",
        trainings=3,
        scores={"nats_per_byte": SeedScores(mean=0.71, min=0.70, max=0.72, values=values)},
    )
    known = desk_of(comparison.changed(seeds=[spread]), {}, 20)
    assert known.pooled_spread(row) == pytest.approx(0.01)
    said = observe_one_training(known, Advice("lora", "", row)) or ""
    assert (
        "this speaks for these weights, not for lora. Another training of this technique may differ by ± 0.010" in said
    )
    assert known.pooled_spread(row.model_copy(update={"technique": "full"})) is None


def test_the_validation_rows_have_a_score_of_their_own(inputs: dict[str, Path]) -> None:
    records = [
        {
            "name": "merged",
            "item": f"{number}:1",
            "group": str(number),
            "content_nats": 20.0 + number,
            "content_bytes": 40,
        }
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(records), inputs["a/scores"] / "validation.parquet")
    worse = [
        {**record, "name": "brief", "content_nats": record["content_nats"] + number % 5}
        for number, record in enumerate(records)
    ]
    plain = [{**record, "name": "plain", "content_nats": record["content_nats"] + 6} for record in records]
    pq.write_table(pa.Table.from_pylist([*worse, *plain]), inputs["a/prompt_baseline"] / "validation.parquet")
    comparison = compare(inputs, CONFIG)
    row = named(comparison, "a/merged")
    assert row.validation is not None and row.validation.value == pytest.approx(39.5 / 40)
    [screen] = comparison.about(row, "screen")
    assert (screen.rival, screen.count, screen.verdict) == ("brief", 40, "shown")
    assert screen.value == pytest.approx(2 / 40)
    [of_prompt] = comparison.about(named(comparison, "brief"), "screen")
    assert (of_prompt.rival, of_prompt.verdict) == ("base", "shown")


def test_a_tokenizer_that_loses_texts_does_not_let_loss_decide_alone(tmp_path: Path) -> None:
    because = {"nats_per_byte": "its tokenizer loses 3 of the references"}
    rows = {"plain": {"kind": "base", "losses": losses(3.0), "withheld": because}}
    tuned = {"merged": {"kind": "merged", "losses": losses(1.0), "withheld": because, "chrf": [6.0] * len(NOISE)}}
    inputs = {"a/prompt_baseline": scored(tmp_path / "0", rows), "a/scores": scored(tmp_path / "1", tuned)}
    comparison = compare(inputs, CONFIG)
    assert comparison.primary_metric == "loss"
    [check] = comparison.of_kind("answers")
    assert not check.holds
