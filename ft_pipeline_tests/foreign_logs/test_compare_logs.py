"""`ft compare --from`: what other tools logged is compared on the same items, or refused with one sentence."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.foreign_logs.answer import answer_of, verdict
from ft_pipeline.foreign_logs.compare import compare
from ft_pipeline.foreign_logs.looks import share_of
from ft_pipeline.foreign_logs.readers import read_log
from ft_pipeline.foreign_logs.scores import ModelScores, is_lower_better, number_of
from ft_pipeline_tests.end_to_end.project import ft_here

FRUIT = ("apple", "pear", "plum", "fig", "date", "lime", "kiwi", "melon", "grape", "peach", "quince", "mango", "olive")


def log(model: str, values: Sequence[float], metric: str = "score", **rest: Any) -> ModelScores:
    found = ModelScores(model, f"{model}.jsonl", **rest)
    for item, value in enumerate(values):
        found.add(metric, f"{item:04d}", value)
    return found


def asking(found: ModelScores, questions: Mapping[str, str]) -> ModelScores:
    found.questions.update(questions)
    return found


def test_a_model_that_is_better_than_all_others_is_named() -> None:
    right = [1.0] * 160 + [0.0] * 40
    found = compare([log("weak", right[::-1]), log("strong", [1.0] * 190 + [0.0] * 10), log("same", right)])
    assert found["best"] == "strong" == found["rows"][0]["model"]
    assert verdict(found) == "Use strong: it is shown to be better than each of the other 2, on 200 items."
    of_pair = {frozenset((lead["model"], lead["rival"])): lead["verdict"] for lead in found["leads"]}
    assert of_pair == {
        frozenset(("strong", "same")): "shown",
        frozenset(("strong", "weak")): "shown",
        frozenset(("weak", "same")): "open",
    }


def test_of_models_that_cannot_be_told_apart_none_is_named() -> None:
    values = np.random.default_rng(0).integers(0, 2, 100).astype(float)
    other = values.copy()
    other[:3] = 1 - other[:3]
    found = compare([log("one", values), log("two", other), log("bad", np.zeros(100))])
    assert found["best"] is None and set(found["candidates"]) == {"one", "two"}
    assert verdict(found).startswith("Not decided between ") and "bad" not in verdict(found)


def test_a_lead_counts_groups_and_clusters_of_items_once() -> None:
    right, better = [float(item % 5 != 0) for item in range(200)], [1.0] * 200
    assert compare([log("a", right), log("b", better)])["best"] == "b"
    groups = {f"{item:04d}": FRUIT[item % 13] for item in range(200)}
    grouped = compare([log("a", right, groups=groups), log("b", better, groups=groups)])
    assert (grouped["units"], grouped["units_are"], grouped["best"]) == (13, "groups of items", None)
    assert verdict(grouped).startswith("Not decided: 200 items in 13 groups of items are too few to tell")
    texts = {f"{item:04d}": f"How much is the {FRUIT[item % 13]} jam in jar {item}?" for item in range(200)}
    clustered = compare([asking(log("a", right), texts), asking(log("b", better), texts)])
    assert clustered["units"] < 50 and clustered["units_are"] == "clusters of like questions"


def test_lower_values_are_better_where_the_log_or_the_name_says_so() -> None:
    draw = np.random.default_rng(1)
    low, high = draw.uniform(1, 2, 60), draw.uniform(4, 5, 60)
    assert compare([log("low", low, "word_perplexity"), log("high", high, "word_perplexity")])["best"] == "low"
    assert compare([log("low", low), log("high", high)])["best"] == "high"
    pairs = (("low", low), ("high", high))
    said = [log(name, values, lower_is_better={"score": True}) for name, values in pairs]
    assert compare(said)["best"] == "low"
    said[0].lower_is_better["score"] = False
    with pytest.raises(UserError, match="The logs disagree on whether a lower score is better"):
        compare(said)


def test_items_that_a_model_has_no_score_of_are_left_out_and_counted() -> None:
    found = compare([log("whole", [1.0] * 50), log("part", [0.0] * 40, failed={"0045"})])
    assert found["items"] == 40 and found["left_out"] == {"part": 10}


def test_several_answers_to_an_item_are_one_value() -> None:
    many = log("many", [1.0, 0.0] * 20)
    for item in range(40):
        many.add("score", f"{item:04d}", 0.0)
    found = compare([many, log("other", [1.0] * 40)])
    assert found["items"] == 40 and {row["model"]: row["answers"] for row in found["rows"]} == {"many": 80, "other": 40}
    assert [row["value"] for row in found["rows"]] == [1.0, 0.25]


@pytest.mark.parametrize(
    ("logs", "metric", "message"),
    [
        ([log("a", [1.0] * 20)], None, "Only a was found. Name the logs of two models or more"),
        ([log("a", [1.0] * 20), log("a", [0.0] * 20)], None, "Two logs are of a. Give each a name of its own"),
        ([log("a", [1.0] * 20), log("b", [1.0] * 20, "acc")], None, "no metric in common (a: score; b: acc)"),
        ([log("a", [1.0] * 20), log("b", [1.0] * 20)], "acc", "Not every log has the metric acc. Choose one of score"),
        ([log("a", [1.0] * 20), log("b", [1.0])], None, "The models have 1 items with score in common"),
    ],
)
def test_what_cannot_be_compared_is_refused(logs: list[ModelScores], metric: str | None, message: str) -> None:
    with pytest.raises(UserError) as refused:
        compare(logs, metric)
    assert message in str(refused.value)


def test_of_several_metrics_a_person_names_the_one_that_decides() -> None:
    logs = [log("a", [1.0] * 20), log("b", [0.0] * 20)]
    for each in logs:
        each.values["other"] = each.values["score"]
    with pytest.raises(UserError, match=r"The logs have other, score. Choose one with --metric"):
        compare(logs)
    assert compare(logs, "other")["metric"] == "other"


def test_logs_of_different_data_are_refused() -> None:
    same = {f"{item:04d}": f"What is {item}?" for item in range(20)}
    with pytest.raises(UserError, match="1 items of a and b ask different things, such as 0003"):
        compare([asking(log("a", [1.0] * 20), same), asking(log("b", [1.0] * 20), same | {"0003": "What is three?"})])


def test_equal_models_are_rarely_told_apart_however_many_there_are() -> None:
    draw, told, worlds = np.random.default_rng(5), 0, 300
    groups = {f"{item:04d}": str(item // 3) for item in range(90)}
    for _ in range(worlds):
        hard = draw.uniform(0.2, 0.9, 30).repeat(3)
        logs = [log(str(model), (draw.uniform(size=90) < hard).astype(float), groups=groups) for model in range(5)]
        told += any(lead["verdict"] == "shown" for lead in compare(logs)["leads"])
    assert told / worlds <= 0.05 + 3 * 0.0126


# --- logs -------------------------------------------------------------------------------------------------------------


def lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_table_is_read_as_csv_and_as_jsonl(tmp_path: Path) -> None:
    rows = [
        {"item": item, "model": model, "score": score, "group": item // 2, "question": f"Is {item} even?"}
        for item in range(4)
        for model, score in (("a", "1"), ("b", "false"))
    ]
    table = tmp_path / "scores.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0]])
        writer.writeheader()
        writer.writerows(rows)
    for path in (table, lines(tmp_path / "scores.jsonl", rows)):
        first, second = read_log(path)
        assert first.values == {"score": {str(item): [1.0] for item in range(4)}} and first.groups["3"] == "1"
        assert second.values["score"]["2"] == [0.0] and second.questions["2"] == "Is 2 even?"


def test_lm_evals_samples_are_read_with_the_direction_of_the_results_beside_them(tmp_path: Path) -> None:
    def sample(number: int, chosen: str, value: float) -> dict[str, Any]:
        document = {"question": f"What is {number}?", "answer": str(number), "id": f"q{number}"}
        metrics = {"metrics": ["exact_match", "bits"], "exact_match": value, "bits": [1.0, 2]}
        return {"doc_id": number, "doc": document, "filter": chosen, **metrics}

    folder = tmp_path / "out" / "larger__model"
    old = [sample(number, "strict", 0.5) for number in range(3)]
    lines(folder / "samples_sums_2026-01-01T00-00-00.000000.jsonl", old)
    new = [sample(number, chosen, float(chosen == "loose")) for chosen in ("strict", "loose") for number in range(3)]
    lines(folder / "samples_sums_2026-02-01T00-00-00.000000.jsonl", new)
    directions = {"exact_match": True, "errors": False, "unknown": None}
    results = {"model_name": "larger/model", "higher_is_better": {"sums": directions}, "n-shot": {"sums": 5}}
    (folder / "results_2026-02-01T00-00-00.000000.json").write_text(json.dumps(results), encoding="utf-8")
    (scores,) = read_log(tmp_path / "out")
    assert scores.model == "larger/model" and scores.settings == {"number of examples (sums)": "5"}
    assert scores.values == {
        "exact_match,strict": {f"sums/{number}": [0.0] for number in range(3)},
        "exact_match,loose": {f"sums/{number}": [1.0] for number in range(3)},
    }
    assert scores.questions["sums/1"] == "What is 1?"
    assert scores.lower_is_better == {"exact_match": False, "errors": True}
    assert is_lower_better("errors,strict", [scores]) and not is_lower_better("exact_match,loose", [scores])


def test_what_lm_eval_logs_as_perplexity_of_a_sample_is_a_log_likelihood(tmp_path: Path) -> None:
    rows = [{"doc_id": 0, "doc": {"text": "Once"}, "filter": "none", "metrics": ["perplexity"], "perplexity": -2.5}]
    lines(tmp_path / "samples_lambada_2026-01-01T00-00-00.000000.jsonl", rows)
    results = {"model_name": "m", "higher_is_better": {"lambada": {"perplexity": False}}}
    (tmp_path / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps(results), encoding="utf-8")
    (scores,) = read_log(tmp_path)
    assert scores.values == {"log_likelihood": {"lambada/0": [-2.5]}} and not is_lower_better(
        "log_likelihood", [scores]
    )


@pytest.mark.parametrize(
    ("metric", "is_lower"),
    [
        ("answer", False),
        ("filter", False),
        ("reviewer", False),
        ("wer", True),
        ("val_loss", True),
        ("bits_per_byte", True),
    ],
)
def test_a_name_says_its_direction_by_whole_words(metric: str, is_lower: bool) -> None:
    assert is_lower_better(metric, []) == is_lower


def test_inspects_epochs_scorers_and_failed_samples_are_read(tmp_path: Path) -> None:
    samples = [
        {"id": "a", "input": "Hi?", "scores": {"match": {"value": "C"}, "rubric": {"value": {"tone": 0.5}}}},
        {"id": "a", "input": "Hi?", "scores": {"match": {"value": "I"}, "rubric": {"value": {"tone": 1}}}},
        {"id": 2, "input": [{"role": "user", "content": "Who?"}], "error": {"message": "too long"}},
    ]
    path = tmp_path / "log.json"
    path.write_text(json.dumps({"eval": {"model": "lab/one", "task": "greet"}, "samples": samples}), encoding="utf-8")
    (scores,) = read_log(path)
    assert scores.model == "lab/one" and scores.failed == {"2"}
    assert scores.values == {"match": {"a": [1.0, 0.0]}, "rubric/tone": {"a": [0.5, 1.0]}}
    assert scores.questions == {"a": "Hi?", "2": "Who?"}


def test_promptfoos_providers_prompts_and_errors_are_read(tmp_path: Path) -> None:
    def result(prompt: int, test: int, **rest: Any) -> dict[str, Any]:
        provider = {"id": "lab:one", "label": ""}
        shown = {"label": ("Say {{q}}", "Tell {{q}}")[prompt], "raw": f"Say {test}?"}
        known = {"provider": provider, "promptIdx": 2 * prompt, "testIdx": test, "vars": {"q": f"{test}?"}}
        return {**known, "prompt": shown, **rest}

    results = [
        result(0, 0, score=1, success=True, namedScores={"brief": 0.25}),
        result(1, 0, score=0, success=False),
        result(0, 1, error="timeout"),
    ]
    path = tmp_path / "output.json"
    path.write_text(json.dumps({"evalId": "e", "results": {"version": 3, "results": results}}), encoding="utf-8")
    first, second = read_log(path)
    assert (first.model, second.model) == ("lab:one prompt 1", "lab:one prompt 2")
    assert first.values == {"score": {"0": [1.0]}, "brief": {"0": [0.25]}} and first.failed == {"1"}
    assert second.values == {"score": {"0": [0.0]}}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.txt", "", "log.txt is no log that is known. Name a samples file"),
        ("log.json", "{", "cannot be read as a log (JSONDecodeError"),
        ("log.json", "{}", "log.json is no log that is known"),
        ("log.json", "[]", "has no scores"),
        ("log.eval", "PK", "log.eval cannot be unpacked (File is not a zip file). Convert it: inspect log convert"),
        ("log.jsonl", "[1]\n", "cannot be read as a log"),
        ("log.csv", "item,model\n1,a\n", "row 1 has no score. Each row needs item, model, score."),
        ("log.csv", "item,model,score\n1,a,good\n", "the score of row 1 is 'good'. Write a number."),
    ],
)
def test_a_file_that_is_no_log_is_one_sentence(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as refused:
        read_log(tmp_path / name)
    assert message in str(refused.value)


def test_a_path_that_is_missing_and_a_folder_without_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist. Name a samples file"):
        read_log(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no samples of lm-eval. Run lm-eval with --log_samples"):
        read_log(tmp_path)


def test_values_of_other_tools_are_numbers() -> None:
    known = [True, "C", "P", "i", " yes ", "0.5", 2, float("nan"), None, [1], "I"]
    assert [number_of(value) for value in known] == [1.0, 1.0, 0.5, None, 1.0, 0.5, 2.0, None, None, None, 0.0]


def test_the_command_compares_logs_without_a_project(tmp_path: Path) -> None:
    def table(model: str, wrong: int) -> str:
        rows = [{"item": item, "model": model, "score": float(item >= wrong)} for item in range(120)]
        return str(lines(tmp_path / f"{model}.jsonl", rows))

    one, other = table("one", 0), table("other", 60)
    told, renamed, lonely, document, alone = ft_here(
        tmp_path,
        ("compare", "--from", one, "--from", other),
        ("compare", "--from", f"new={one}", "--from", f"old={one}"),
        ("compare", "--from", one),
        ("compare", "--from", one, "--from", other, "--json"),
        ("compare", "--metric", "score"),
    )
    assert told.returncode == 0, told.stderr
    assert "Use one: it is shown to be better than the other, on 120 items." in told.stdout.replace("\n", " ")
    assert "Not decided between" in renamed.stdout.replace("\n", " ")
    assert lonely.returncode and "Name the logs of two models or more" in lonely.stderr
    assert json.loads(document.stdout)["best"] == "one"
    assert alone.returncode and "--metric is for logs of other tools" in alone.stderr


def test_a_name_before_a_log_of_several_models_is_put_before_each(tmp_path: Path) -> None:
    rows = [{"item": item, "model": model, "score": 1} for item in range(20) for model in ("a", "b")]
    path = lines(tmp_path / "both.jsonl", rows)
    found = answer_of([f"new={path}", str(path)], None).document
    assert {row["model"] for row in found["rows"]} == {"new/a", "new/b", "a", "b"}


WRITTEN = Path(__file__).parent / "written"
"""Logs that Inspect 0.3.285 (with a stand-in for a model) and lm-eval 0.4.13 (with its model `dummy`) wrote."""


def test_logs_that_inspect_wrote_get_a_verdict() -> None:
    found = answer_of([str(WRITTEN / f"{name}.eval") for name in ("weak", "strong")], None).document
    assert [row["model"] for row in found["rows"]] == ["mockllm/strong", "mockllm/weak"]
    assert (found["metric"], found["items"], found["best"]) == ("match", 20, "mockllm/strong")
    assert [row["value"] for row in found["rows"]] == [1.0, 0.6]


def test_a_damaged_log_of_inspect_is_one_sentence(tmp_path: Path) -> None:
    content = bytearray((WRITTEN / "weak.eval").read_bytes())
    content[20_000:20_400] = bytes(400)
    (tmp_path / "damaged.eval").write_bytes(content)
    with pytest.raises(UserError, match=r"damaged\.eval"):
        read_log(tmp_path / "damaged.eval")


def test_logs_that_lm_eval_wrote_get_a_verdict() -> None:
    found = answer_of([f"{name}={WRITTEN / 'lm_eval' / name}" for name in ("one", "two")], None).document
    assert (found["metric"], found["items"], found["best"]) == ("acc", 24, None)
    assert {row["model"]: round(row["value"], 4) for row in found["rows"]} == {"one": 0.3333, "two": 0.5833}
    assert found["units_are"] == "clusters of like questions"


def compare_again(looks: Path, folder: Path, seed: int, right: float = 0.8) -> dict[str, Any]:
    """Compare a model that is right in four of five cases with a new one."""
    paths = []
    for name, share, draw in (("old", 0.8, 0), ("new", right, seed)):
        path = folder / f"{name}.csv"
        scores = (np.random.default_rng(draw).random(400) < share).astype(int)
        lines = [f"{item},{name},{score}" for item, score in enumerate(scores)]
        path.write_text("\n".join(["item,model,score", *lines]), encoding="utf-8")
        paths.append(str(path))
    return answer_of(paths, None, looks).document


def test_each_look_at_other_scores_has_less_of_the_rate_of_errors(tmp_path: Path) -> None:
    looks = tmp_path / "looks.jsonl"
    found = [compare_again(looks, tmp_path, seed) for seed in range(1, 4)]
    assert [document["look"] for document in found] == [1, 2, 3]
    widths = [lead["high"] - lead["low"] for document in found for lead in document["leads"]]
    assert widths == sorted(widths)
    assert compare_again(looks, tmp_path, 1)["look"] == 1, "the same scores are the same look"
    assert len(looks.read_text(encoding="utf-8").splitlines()) == 3
    assert sum(share_of(look) for look in range(1, 10_000)) <= 1


def test_a_file_of_looks_that_was_changed_is_refused(tmp_path: Path) -> None:
    looks = tmp_path / "looks.jsonl"
    for seed in range(1, 4):
        compare_again(looks, tmp_path, seed)
    lines = looks.read_text(encoding="utf-8").splitlines()
    for kept in (lines[1:], [lines[0], lines[2]], [lines[0].replace("score", "other"), *lines[1:]], ["", *lines]):
        looks.write_text("\n".join([*kept, ""]), encoding="utf-8")
        with pytest.raises(UserError, match=r"looks.jsonl: line . is not as it was written. Restore the file from"):
            compare_again(looks, tmp_path, 9)
    looks.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError, match="the last line has no end"):
        compare_again(looks, tmp_path, 9)


@pytest.mark.long
def test_looks_together_rarely_call_equal_models_different(tmp_path: Path) -> None:
    """An opponent who compares until a lead is shown. Without the file, the rate would be some 25 %."""
    worlds, named = 200, {True: 0, False: 0}
    for world in range(worlds):
        draw = np.random.default_rng(world)
        tries = [(draw.random((200, 2)) < 0.7).astype(float) for _ in range(10)]
        for counts in (True, False):
            errors = [0.05 * share_of(look) if counts else 0.05 for look in range(1, 11)]
            named[counts] += any(
                compare([log("a", scores[:, 0]), log("b", scores[:, 1])], error=error)["best"] is not None
                for scores, error in zip(tries, errors, strict=True)
            )
    assert named[True] / worlds <= 0.05 + 3 * (0.05 * 0.95 / worlds) ** 0.5
    assert named[False] / worlds >= 0.2, "the opponent is one"
