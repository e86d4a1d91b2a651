"""What each group of rows is worth, and which labels are wrong, on the rows of the classification example."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.slice_members import Talk
from ft_pipeline.worth.answer import say_of, sections, worth_of
from ft_pipeline.worth.cross_validation import FOLDS, REPEATS, Folds
from ft_pipeline.worth.effects import effects_of
from ft_pipeline.worth.known_rows import PEOPLE, KnownRow, check, groups_by, read_known_rows, units_of
from ft_pipeline.worth.wrong_labels import suspects
from ft_pipeline_tests.end_to_end.project import ft_here, ft_here_json

LIGHT = "raw_alpaca,raw_sharegpt,raw_chat,raw_traces,alpaca,sharegpt,chat,traces,conversations"
EXAMPLE = Path(__file__).parents[2] / "examples" / "classification"


def known(count: int = 400, files: int = 3) -> list[KnownRow]:
    """Rows of the example, in files by chance."""
    texts = [path.read_text() for path in sorted((EXAMPLE / "data" / "raw" / "alpaca").glob("*.jsonl"))]
    rows = [json.loads(line) for text in texts for line in text.splitlines()]
    generator = np.random.default_rng(0)
    chosen, file_of = generator.choice(len(rows), count, replace=False), generator.permutation(count) % files
    talks = [
        Talk(str(place), rows[place]["instruction"], 1, 0, (), "alpaca", f"{file}.jsonl", "en")
        for place, file in zip(chosen, file_of, strict=True)
    ]
    return [
        KnownRow(talk, rows[place]["output"], rows[place]["group"]) for place, talk in zip(chosen, talks, strict=True)
    ]


def in_file(row: KnownRow, file: str) -> KnownRow:
    return replace(row, talk=replace(row.talk, file=file))


def folds_of(rows: list[KnownRow], seed: int = 0) -> Folds:
    return Folds.of([row.talk.question for row in rows], [row.label for row in rows], units_of(rows), seed)


def by_name(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {group["group"]: group for group in document["groups"]}


def test_a_file_of_wrong_labels_is_named_with_its_sign_and_its_price() -> None:
    rows = known()
    labels = sorted({row.label for row in rows})
    turned = {label: labels[(place + 1) % len(labels)] for place, label in enumerate(labels)}
    rows = [replace(row, label=turned[row.label]) if row.talk.file == "0.jsonl" else row for row in rows]
    groups = by_name(worth_of(rows, "file", {}, most_groups=1, price=0.5))
    bad = groups["alpaca/0.jsonl"]
    assert bad["finding"] == "harms" and bad["for_others"]["high"] < 0
    assert bad["cost"] == 0.5 * bad["rows"]
    assert bad["points_per_100"] == pytest.approx(100 * 100 * bad["effect"]["value"] / bad["cost"])
    assert say_of(bad).startswith("alpaca/0.jsonl lowers the score of other rows by ")
    assert say_of(bad).endswith("mend it or leave it out.")


def test_wrong_labels_are_first_in_the_list_with_the_label_that_they_should_have() -> None:
    rows = known()
    truth = {row.talk.id: row.label for row in rows}
    generator = np.random.default_rng(3)
    planted = set(generator.choice([*truth], len(rows) // 10, replace=False).tolist())
    labels = sorted({row.label for row in rows})
    turned = [
        replace(row, label=generator.choice([other for other in labels if other != row.label]).item())
        if row.talk.id in planted
        else row
        for row in rows
    ]
    document = worth_of(turned, "file", {}, most_groups=1)["wrong_labels"]
    first = document["rows"][: 2 * len(planted)]
    assert len(planted & {row["id"] for row in first}) >= 0.7 * len(planted)
    surest = [row for row in first[:10] if row["id"] in planted]
    assert len(surest) >= 7 and sum(row["likely"] == truth[row["id"]] for row in surest) >= len(surest) - 1
    by_id = {row.talk.id: row for row in turned}
    assert all(by_id[near["id"]].label == row["likely"] != row["label"] for row in first for near in row["nearest"])
    assert document["low"] <= len(planted) <= document["high"]


def test_a_file_that_alone_has_a_label_is_needed_and_a_random_third_is_not() -> None:
    rows = known()
    label = Counter(row.label for row in rows).most_common()[-1][0]
    only = [in_file(row, "only.jsonl") if row.label == label else row for row in rows]
    found = by_name(worth_of(only, "file", {}, most_groups=9))
    alone = found.pop("alpaca/only.jsonl")
    assert alone["finding"] == "needed" and "is needed: without it, its own rows lose" in say_of(alone)
    assert {group["finding"] for group in found.values()} == {"open"}
    thirds = worth_of(rows, "file", {}, most_groups=9)["groups"]
    assert {group["finding"] for group in thirds} == {"open"}
    assert all(group["effect"]["low"] < group["effect"]["value"] < group["effect"]["high"] for group in thirds)


def test_a_teachers_labels_are_learned_and_are_no_truth(tmp_path: Path) -> None:
    def write(name: str, rows: list[tuple[str, str, str]], **more: str) -> Path:
        (tmp_path / name).mkdir()
        table = [
            {"id": id_, "split": split, "table": "alpaca", "file": "a.jsonl", "row": place, "group": id_, **more}
            | {"messages": [{"role": "user", "content": f"{id_}?"}, {"role": "assistant", "content": label}]}
            for place, (id_, split, label) in enumerate(rows, 1)
        ]
        pq.write_table(pa.Table.from_pylist(table), tmp_path / name / "rows.parquet")
        return tmp_path / name

    people = write("people", [("a", "train", "yes"), ("b", "test", "yes"), ("c", "validation", "no")])
    taught = write("taught", [("d", "train", "yes"), ("e", "train", "Yes, it is.")], teacher="larger")
    rows, total = read_known_rows(people, taught)
    assert [(row.talk.id, row.teacher, row.can_be_asked) for row in rows] == [
        ("a", PEOPLE, True),
        ("c", PEOPLE, False),
        ("d", "larger", False),
    ]
    assert total == 3 and rows[0].source == "alpaca/a.jsonl:1"


def test_only_rows_of_people_are_asked_and_paid() -> None:
    rows = [replace(row, teacher="larger") if place % 5 else row for place, row in enumerate(known(500))]
    labels = sorted({row.label for row in rows})
    turned = {label: labels[(place + 1) % len(labels)] for place, label in enumerate(labels)}
    wrong = [row if row.teacher == PEOPLE else replace(row, label=turned[row.label]) for row in rows]
    groups = worth_of(wrong, "file", {}, most_groups=3, price=1.0)["groups"]
    assert sum(group["cost"] for group in groups) == 100 and sum(group["rows"] for group in groups) == 500
    right = worth_of(rows, "file", {}, most_groups=3)["accuracy"]
    assert worth_of(wrong, "file", {}, most_groups=3)["accuracy"] < right - 0.5  # by the labels of people


def test_all_rows_of_people_may_be_one_group() -> None:
    rows = [replace(row, teacher="larger") if place % 2 else row for place, row in enumerate(known(200))]
    rows = [in_file(row, "taught.jsonl" if row.teacher == "larger" else "people.jsonl") for row in rows]
    document = worth_of(rows, "file", {}, most_groups=2)
    people = by_name(document)["alpaca/people.jsonl"]
    assert people["for_others"] is None and people["finding"] != "harms"
    assert "alpaca/people.jsonl" in {row[0] for row in sections(document, 1)[0].grid.rows}


def test_a_label_may_be_called_people() -> None:
    rows = [replace(row, label=PEOPLE) if row.label == "refund" else row for row in known(60)]
    assert PEOPLE in groups_by(rows, "label", {})


def test_a_label_is_neither_needed_nor_harmful() -> None:
    document = worth_of(known(200), "label", {}, most_groups=2)
    assert [group["finding"] for group in document["groups"]] == [None, None]
    assert all(group["effect"]["low"] > 0 for group in document["groups"])
    titles = [heading.title for heading in sections(document, 3)[0].grid.headings]
    assert titles == ["without label", "rows", "effect", "next 100 rows"]


def test_a_teacher_whose_answers_help_is_named_and_one_that_guesses_harms() -> None:
    rows = known(500)
    labels = sorted({row.label for row in rows})
    turned = {label: labels[(place + 1) % len(labels)] for place, label in enumerate(labels)}
    taught = [replace(row, teacher="larger") if place % 5 else row for place, row in enumerate(rows)]
    guessed = [row if row.teacher == PEOPLE else replace(row, label=turned[row.label]) for row in taught]
    for given, finding, words in (
        (taught, "helps", "larger raises the score of other rows by "),
        (guessed, "harms", "larger lowers the score of other rows by "),
    ):
        groups = by_name(worth_of(given, "teacher", {}, most_groups=2))
        assert set(groups) == {"larger"}
        assert groups["larger"]["finding"] == finding and say_of(groups["larger"]).startswith(words)


def test_two_clusters_show_nothing_however_many_rows_they_have() -> None:
    rows = [replace(row, group="large") if place < 25 else row for place, row in enumerate(known(120))]
    rows = [replace(row, group="larger") if 25 <= place < 50 else row for place, row in enumerate(rows)]
    members = np.array([place < 50 for place in range(120)])
    folds = folds_of(rows)

    class Missed(Folds):
        def probabilities(self, left_out: Any = None) -> Any:
            """Without the members, all their answers are wrong; with them, all are right."""
            right = np.eye(len(self.names))[self.labels]
            wrong = np.where(members[:, None], np.roll(right, 1, axis=1), right)
            return np.array([wrong if left_out is members else right] * REPEATS)

    missed = Missed(folds.features, folds.labels, folds.names, folds.fold)
    groups = {"two": members, **{str(number): ~members for number in range(11)}}
    effect = effects_of(
        missed, missed.probabilities(), groups, np.where(members, np.arange(120) // 25, np.arange(120))
    )[0]
    assert effect.over_others is not None and effect.over_others.value == 1.0 and effect.finding == "open"


def test_a_group_of_most_rows_is_compared_with_no_others_and_a_small_one_tells_no_next_rows() -> None:
    rows = known(60)
    folds, members = folds_of(rows), np.array([place >= 8 for place in range(60)])
    most, few = effects_of(folds, folds.probabilities(), {"most": members, "few": ~members}, units_of(rows))
    assert most.over_others is None and most.finding != "needed"
    assert few.over_others is not None and few.of_next is None and most.of_next is not None


def test_rows_of_one_unit_are_in_one_fold_and_a_seed_gives_the_same_answer() -> None:
    rows = known(120)
    folds, units = folds_of(rows, 5), units_of(rows)
    for fold in folds.fold:
        assert all(len(set(fold[units == unit].tolist())) == 1 for unit in set(units.tolist()))
        sizes = np.bincount(fold, minlength=FOLDS)
        assert sizes.min() > 0 and sizes.max() - sizes.min() <= np.bincount(units).max()
    again, other = (worth_of(rows, "file", {}, most_groups=1, seed=seed) for seed in (5, 6))
    assert again == worth_of(rows, "file", {}, most_groups=1, seed=5) != other


def test_a_model_learns_from_no_row_that_it_is_asked_about_or_that_is_left_out() -> None:
    rows = known(60)
    folds = folds_of(rows)
    learned: list[tuple[Any, Any]] = []

    class Spied(Folds):
        def _learn(self, training: Any, asked: Any) -> Any:
            learned.append((training, asked))
            return super()._learn(training, asked)

    spied = Spied(folds.features, folds.labels, folds.names, folds.fold, folds.strength)
    out = np.array([row.talk.file == "0.jsonl" for row in rows])
    effects_of(spied, spied.probabilities(), {"0": out}, units_of(rows))
    assert not any((training & asked).any() for training, asked in learned)
    of_part = FOLDS * REPEATS
    _, without, halved, of_others = (learned[at : at + of_part] for at in (0, of_part, 3 * of_part, 2 * of_part))
    for (training, asked), (half, _), (others, _) in zip(without, halved, of_others, strict=True):
        assert not (training & out).any() and (training | out | asked).all()
        assert (half & out).sum() in range(out.sum() // 2 - asked.sum(), out.sum() // 2 + 1)
        assert others.sum() == training.sum() and (others & out).sum() == (out & ~asked).sum()


def test_a_label_that_no_training_row_has_is_never_an_answer() -> None:
    folds = folds_of(known(60))
    assert (folds.probabilities(folds.labels == 0)[..., 0] == 0).all()
    assert (folds.probabilities(folds.labels != 1).argmax(axis=-1) == 1).all()


def test_groups_by_tag_label_and_slice() -> None:
    rows = [
        replace(row, talk=replace(row.talk, tags=("web",) if place % 2 else ())) for place, row in enumerate(known(60))
    ]
    assert {name: int(members.sum()) for name, members in groups_by(rows, "tag", {}).items()} == {"web": 30}
    assert set(groups_by(rows, "label", {})) == {row.label for row in rows}
    (members,) = groups_by(rows, "slice", {"parcels": {"matches": "PARCEL|package"}}).values()
    assert 0 < members.sum() < 60
    assert [bool(member) for member in members] == [
        any(word in row.talk.question.lower() for word in ("parcel", "package")) for row in rows
    ]


@pytest.mark.parametrize(
    ("by", "rules", "message"),
    [
        ("table", {}, "There are no groups by table: five rows or more, and not all. Try --by file, --by tag"),
        ("tag", {}, "There are no groups by tag"),
        ("teacher", {}, "All rows have the same teacher, 'people': nothing to compare"),
        ("slice", {}, "There are no groups by slice"),
        ("slice", {"none": {"matches": "zebra"}}, "The slice none of evaluation.slices has none of the rows"),
        ("slice", {"every": {"matches": "."}}, "The slice every of evaluation.slices has all of the rows"),
    ],
)
def test_groups_that_show_nothing_are_refused(by: str, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        groups_by(known(60), by, rules)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:49], "The train and validation splits have 49 answered rows, too few"),
        (lambda rows: [replace(row, label="refund") for row in rows], "All rows have the answer 'refund'"),
        (lambda rows: [replace(row, label=row.talk.question) for row in rows], "`ft worth` needs answers that are lab"),
        (lambda rows: [replace(row, group="one") for row in rows], "The 60 rows are 1 clusters of like questions"),
    ],
)
def test_rows_of_which_nothing_is_learned_are_refused(
    change: Callable[[list[KnownRow]], list[KnownRow]], message: str
) -> None:
    rows = change(known(60))
    with pytest.raises(UserError) as refused:
        check(rows, units_of(rows))
    assert str(refused.value).startswith(message)


def test_groups_beyond_the_budget_are_named_and_a_sample_is_told() -> None:
    rows = [in_file(row, "small.jsonl") if place < 6 else row for place, row in enumerate(known(60))]
    whole = worth_of(rows, "file", {}, most_groups=1, price=1.0)
    document = worth_of(rows, "file", {}, most_groups=1, price=1.0, total=600)
    assert len(document["groups"]) == 1 and document["left_out"][-1] == "alpaca/small.jsonl"
    shown = sections(document, 3)
    assert any(text.startswith("Not looked at: ") and text.endswith("Raise --groups.") for text in shown[0].sentences)
    assert "of 60 rows of train and validation, a sample of 600." in shown[0].title
    assert document["groups"][0]["cost"] == pytest.approx(10 * whole["groups"][0]["cost"])
    assert document["wrong_labels"]["value"] == pytest.approx(10 * whole["wrong_labels"]["value"])
    assert document["groups"][0]["of_next"]["value"] <= whole["groups"][0]["of_next"]["value"] or (
        whole["groups"][0]["of_next"]["value"] <= 0
    )
    assert sections(document, 0)[1].grid is None


def test_suspects_are_those_whose_likeliest_label_is_another() -> None:
    folds = folds_of(known(120))
    probabilities = folds.probabilities().mean(axis=0)
    found = suspects(folds, probabilities)
    differs = probabilities.argmax(axis=1) != folds.labels
    assert {suspect.row for suspect in found} == set(np.flatnonzero(differs).tolist())
    margins = [suspect.own_probability - suspect.probability for suspect in found]
    assert margins == sorted(margins)


def test_the_command_reads_train_and_validation_rows_of_a_project(tmp_path: Path) -> None:
    root = tmp_path / "messages"
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns("store"))
    commands = (
        ("worth",),
        ("run", "--select", LIGHT),
        ("worth", "--by", "label", "--labels", "2"),
        ("worth", "--by", "color"),
    )
    early, made, said, unknown = ft_here(root, *commands)
    assert early.returncode and "The project has no conversations yet" in early.stderr
    assert made.returncode == 0, made.stderr
    assert said.returncode == 0 and " labels are wrong (" in said.stdout, said.stderr
    assert unknown.returncode and "--by color is unknown" in unknown.stderr
    ((code, document),) = ft_here_json(root, ("worth", "--by", "label", "--groups", "1"))
    assert (code, document["by"], document["rows"]) == (0, "label", 363)
