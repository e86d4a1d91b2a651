"""Scores of the tools that answers call: by definition, by the workers, and in a comparison."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.decide.build import build as compare
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.comparison.deciding_metric import deciding_metric
from ft_pipeline.evaluation.comparison.estimates import estimate_samples, item_value
from ft_pipeline.evaluation.comparison.leads import interval
from ft_pipeline.evaluation.items import Item
from ft_pipeline.evaluation.metrics.call_metrics import call_metrics, check_rules
from ft_pipeline.evaluation.rivals.score import run as score_rivals
from ft_pipeline.evaluation.scoring import prompt_baseline
from ft_pipeline.evaluation.scoring.fingerprint import differences, evaluation_parts
from ft_pipeline.job import Job
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline_tests.distillation.fault_server import serving
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS, JobMaker, conversation
from ft_pipeline_tests.tiny import tiny_model

TOOLS = json.dumps(
    [{"type": "function", "function": {"name": "track", "description": "Where it is", "parameters": {}}}]
)
METRICS = ("call_names", "call_arguments", "call_order")


def call(name: str, **arguments: Any) -> dict[str, str]:
    return {"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))}


def item(calls: Sequence[Mapping[str, str]], tools: str | None = TOOLS) -> Item:
    answer = {"role": "assistant", "content": "" if calls else "No.", "tool_calls": list(calls) or None}
    return Item("a:1", "a", ({"role": "user", "content": "Where is it?"}, answer), tools)


A, B = call("track", order=7), call("find", who="Zoë", exact=True)


@pytest.mark.parametrize(
    ("reference", "answer", "scores"),
    [
        ([A], [A], (1, 1, 1)),
        ([A], [{**A, "arguments": ' {"order" : 7.0} '}], (1, 1, 1)),  # the same values
        ([A], [call("track", order="7")], (1, 0, 1)),
        ([A], [{**A, "arguments": "{"}], (1, 0, 1)),
        ([A], [call("track", order=7, again=True)], (1, 0, 1)),
        ([A], [], (0, 0, 0)),
        ([A], [A, A], (0, 0, 0)),
        ([A, B], [B, A], (1, 1, 0)),
        ([A, A, B], [A, B, B], (0, 0, 0)),
        ([], [], (1, 1, 1)),
        ([], [A], (0, 0, 0)),
    ],
)
def test_names_arguments_and_order(
    reference: list[dict[str, str]], answer: list[dict[str, str]], scores: tuple[int, int, int]
) -> None:
    assert call_metrics(item(reference), answer) == {
        "call_items": 1.0,
        **{name: float(score) for name, score in zip(METRICS, scores, strict=True)},
    }


def test_items_without_tools_do_not_count() -> None:
    assert set(call_metrics(item([], None), []).values()) == {0.0}
    assert call_metrics(item([A], None), [A])["call_items"] == 1.0  # a call without declarations


def calling_rows() -> list[dict[str, Any]]:
    """The conversations, two more test rows with tools, of which one calls them."""
    keys: dict[str, Any] = {"tool_calls": None, "weight": None}
    rows = [{**row, "messages": [{**turn, **keys} for turn in row["messages"]], "tools": None} for row in CONVERSATIONS]
    calling, plain = (
        {**conversation("test", question, "Wait."), "tools": TOOLS} for question in ("Where is 7?", "Are you well?")
    )
    calling["messages"][1] |= {"content": "", "tool_calls": [{"id": "1", **A}]}
    for row in (calling, plain):
        row["messages"] = [{**keys, **turn} for turn in row["messages"]]
    return [*rows, calling, plain]


@pytest.fixture
def with_tools(tmp_path: Path) -> dict[str, Path]:
    """The inputs `conversations` and `base_model`, whose template writes tools."""
    (tmp_path / "conversations").mkdir()
    pq.write_table(pa.Table.from_pylist(calling_rows()), tmp_path / "conversations" / "rows.parquet")
    base = tiny_model(tmp_path / "base", positions=2048)
    template = (files("trl") / "chat_templates" / "qwen2_5.jinja").read_text(encoding="utf-8")
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    return {"conversations": tmp_path / "conversations", "base_model": base}


def hosted(make_job: JobMaker, inputs: Mapping[str, Path], name: str, calls: list[dict[str, Any]]) -> Job:
    with serving(latency=0.0) as server:
        server.calls = [{"id": "call_1", "type": "function", "function": function} for function in calls]
        endpoint = server.teacher().model_dump(mode="json")["endpoint"]
        contender = {"name": name, "model": server.teacher().model, "endpoint": endpoint}
        job = make_job("contender_scores", name, inputs, contender=contender)
        score_rivals(job)
        assert [body["tools"] for body in server.bodies if body.get("tools")] == [json.loads(TOOLS)] * 2
    return job


def test_local_and_hosted_models_are_scored_and_compared(make_job: JobMaker, with_tools: dict[str, Path]) -> None:
    base = make_job("prompt_baseline", "own", with_tools, prompting={"variants": {}})
    prompt_baseline.run(base)
    right = hosted(make_job, with_tools, "right", [{"name": "track", "arguments": '{ "order": 7 }'}])
    wrong = hosted(make_job, with_tools, "wrong", [{"name": "track", "arguments": "{broken"}])
    inputs = {f"{job.out.parent.name}/contender_scores": job.out for job in (right, wrong)}
    comparison = compare({**inputs, "lora/prompt_baseline": base.out}, {"primary_metric": "call_arguments"})
    scores = {row.name: {name: row.scores[name].value for name in METRICS} for row in comparison.rows}
    by_name = {sample["prompt"]: sample for sample in pq.read_table(right.out / "samples.parquet").to_pylist()}
    # Both call the tool for both questions; only one reference does.
    assert [values for name, values in scores.items() if name != "base"] == [
        dict.fromkeys(METRICS, 0.5),
        {"call_names": 0.5, "call_arguments": 0.0, "call_order": 0.5},
    ]
    assert scores["base"]["call_arguments"] == 0.5  # random text calls nothing
    assert by_name["Where is 7?"]["answer"] == by_name["Where is 7?"]["reference"] == 'track {"order":7}'
    assert by_name["Where is 7?"]["exact_match"] == 1.0
    assert json.loads((base.out / "scores.json").read_text(encoding="utf-8"))["evaluation"]["calls"] == "1"


def test_logged_answers_may_have_calls(make_job: JobMaker, with_tools: dict[str, Path], tmp_path: Path) -> None:
    functions = [{"function": {"name": "track", "arguments": '{"order": 7}'}}]
    lines = [
        {"messages": row["messages"][:turn], "answer": "Yes."}
        for row in calling_rows()
        for turn in range(1, len(row["messages"]), 2)
    ]
    for line in lines:
        if line["messages"][0]["content"] == "Where is 7?":
            line |= {"answer": None, "tool_calls": functions}
    path = tmp_path / "answers.jsonl"

    def score(folder: str) -> dict[str, float]:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        contender = {"name": "log", "answers": "x"}
        job = make_job("contender_scores", folder, with_tools, contender=contender, answers_sha256=sha256)
        job.handling["answers"] = str(path)
        [row] = score_rivals(job)["rows"]
        assert row["unanswered"] == 0
        return {name: row["scores"][name]["value"] for name in METRICS}

    assert score("right") == dict.fromkeys(METRICS, 1.0)
    functions[0]["function"]["arguments"] = 7  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"is not a logged answer\. Write `answer` \(and `tool_calls`"):
        score("broken")


def test_a_teacher_whose_template_has_no_tools_is_refused(
    make_job: JobMaker, with_tools: dict[str, Path], tiny_base: Path
) -> None:
    inputs = {**with_tools, "teacher_model": tiny_base}
    prices = {"input_per_million": 0.0, "output_per_million": 0.0}
    job = make_job("teacher_scores", "teacher", inputs, teacher={"few_shot": 0}, name="other", prices=prices)
    with pytest.raises(
        UserError, match=r"teacher other cannot be scored: .* omits declared tools\. Choose another teacher\.model"
    ):
        score_rivals(job)
    inputs["teacher_model"] = with_tools["base_model"]
    job = make_job("teacher_scores", "same", inputs, teacher={"few_shot": 0}, name="other", prices=prices)
    [row] = score_rivals(job)["rows"]
    assert {*METRICS} < {*row["scores"]}


def test_test_rows_without_tools_have_no_scores_of_calls(make_job: JobMaker) -> None:
    job = make_job("prompt_baseline", "plain", prompting={"variants": {}})
    [row] = prompt_baseline.run(job)["rows"]
    document = json.loads((job.out / "scores.json").read_text(encoding="utf-8"))
    columns = pq.read_schema(job.out / "samples.parquet").names
    assert not {*METRICS, "call_items", "calls"} & {*row["scores"], *columns, *document["evaluation"]}


def test_calls_that_cannot_be_read_stop_the_scoring(make_job: JobMaker, with_tools: dict[str, Path]) -> None:
    base = with_tools["base_model"]
    template = (base / "chat_template.jinja").read_text(encoding="utf-8")
    (base / "chat_template.jinja").write_text(template.replace("<tool_call>", "<call>"), encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot be read back\. Choose a base_model"):
        prompt_baseline.run(make_job("prompt_baseline", "own", with_tools, prompting={"variants": {}}))
    shutil.rmtree(base)


def test_intervals_of_calls_are_those_of_the_conversations_with_tools() -> None:
    def sample(number: int, has_tools: bool) -> dict[str, Any]:
        return {
            "group": str(number),
            "call_items": float(has_tools),
            **dict.fromkeys(METRICS, float(has_tools and number % 2)),
        }

    few = {"m": [sample(number, True) for number in range(10)]}
    mixed = {"m": [*few["m"], *(sample(number, False) for number in range(10, 200))]}
    alone, among_others = (interval(estimate_samples(samples, {})["m"]["call_names"]) for samples in (few, mixed))
    assert alone == among_others and alone.value == 0.5
    assert item_value("call_names", mixed["m"][11]) is None and item_value("call_names", mixed["m"][1]) == 1.0


@pytest.mark.parametrize(("with_tools", "decides"), [(6, "call_arguments"), (5, "nats_per_byte")])
def test_calls_decide_where_most_answers_may_call_tools(with_tools: int, decides: str) -> None:
    samples = {
        "m": [
            {
                "group": str(number),
                "call_items": float(number < with_tools),
                **dict.fromkeys(METRICS, 1.0),
                "chrf": 50.0,
                "content_nats": 2.0,
                "content_bytes": 4,
            }
            for number in range(10)
        ]
    }
    estimates = estimate_samples(samples, {})
    found = deciding_metric("auto", {}, estimates)
    assert found.metric == decides
    assert ("60%" in found.because) == (decides == "call_arguments")
    own = {"m": {**estimates["m"], "mine": estimates["m"]["chrf"]}}
    assert deciding_metric("auto", {"decides": "mine"}, own).metric == "mine"


def pay(**arguments: Any) -> dict[str, str]:
    return {"name": "pay", "arguments": json.dumps(arguments)}


RULES: dict[str, Any] = {
    "pay.sum": {"number": 0.01},
    "pay.to.tags": "set",
    "pay.note": {"text": 60},
    "other.sum": "number",
}


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [
        ([pay(sum=5.004, to={"id": 1, "tags": ["b", "a"]}, note="for the lamps")], True),
        ([pay(sum=5, to={"id": 1, "tags": ["a", "b"]}, note="for the lamp")], True),
        ([pay(sum=5.1, to={"id": 1, "tags": ["a", "b"]}, note="for the lamp")], False),
        ([pay(sum=5, to={"id": 2, "tags": ["a", "b"]}, note="for the lamp")], False),
        ([pay(sum=5, to={"id": 1, "tags": ["a"]}, note="for the lamp")], False),
        ([pay(sum=5, to={"id": 1, "tags": ["a", "b"]}, note="rent")], False),
        ([pay(sum=5, to={"id": 1, "tags": ["a", "b"]}, note="for the lamp", more=1)], False),
        ([pay(sum=5, to={"id": 1, "tags": ["a", "b"]})], False),
        ([{"name": "pay", "arguments": "{"}], False),
        ([], False),
    ],
)
def test_arguments_are_compared_by_rules(answer: list[dict[str, str]], is_right: bool) -> None:
    reference = [pay(sum=5, to={"id": 1, "tags": ["a", "b"]}, note="for the lamp")]
    assert call_metrics(item(reference), answer, RULES)["call_arguments"] == float(is_right)


def test_calls_by_rules_are_matched_in_any_order() -> None:
    reference = [pay(sum=1), pay(sum=2)]
    assert call_metrics(item(reference), [pay(sum=2.001), pay(sum=1)], RULES)["call_arguments"] == 1.0
    assert call_metrics(item(reference), [pay(sum=1), pay(sum=1)], RULES)["call_arguments"] == 0.0
    assert call_metrics(item(reference), [*reference, pay(sum=2)], RULES)["call_arguments"] == 0.0


def test_a_rule_for_an_argument_that_no_reference_has_is_named() -> None:
    items = [item([pay(sum=1)])]
    check_rules({"pay.sum": "number"}, items)
    for path in ("pay.total", "order.sum"):
        with pytest.raises(UserError, match=f"no reference calls a tool with the argument '{path}'"):
            check_rules({path: "number"}, items)


def test_rules_of_arguments_need_a_tool_and_are_a_part_of_the_fingerprint(with_tools: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"has the key 'total'\. Write the tool, a dot and its argument"):
        EvaluationSettings.model_validate({"call_arguments": {"total": "number"}})
    config = {"evaluation": {"max_new_tokens": 8}, "general_questions": [], "general_texts": []}
    parts = [
        evaluation_parts(calling_rows(), with_tools["base_model"], {**config, **rules})
        for rules in ({}, {"call_arguments": {"track.order": "number"}})
    ]
    assert differences(*parts) == ["calls"]
    assert parts[0]["calls"] == "1"
