"""Checks of answers: JSON by fields and by schema, and labels."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.answer_metrics import AnswerMetrics
from ft_pipeline.evaluation.metrics.classification import NO_LABEL, Classification
from ft_pipeline.evaluation.metrics.custom_metrics import CustomMetric, resolve_metrics
from ft_pipeline.evaluation.metrics.json_fields import FieldsCheck, compare_fields, value_at
from ft_pipeline.evaluation.metrics.json_schema import SchemaCheck, read_schema
from ft_pipeline.evaluation.metrics.json_text import find_object
from ft_pipeline.settings.checks import ClassificationMetric, FunctionMetric
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.settings.yaml_file import read_settings

SCHEMA = {"type": "object", "properties": {"total": {"type": "number"}}, "required": ["total"]}
FIELDS: dict[str, Any] = {
    "order_id": "exact",
    "total": {"number": 0.01},
    "items": "set",
    "delivery.city": "exact",
    "reason": "text",
}
REFERENCE = {
    "order_id": "LF-1",
    "total": 12.5,
    "items": ["lamp", "rug"],
    "delivery": {"city": "Bath"},
    "reason": "the lid is cracked",
}


def item(reference: str) -> Item:
    return Item("a:1", "a", ({"role": "user", "content": "?"}, {"role": "assistant", "content": reference}))


def outcomes(answer: Mapping[str, Any] | None, reference: Mapping[str, Any] = REFERENCE) -> dict[str, Any]:
    return compare_fields(reference, answer, FIELDS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": 1}', {"a": 1}),
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Sure! Here it is: {"a": {"b": 2}} Anything {else}?', {"a": {"b": 2}}),
        ('{not json} {"a": 1} {"b": 2}', {"a": 1}),
        ('[{"a": 1}]', {"a": 1}),
        ("{'a': 1}", None),
        ('{"a": NaN}', None),
        ("no JSON", None),
        ("", None),
        ("{" * 100_000, None),
        ('{"a":' * 5_000, None),
    ],
)
def test_the_first_json_object_of_a_text_is_found(text: str, found: Any) -> None:
    assert find_object(text) == found


def test_an_answer_with_the_reference_values_is_right() -> None:
    assert outcomes(REFERENCE) == {
        **dict.fromkeys(("order_id", "total", "items", "delivery.city"), "right"),
        "reason": pytest.approx(1.0),
    }


def test_each_rule_compares_in_its_own_way() -> None:
    answer = {
        "order_id": " LF-1 ",
        "total": "12.51",
        "items": ["rug", "lamp", "lamp"],
        "delivery": {"city": "bath"},
        "reason": "the lid cracked",
    }
    found = outcomes(answer)
    assert (found["order_id"], found["total"], found["items"], found["delivery.city"]) == ("right",) * 3 + ("wrong",)
    assert 0.5 < found["reason"] < 1
    assert outcomes({**answer, "total": 12.52})["total"] == "wrong"
    assert outcomes({**answer, "items": ["lamp"]})["items"] == "wrong"
    assert outcomes({**answer, "items": "lamp"})["items"] == "wrong"


@pytest.mark.parametrize(
    ("rule", "expected", "found", "outcome"),
    [
        ("exact", 1, 1.0, "right"),
        ("exact", 1, True, "wrong"),
        ("exact", 1, "1", "wrong"),
        ("exact", {"a": 1, "b": 2}, {"b": 2, "a": 1}, "right"),
        ("exact", [1, 2], [2, 1], "wrong"),
        ("number", 0.3, 0.1 + 0.2, "right"),
        ("number", 5, "five", "wrong"),
        ("number", 1, True, "wrong"),
        ({"number": 0.5}, 10, 10.5, "right"),
        ({"number": 0.5}, 10, 1e400, "wrong"),
        ("set", [{"a": 1}, 2], [2.0, {"a": 1}], "right"),
        ("set", [], [1], "wrong"),
        ({"text": 60}, "the lid is cracked", "the lid cracked", "right"),
        ({"text": 60}, "the lid is cracked", "a scratch", "wrong"),
        ("text", "the lid is cracked", 3, 0.0),
    ],
)
def test_two_values_by_a_rule(rule: Any, expected: Any, found: Any, outcome: Any) -> None:
    assert compare_fields({"a": expected}, {"a": found}, {"a": rule}) == {"a": outcome}


def test_fields_that_one_side_lacks_are_wrong_and_those_that_both_lack_do_not_count() -> None:
    reference = {"order_id": "LF-1", "total": 3, "items": None}
    answer = {"order_id": "LF-1", "items": [], "delivery": {"city": None}, "note": "x", "more": {"a": 1}}
    assert outcomes(answer, reference) == {
        "order_id": "right",
        "total": "missing",
        "items": "extra",
        "note": "extra",
        "more.a": "extra",
    }
    assert outcomes(None, reference) == {"order_id": "missing", "total": "missing"}


def test_a_key_that_only_the_reference_declares_does_not_count() -> None:
    assert outcomes({"order_id": "LF-1", "page": 3}, {"order_id": "LF-1", "page": 2}) == {"order_id": "right"}


def test_a_path_leads_through_objects_and_lists() -> None:
    value = {"lines": [{"sku": "a"}, {"sku": "b"}]}
    assert value_at(value, "lines.1.sku") == "b"
    assert value_at(value, "lines.2.sku") is None
    assert value_at(value, "lines.sku") is None


def test_the_values_of_an_answer_are_the_share_of_its_right_fields_and_whether_all_are_right() -> None:
    check = FieldsCheck("order", FIELDS)
    reference = item(json.dumps(REFERENCE))
    all_right = check.score(reference, f"```json\n{json.dumps(REFERENCE)}\n```")
    assert (all_right["order"], all_right["order/all"]) == (pytest.approx(1.0), 1.0)
    values = check.score(reference, json.dumps({**REFERENCE, "total": 1, "note": "x"}))
    assert values["order"] == pytest.approx(4 / 6)
    assert values["order/all"] == 0.0
    assert json.loads(values["order/fields"])["note"] == "extra"
    assert check.score(reference, "I do not know.")["order"] == 0.0
    nothing = [check.score(item("{}"), answer) for answer in ("{}", "I do not know.")]
    assert [(values["order"], values["order/all"]) for values in nothing] == [(1.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        (['{"a": 1}', "a lamp"], "1 of 2 references are no JSON objects. The first is 'a lamp'. Correct these rows"),
        (
            ['{"b": {"c": 1}}'],
            "no reference has the field 'a'. Remove it, or correct its path. The first ones have b.c",
        ),
        (['{"a": 1}', '{"a": "n/a"}'], "the field 'a' is 'n/a' in a reference, which is no number. Correct the row"),
    ],
)
def test_references_that_do_not_go_with_the_fields_are_named(references: list[str], message: str) -> None:
    items = list(map(item, references))
    with pytest.raises(UserError) as caught:
        FieldsCheck("order", {"a": "number"}).check_references(items, items)
    assert str(caught.value).startswith(f"evaluation.metrics.order: {message}")


def test_answers_are_valid_by_a_schema_with_text_around_them() -> None:
    check = SchemaCheck("valid", SCHEMA)
    answers = ('Here: {"total": 3}', '{"total": "3"}', "{}", "3")
    assert [check.score(item(""), answer)["valid"] for answer in answers] == [1.0, 0.0, 0.0, 0.0]


def test_a_schema_that_no_reference_is_valid_by_is_refused() -> None:
    items = [item('{"total": "3"}')]
    with pytest.raises(
        UserError, match=r"none of the 1 references is valid by the schema.*'3' is not of type 'number'"
    ):
        SchemaCheck("valid", SCHEMA).check_references(items, items)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist or cannot be read. Correct `schema`, or add the file."),
        ("{", "is not JSON"),
        ("[]", "is [], which allows everything or nothing. Write an object with `properties`."),
        ('{"type": "objekt"}', "is no JSON Schema: type: 'objekt' is not valid"),
        ('{"properties": {"a": {"$ref": "#/$defs/b"}}}', "refers to '#/$defs/b', which is not in it"),
        ('{"$ref": "https://example.org/s.json"}', "refers to 'https://example.org/s.json', which is not in it"),
    ],
)
def test_a_file_that_is_no_schema_is_named(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "s.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_schema("valid", tmp_path, "s.json")
    assert str(caught.value).startswith("evaluation.metrics.valid: the schema s.json ")
    assert message in str(caught.value)


def test_a_schema_stays_inside_the_project_and_may_refer_to_its_own_parts(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    schema = {
        "$id": "https://example.org/s",
        "$defs": {"b": {"type": "number"}},
        "properties": {"a": {"$ref": "#/$defs/b"}},
    }
    (tmp_path / "s.json").write_text(json.dumps(schema), encoding="utf-8")
    assert read_schema("valid", tmp_path, "s.json") == schema
    assert SchemaCheck("valid", schema).score(item(""), '{"a": "x"}')["valid"] == 0.0
    with pytest.raises(UserError, match="is outside the project folder"):
        read_schema("valid", tmp_path / "p", "../s.json")


def test_a_schema_without_end_is_named() -> None:
    with pytest.raises(UserError, match="refers to itself without end"):
        SchemaCheck("valid", {"$ref": "#"}).score(item(""), "{}")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("refund", "refund"),
        (" **Refund.**\n", "refund"),
        ("Status_of-order", "status of order"),
        ("The label is: refund", "refund"),
        ("status of order, I think", "status of order"),
        ("refund or order", NO_LABEL),
        ("refunds", NO_LABEL),
        ("", NO_LABEL),
    ],
)
def test_a_label_is_found_in_a_text(text: str, label: str) -> None:
    assert Classification("topic", ["refund", "order", "status of order"]).find_label(text) == label


def test_labels_and_references_must_go_together() -> None:
    check = Classification("topic", ["refund", "order"])
    items = [item("refund"), item("other")]
    with pytest.raises(
        UserError, match=r"topic: 1 of 2 references have none of the labels refund, order. The first is 'other'"
    ):
        check.check_references(items, items)
    with pytest.raises(
        UserError, match=r"topic: no reference has the label 'order'. Remove it, or write it as in the rows"
    ):
        check.check_references(items[:1], items[:1])


def test_values_of_all_answers_are_added_to_each_of_them(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def spread(references, answers):\n    return len(set(answers))\n", encoding="utf-8"
    )
    path = tmp_path / "p.yaml"
    path.write_text(
        "name: x\nevaluation:\n  metrics:\n    topic: {type: classification, labels: [a, b], decides: true}\n"
        "    kinds: {function: mine.spread, corpus: true}\npromotion: {metric: topic/macro_f1}\n",
        encoding="utf-8",
    )
    metrics = resolve_metrics(tmp_path, read_settings(path, ProjectSettings).evaluation.metrics)
    answer_metrics = AnswerMetrics(None, json.loads(json.dumps(metrics)))
    pairs = (("a", "a"), ("b", "b"), ("b", "a"), ("a", "none"))
    samples = [
        {
            "group": str(number),
            "reference": reference,
            "answer": answer,
            **answer_metrics.score_answer(item(reference), answer),
        }
        for number, (reference, answer) in enumerate(pairs)
    ]
    means = answer_metrics.means(answer_metrics.complete(samples))
    assert means["topic"] == 0.5
    assert means["topic/macro_f1"] == pytest.approx((2 / 4 + 2 / 3) / 2)
    assert means["kinds"] == pytest.approx(3)
    assert list(answer_metrics.custom_definitions) == ["topic", "topic/macro_f1", "kinds"]


def test_the_error_of_a_function_of_all_answers_names_it(tmp_path: Path) -> None:
    source = "def one(answer):\n    return 1\n\ndef fails(answers):\n    return 1 / (len(answers) - 2)\n"
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")

    def load(function: str) -> CustomMetric:
        settings = {"m": FunctionMetric(function=f"mine.{function}", corpus=True)}
        return CustomMetric("m", resolve_metrics(tmp_path, settings)["m"])

    with pytest.raises(UserError, match=r"has the unknown parameter 'answer'\. Use only references, answers"):
        load("one")
    samples = [{"group": name, "reference": "", "answer": ""} for name in "abc"]
    with pytest.raises(UserError, match=r"Metric m \(mine\.fails\) failed in line 5 of mine\.py on 2 answers: ZeroDiv"):
        load("fails").score_all(samples)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{type: jsonschema, schema: a}", "have the type json_fields, json_schema, classification"),
        ("{type: json_schema}", "`evaluation.metrics.m.schema` is missing"),
        (
            "{type: json_fields, fields: {a: exakt}}",
            "`evaluation.metrics.m.fields.a` is 'exakt': input should be 'exact'",
        ),
        ("{type: json_fields, fields: {}}", "`evaluation.metrics.m.fields` is {}"),
        ("{type: json_fields, fields: {a..b: exact}}", "the field path 'a..b' has an empty part"),
        ("{type: json_fields, fields: {a: exact, a.b: exact}}", "`a.b` is a part of `a`. Compare only one"),
        ("{type: json_fields, fields: {a: {number: -1}}}", "`evaluation.metrics.m.fields.a.number` is -1"),
        ("{type: classification, labels: [a]}", "`evaluation.metrics.m.labels` is ['a']"),
        (
            "{type: classification, labels: [yes, no]}",
            "`evaluation.metrics.m.labels.0` is true: input should be a valid string",
        ),
        (
            "{type: classification, labels: [Refund, refund!]}",
            "the labels 'Refund' and 'refund!' are equal but for case",
        ),
        ("{type: classification, labels: [a, '++']}", "the label '++' has no letter and no digit"),
    ],
)
def test_an_invalid_setting_is_named(tmp_path: Path, lines: str, message: str) -> None:
    (tmp_path / "p.yaml").write_text(f"name: x\nevaluation:\n  metrics:\n    m: {lines}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_settings(tmp_path / "p.yaml", ProjectSettings)
    assert message in str(caught.value)


def test_only_one_check_decides(tmp_path: Path) -> None:
    labels = ClassificationMetric(type="classification", labels=["a", "b"], decides=True).model_dump_json()
    (tmp_path / "p.yaml").write_text(
        f"name: x\nevaluation: {{metrics: {{a: {labels}, b: {labels}}}}}\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match="a and b have `decides: true`"):
        read_settings(tmp_path / "p.yaml", ProjectSettings)
