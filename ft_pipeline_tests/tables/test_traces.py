"""Traces of production: what the calls of each tracer and log become, and what people said of them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.settings.data import DataSettings
from ft_pipeline.tables.build import build_table
from ft_pipeline.tables.conversations import build_conversations
from ft_pipeline.tables.file_result import SourceFile
from ft_pipeline.tables.formats.arrow_schema import columns_of
from ft_pipeline.tables.formats.convert import convert
from ft_pipeline.tables.formats.registry import FORMATS
from ft_pipeline.tables.formats.turns import plain
from ft_pipeline.tables.held_out import SuiteTexts
from ft_pipeline.tables.reading.sidecar import Sidecar
from ft_pipeline.tables.reason_codes import Fault, Refused
from ft_pipeline.tables.traces.documents import FileFeedback, rows_of
from ft_pipeline_tests.examples import examples
from ft_pipeline_tests.tables.helpers import TRACK, TRACK_TOOL, build, logged_call, validate, write_jsonl

OUTSIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "outside"
USER, SHIPPED = {"role": "user", "content": "Where is order 7?"}, {"role": "assistant", "content": "It was shipped."}
SYSTEM = {"role": "system", "content": "Be brief."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call_1", "name": "track", "arguments": '{"order":7}'}],
}
RESULT = {"role": "tool", "content": "shipped", "tool_call_id": "call_1", "name": "track"}
TOOLS = json.dumps([TRACK_TOOL], separators=(",", ":"))
FUNCTION = TRACK_TOOL["function"]


def records_of(document, sidecar=None):
    """The columns of the calls of a document that can be used."""
    sidecar = sidecar or Sidecar()
    records = [convert(FORMATS["traces"], row, sidecar) for row in rows_of(document, sidecar, FileFeedback())]
    assert not any(isinstance(record, Fault) for record in records), records
    return [dict(zip(FORMATS["traces"].column_names, record, strict=True)) for record in records]


def turns_of(document):
    (record,) = records_of(document)
    return record["messages"]


def generation(output, prompt=(USER,), **entries):
    """A Langfuse trace with one call. Objects are JSON texts there, often encoded twice."""
    observation = {"id": "o-1", "type": "GENERATION", "startTime": "1", "input": json.dumps(prompt), **entries}
    observation["output"] = output if isinstance(output, str) or output is None else json.dumps(json.dumps(output))
    return {"trace": {"id": "t-1", "sessionId": "s-1", "name": "help", "scores": []}, "observations": [observation]}


def span(attributes, **entries):
    """An OTLP document with one span. attributes: texts, or objects as OTLP writes them."""
    listed = [
        {"key": key, "value": {"stringValue": item} if isinstance(item, str) else item}
        for key, item in attributes.items()
    ]
    spans = [{"traceId": "abcd", "spanId": "1", "attributes": listed, **entries}]
    return {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}


def parts(role, *items):
    return {"role": role, "parts": list(items)}


TEXT_PART = {"type": "text", "content": "Where is order 7?"}
CALL_PART = {"type": "tool_call", "id": "call_1", "name": "track", "arguments": {"order": 7}}
LANGCHAIN_CALL = {"type": "ai", "content": "", "tool_calls": [{"name": "track", "args": {"order": 7}, "id": "call_1"}]}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "Be brief."}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Where is order 7?"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "track", "args": {"order": 7}}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "track", "response": {"state": "shipped"}}}]},
    ],
    "tools": [{"functionDeclarations": [FUNCTION]}],
}
RESPONSES_REQUEST = {
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Where is order 7?"}]},
        {"type": "reasoning", "summary": []},
        {"type": "function_call", "call_id": "call_1", "name": "track", "arguments": '{"order": 7}', "id": "fc"},
        {"type": "function_call_output", "call_id": "call_1", "output": "shipped"},
    ],
    "tools": [{"type": "function", **FUNCTION}],
}
RESPONSES_ANSWER = {
    "id": "resp_1",
    "status": "completed",
    "output": [
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It was shipped."}]}
    ],
}
CHUNKS = [
    {"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "It was "}}]},
    {"id": "c", "choices": [{"index": 0, "delta": {"content": "shipped."}, "finish_reason": None}]},
    {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
]
ADK = {
    "model": "m",
    "config": {"system_instruction": "Be brief.", "tools": [{"function_declarations": [FUNCTION]}]},
    "contents": [
        {"role": "user", "parts": [{"text": "Where is order 7?"}]},
        {"role": "model", "parts": [{"function_call": {"name": "track", "args": {"order": 7}}}]},
        {"role": "user", "parts": [{"function_response": {"name": "track", "response": "shipped"}}]},
    ],
}
SAID_THERE = {"type": "text", "text": "It was shipped."}
USED = {"type": "tool_use", "id": "call_1", "name": "track", "input": {"order": 7}}
ANTHROPIC = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [
        {"role": "user", "content": "Where is order 7?"},
        {"role": "assistant", "content": [USED]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "shipped"}]},
    ],
    "tools": [{"name": "track", "description": "Find an order", "input_schema": {}}],
}
DOCUMENTS = {
    "log": (logged_call("Where is order 7?", "It was shipped."), [USER, SHIPPED]),
    "log of JSON texts": (
        {key: json.dumps(item) for key, item in logged_call("Where is order 7?", "It was shipped.").items()},
        [USER, SHIPPED],
    ),
    "bodies": (
        {
            "request": {"body": {"messages": [USER]}},
            "response": {"status_code": 200, "body": {"choices": [{"message": SHIPPED}]}},
        },
        [USER, SHIPPED],
    ),
    "Helicone": (
        {"request_body": {"messages": [USER]}, "response_body": {"choices": [{"message": SHIPPED}]}},
        [USER, SHIPPED],
    ),
    "stream": ({"request": {"messages": [USER]}, "response": CHUNKS}, [USER, SHIPPED]),
    "answer that is JSON": (
        {"request": {"messages": [USER]}, "response": '{"state": "shipped"}'},
        [USER, {"role": "assistant", "content": '{"state": "shipped"}'}],
    ),
    "Responses API": (
        {"request": RESPONSES_REQUEST, "response": RESPONSES_ANSWER},
        [SYSTEM, USER, CALL, RESULT, SHIPPED],
    ),
    "Responses API, a text": (
        {"request": {"input": "Where is order 7?"}, "response": RESPONSES_ANSWER},
        [USER, SHIPPED],
    ),
    "LiteLLM": (
        {
            "call_type": "acompletion",
            "status": "success",
            "model": "m",
            "messages": [USER],
            "response": "It was shipped.",
        },
        [USER, SHIPPED],
    ),
    "Langfuse": (generation(SHIPPED), [USER, SHIPPED]),
    "Langfuse, a text": (generation('"It was shipped."'), [USER, SHIPPED]),
    "Langfuse, a text that is JSON": (
        generation(json.dumps('{"state": 1}')),
        [USER, {"role": "assistant", "content": '{"state": 1}'}],
    ),
    "Langfuse, messages and tools": (
        generation({"role": "assistant", "tool_calls": [TRACK]}, {"messages": [USER], "tools": [TRACK_TOOL]}),
        [USER, CALL],
    ),
    "Langfuse, LangChain": (
        generation(
            {"type": "ai", "content": "It was shipped."},
            [{"type": "system", "content": "Be brief."}, {"type": "human", "content": "Where is order 7?"}],
        ),
        [SYSTEM, USER, SHIPPED],
    ),
    "Langfuse, LangGraph": (
        generation(
            {"role": "assistant", "content": "", "additional_kwargs": {"tool_calls": [TRACK]}},
            [USER, {"role": "tool", "content": TRACK_TOOL}],
        ),
        [USER, CALL],
    ),
    "Langfuse, declared and called apart": (
        generation(
            {"role": "assistant", "content": ""},
            toolDefinitions={"track": json.dumps({"description": "Find an order", "parameters": {}})},
            toolCalls=[json.dumps({"id": "call_1", "name": "track", "arguments": '{"order": 7}'})],
        ),
        [USER, CALL],
    ),
    "Langfuse, Vercel": (
        generation(
            [{"toolCallId": "call_1", "toolName": "track", "input": {"order": 7}}],
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "Where is order 7?"}]}],
                "tools": [
                    {
                        "type": "function",
                        "name": "track",
                        "description": "Find an order",
                        "inputSchema": {"jsonSchema": {}},
                    }
                ],
            },
        ),
        [USER, CALL],
    ),
    "Langfuse, Gemini": (
        generation({"role": "model", "parts": [{"text": "It was shipped."}]}, GEMINI),
        [
            SYSTEM,
            USER,
            {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]},
            {"role": "tool", "content": '{"state": "shipped"}', "name": "track"},
            SHIPPED,
        ],
    ),
    "Langfuse, an answer of Gemini": (
        generation(
            {"content": {"role": "model", "parts": [{"text": "It was shipped."}]}, "finish_reason": "STOP"}, ADK
        ),
        [
            SYSTEM,
            USER,
            {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]},
            {"role": "tool", "content": "shipped", "name": "track"},
            SHIPPED,
        ],
    ),
    "Gemini": (
        {"request": GEMINI, "response": {"candidates": [{"content": {"parts": [{"text": "It was shipped."}]}}]}},
        [
            SYSTEM,
            USER,
            {**CALL, "tool_calls": [{"name": "track", "arguments": '{"order":7}'}]},
            {"role": "tool", "content": '{"state": "shipped"}', "name": "track"},
            SHIPPED,
        ],
    ),
    "Anthropic": (
        {"request": ANTHROPIC, "response": {"role": "assistant", "content": [SAID_THERE], "stop_reason": "end_turn"}},
        [SYSTEM, USER, CALL, RESULT, SHIPPED],
    ),
    "Anthropic, a call": (
        {
            "request": {**ANTHROPIC, "messages": [USER]},
            "response": {"role": "assistant", "content": [USED], "stop_reason": "tool_use"},
        },
        [SYSTEM, USER, CALL],
    ),
    "Langfuse, one observation": (
        {"id": "o", "traceId": "t", "type": "GENERATION", "input": json.dumps([USER]), "output": "It was shipped."},
        [USER, SHIPPED],
    ),
    "Langfuse, a batch": (
        {
            "batch": [
                {"type": "trace-create", "body": {"id": "t"}},
                {"type": "generation-create", "body": {"id": "o", "traceId": "t", "input": [USER]}},
                {"type": "generation-update", "body": {"id": "o", "output": SHIPPED, "input": None}},
            ]
        },
        [USER, SHIPPED],
    ),
    "OpenTelemetry": (
        span(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
                "gen_ai.input.messages": json.dumps([parts("user", TEXT_PART)]),
                "gen_ai.output.messages": json.dumps(
                    [{**parts("assistant", CALL_PART), "finish_reason": "tool_calls"}]
                ),
                "gen_ai.tool.definitions": json.dumps([{"type": "function", **FUNCTION}]),
            }
        ),
        [SYSTEM, USER, CALL],
    ),
    "OpenTelemetry, results and reasoning": (
        span(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.input.messages": json.dumps(
                    [
                        parts("user", TEXT_PART),
                        parts("assistant", CALL_PART),
                        parts("tool", {"type": "tool_call_response", "id": "call_1", "response": "shipped"}),
                    ]
                ),
                "gen_ai.output.messages": json.dumps(
                    [
                        parts(
                            "assistant",
                            {"type": "reasoning", "content": "See."},
                            {"type": "text", "content": "It was shipped."},
                        )
                    ]
                ),
                "gen_ai.tool.definitions": json.dumps([FUNCTION]),
            }
        ),
        [USER, CALL, RESULT, {**SHIPPED, "reasoning_content": "See."}],
    ),
    "OpenTelemetry, events": (
        span(
            {"gen_ai.operation.name": "chat", "gen_ai.system": "openai"},
            events=[
                {
                    "name": "gen_ai.system.message",
                    "attributes": [{"key": "content", "value": {"stringValue": "Be brief."}}],
                },
                {
                    "name": "gen_ai.user.message",
                    "attributes": [{"key": "content", "value": {"stringValue": "Where is order 7?"}}],
                },
                {
                    "name": "gen_ai.choice",
                    "attributes": [{"key": "message", "value": {"stringValue": json.dumps(SHIPPED)}}],
                },
            ],
        ),
        [SYSTEM, USER, SHIPPED],
    ),
    "OpenTelemetry, log records": (
        {
            "resourceLogs": [
                {
                    "scopeLogs": [
                        {
                            "logRecords": [
                                {
                                    "spanId": "1",
                                    "eventName": name,
                                    "body": {"kvlistValue": {"values": [{"key": key, "value": value}]}},
                                }
                                for name, key, value in (
                                    ("gen_ai.user.message", "content", {"stringValue": "Where is order 7?"}),
                                    (
                                        "gen_ai.choice",
                                        "message",
                                        {
                                            "kvlistValue": {
                                                "values": [
                                                    {"key": "content", "value": {"stringValue": "It was shipped."}}
                                                ]
                                            }
                                        },
                                    ),
                                )
                            ]
                        }
                    ]
                }
            ]
        },
        [USER, SHIPPED],
    ),
    "OpenLLMetry": (
        span(
            {
                "llm.request.type": "chat",
                "gen_ai.prompt.0.role": "user",
                "gen_ai.prompt.0.content": "Where is order 7?",
                "gen_ai.completion.0.role": "assistant",
                "gen_ai.completion.0.tool_calls.0.id": "call_1",
                "gen_ai.completion.0.tool_calls.0.name": "track",
                "gen_ai.completion.0.tool_calls.0.arguments": '{"order": 7}',
                "llm.request.functions.0.name": "track",
                "llm.request.functions.0.description": "Find an order",
                "llm.request.functions.0.parameters": "{}",
            }
        ),
        [USER, CALL],
    ),
    "OpenInference": (
        span(
            {
                "openinference.span.kind": "LLM",
                "llm.input_messages.0.message.role": "user",
                "llm.input_messages.0.message.contents.0.message_content.type": "text",
                "llm.input_messages.0.message.contents.0.message_content.text": "Where is order 7?",
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.tool_calls.0.tool_call.id": "call_1",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "track",
                "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"order": 7}',
                "llm.tools.0.tool.json_schema": json.dumps(TRACK_TOOL),
            }
        ),
        [USER, CALL],
    ),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_shape_becomes_the_same_conversation(name):
    document, expected = DOCUMENTS[name]
    (record,) = records_of(document)
    assert record["messages"] == expected
    if any("tool_calls" in turn for turn in expected):
        assert record["tools"] == TOOLS


def test_a_call_has_the_session_and_the_workload_of_its_log():
    (record,) = records_of(logged_call("a", "b", session_id="s-1", workload_id="help"))
    assert (record["session"], record["tags"]) == ("s-1", ["workload: help"])
    (record,) = records_of(generation(SHIPPED))
    assert (record["session"], record["tags"]) == ("s-1", ["workload: help"])
    (record,) = records_of(span({"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "c-1", **_messages()}))
    assert record["session"] == "c-1"


def _messages():
    return {
        "gen_ai.input.messages": json.dumps([parts("user", TEXT_PART)]),
        "gen_ai.output.messages": json.dumps([parts("assistant", {"type": "text", "content": "It was shipped."})]),
    }


def test_only_the_longest_conversation_of_a_thread_stays(tmp_path):
    first = logged_call("Where is order 7?", "It was shipped.")
    second = logged_call("", "On Monday.", request={"messages": [USER, SHIPPED, {"role": "user", "content": "When?"}]})
    third = logged_call("", "In the north.", request={"messages": [USER, {**SHIPPED, "content": "No idea."}, USER]})
    report = validate(write_jsonl(tmp_path / "a.jsonl", [first, second, third, first]), "traces")
    assert report["reasons"] == {"earlier_turns": [1, 4]}
    assert (report["read"], report["accepted"], report["duplicates"]) == (4, 2, 2)


def test_a_thread_may_go_on_in_another_file(tmp_path):
    first = logged_call("Where is order 7?", "It was shipped.")
    second = logged_call("", "On Monday.", request={"messages": [USER, SHIPPED, {"role": "user", "content": "When?"}]})
    report = build(tmp_path, "traces", {"monday.jsonl": [first], "tuesday.jsonl": [second]})
    assert report.reasons == {"earlier_turns": 1} and report.accepted == 1
    aside = pq.read_table(tmp_path / "out" / "set_aside.parquet").to_pylist()
    assert [(row["file"], row["copy_of"]) for row in aside] == [("monday.jsonl", "tuesday.jsonl:1")]


TEMPLATE = "Sort the message into one of these classes: order, refund, other. Answer with the class alone. Message: {}"


def test_rows_that_share_long_instructions_are_not_near_duplicates(tmp_path):
    asked = ("the kettle is broken", "my parcel got lost", "may I pay later", "who are you", "stop the newsletter")
    rows = [logged_call(TEMPLATE.format(question) * 3, "other") for question in asked]
    twice = logged_call(TEMPLATE.format(asked[0]) * 3, "Other.")
    report = validate(write_jsonl(tmp_path / "a.jsonl", [*rows, twice]), "traces")
    assert report["reasons"] == {"near_duplicate": [6]}


@pytest.mark.parametrize("group_templates", [True, False])
def test_all_calls_of_a_session_are_in_one_split(tmp_path, group_templates):
    words = [
        "amber",
        "birch",
        "cedar",
        "delta",
        "ember",
        "fjord",
        "grove",
        "heath",
        "inlet",
        "jetty",
        "knoll",
        "ledge",
        "marsh",
        "north",
        "oasis",
        "plain",
    ]
    rows = [
        logged_call(f"Tell me of {first} and {second}", f"{second} {first}", session_id=f"s-{number % 10}")
        for number, (first, second) in enumerate((a, b) for a in words for b in words if a < b)
    ]
    shares = DataSettings(validation_share=0.2, test_share=0.3, group_templates=group_templates)
    build(tmp_path, "traces", {"a.jsonl": rows}, shares=shares)
    folders = {"traces": tmp_path / "out"}
    report = build_conversations(folders, tmp_path / "conversations", settings=shares, suite=SuiteTexts())
    assert report.checks["no_prompt_straddles"].passed
    table = pq.read_table(tmp_path / "conversations" / "rows.parquet").to_pylist()
    sessions = {row["row"]: rows[row["row"] - 1]["session_id"] for row in table}
    splits = {
        session: {row["split"] for row in table if sessions[row["row"]] == session} for session in sessions.values()
    }
    assert {len(found) for found in splits.values()} == {1}
    assert len({row["split"] for row in table}) > 1 and len(table) > 60


def feedback(identity, **said):
    return {"feedback": {"id": identity, "timestamp": 1, **said}}


def written(folder, rows, sidecar=None):
    """Build the table of a file of traces; return its turns, its tags and its reasons."""
    report = build(folder, "traces", {"a.jsonl": rows}, sidecars={"a.jsonl": sidecar} if sidecar else None)
    table = pq.read_table(folder / "out" / "rows.parquet").to_pylist()
    return [plain(row["messages"]) for row in table], [row["tags"] for row in table], report.reasons


def test_feedback_of_people_is_a_filter_a_label_or_the_right_answer(tmp_path):
    rows = [
        logged_call("Where is order 7?", "It was lost.", id="a"),
        logged_call("Where is order 8?", "At the carrier.", id="b"),
        logged_call("Where is my refund?", "Nowhere.", id="c"),
        feedback("a", correction="It was shipped."),
        feedback("b", rating="up"),
        feedback("c", rating="down"),
    ]
    turns, tags, reasons = written(tmp_path, rows)
    assert turns == [
        [USER, SHIPPED],
        [{**USER, "content": "Where is order 8?"}, {**SHIPPED, "content": "At the carrier."}],
    ]
    assert tags == [None, ["rated up"]] and reasons == {"rated_down": 1}


def test_a_distrusted_answer_is_shown_and_not_trained_where_the_conversation_goes_on(tmp_path):
    wrong = {"role": "assistant", "content": "It was lost."}
    later = logged_call(
        "", "Sorry, it was shipped.", id="b", request={"messages": [USER, wrong, {**USER, "content": "No!"}]}
    )
    rows = [logged_call("Where is order 7?", "It was lost.", id="a"), later, feedback("a", rating="down")]
    turns, _, reasons = written(tmp_path, rows)
    assert [turn.get("weight") for turn in turns[0]] == [None, 0.0, None, None]
    assert reasons == {"rated_down": 1}


def test_scores_of_judges_are_never_taken_for_those_of_people(tmp_path):
    def rated(number, **score):
        document = generation({"role": "assistant", "content": f"It was shipped on day {number}, in the morning."})
        document["trace"] |= {
            "id": str(number),
            "scores": [{"name": "quality", "dataType": "BOOLEAN", "value": 0, **score}],
        }
        return document

    rows = [
        rated(1, source="EVAL"),
        rated(2, source="API"),
        rated(3, source="ANNOTATION"),
        rated(4, source="API", name="thumb"),
        rated(5, source="EVAL", name="thumb"),
        rated(6, source="ANNOTATION", dataType="NUMERIC", value=0.4),
        rated(7, source="ANNOTATION", dataType="CATEGORICAL", stringValue="bad", value=None),
    ]
    _, _, reasons = written(tmp_path, rows, {"feedback": ["thumb"], "allow": ["near_duplicate"]})
    assert reasons == {"rated_down": 3}  # 3, 4 and 7


def test_a_correction_in_langfuse_takes_the_place_of_the_answer(tmp_path):
    score = {
        "name": "output",
        "dataType": "CORRECTION",
        "value": 0,
        "stringValue": "It was shipped.",
        "source": "ANNOTATION",
    }
    document = generation({"role": "assistant", "content": "It was lost."})
    document["trace"]["corrections"] = [score]
    turns, _, _ = written(tmp_path, [document])
    assert turns == [[USER, SHIPPED]]


def test_a_sidecar_declares_the_tools_that_a_tracer_did_not_log():
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.input.messages": json.dumps([parts("user", TEXT_PART)]),
        "gen_ai.output.messages": json.dumps([parts("assistant", CALL_PART)]),
    }
    (record,) = records_of(span(attributes), Sidecar(tools=[FUNCTION]))
    assert record["messages"] == [USER, CALL] and record["tools"] == TOOLS


def test_a_file_may_be_one_object_over_several_lines(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(generation(SHIPPED), indent=2))
    assert validate(path, "traces")["accepted"] == 1
    path.write_text(json.dumps([generation(SHIPPED)], indent=2))
    assert validate(path, "traces")["accepted"] == 1


def test_calls_without_content_are_refused_with_the_way_out(tmp_path):
    rows = [span({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}) for _ in range(3)]
    report = validate(write_jsonl(tmp_path / "a.jsonl", rows), "traces")
    assert report["error"]["code"] == "no_content"
    assert "none of the 3 calls" in report["error"]["message"] and "OTEL_" in report["error"]["message"]


def test_a_number_that_json_does_not_know_stops_no_file(tmp_path):
    good = json.dumps(logged_call("Where is it?", "On its way."))
    bad = f'{{"request": {json.dumps(logged_call("And now?", "")["request"])}, "response": [Infinity, {"9" * 500}]}}'
    lines = [good, bad]
    report = validate(write_jsonl(tmp_path / "a.jsonl", lines), "traces")
    assert (report["read"], report["status"]) == (2, "accepted")


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("LangSmith", {"id": "1", "run_type": "llm", "inputs": {}, "outputs": {}}),
        ("LangSmith", {"post": [], "patch": []}),
        ("MLflow", {"info": {"trace_id": "1"}, "data": {"spans": []}}),
        ("OpenAI's stored completions", {"id": "1", "object": "chat.completion", "choices": []}),
        ("OpenAI's evals", {"datasource_item": {}, "sample": {}}),
    ],
)
def test_tools_that_are_known_and_not_read_are_named(tmp_path, name, document):
    report = validate(write_jsonl(tmp_path / "a.jsonl", [document]), "traces")
    assert report["error"]["code"] == "unknown_format" and f"an export of {name}" in report["error"]["message"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([{"feedback": {"rating": "up"}}, {"feedback": 1}], "the feedback has no `id` of a call"),
        ([1, {"a": 1}], "the document is of no known tracer"),
        ([{"feedback": {"rating": "up"}}, {"a": 1}], "the document is of no known tracer"),
    ],
)
def test_objects_of_which_none_can_be_read_are_refused_alike_in_lines_and_in_an_array(
    tmp_path, documents, message, suffix
):
    path = write_jsonl(tmp_path / "a.jsonl", documents)
    if suffix == ".json":
        path = tmp_path / "a.json"
        path.write_text(json.dumps(documents))
    error = validate(path, "traces")["error"]
    assert error["code"] == "unknown_format" and error["message"].startswith(message)


@pytest.mark.skipif(not OUTSIDE.exists(), reason="../shared/data/outside is not here")
@pytest.mark.parametrize(
    ("file", "read", "reasons"),
    [
        ("flywheel_news_300/news-classifier-300_dataset.jsonl", 300, {}),
        ("langfuse_traces_a/openai-agents-2025-09-30.trace.json", 2, {"earlier_turns": [1]}),
        ("langfuse_traces_a/langgraph-python-2025-08-22.trace.json", 2, {"earlier_turns": [1]}),
        ("langfuse_traces_a/autogen-2025-06-06.trace.json", 1, {"unsupported_shape": [1]}),
        ("litellm_standard_log/standard_logging_payload.json", 1, {}),
        ("otel_otlp_genai/fixture_a.otlp.json", 1, {"undeclared_tool": [1]}),
    ],
)
def test_real_files_are_read(file, read, reasons):
    report = validate(OUTSIDE / file, "traces")
    assert (report["status"], report["read"], report["reasons"]) == ("accepted", read, reasons)


@pytest.mark.skipif(not OUTSIDE.exists(), reason="../shared/data/outside is not here")
@pytest.mark.parametrize(
    "file", ["fixture_b.otlp.json", "fixture_legacy.otlp.json", "openai_v2_weather_legacy.otlp.json"]
)
def test_real_files_without_content_say_so(file):
    assert validate(OUTSIDE / "otel_otlp_genai" / file, "traces")["error"]["code"] == "no_content"


def test_a_correction_is_a_preference_pair_too(tmp_path):
    rows = [
        logged_call("Where is order 7?", "It was lost.", id="a", workload_id="help"),
        logged_call("Where is order 8?", "At the carrier.", id="b"),
        feedback("a", correction="It was shipped."),
    ]
    path = write_jsonl(tmp_path / "log.jsonl", rows)
    source = SourceFile("../traces/log.jsonl", path, "")
    report = build_table("preferences", [source], tmp_path / "pairs", max_quarantined=0.1)
    (account,) = report.files
    assert (account.file, account.read, account.accepted) == ("../traces/log.jsonl", 1, 1)
    (pair,) = pq.read_table(tmp_path / "pairs" / "rows.parquet").to_pylist()
    assert plain(pair["prompt_messages"]) == [USER] and plain(pair["chosen"]) == [SHIPPED]
    assert plain(pair["rejected"]) == [{**SHIPPED, "content": "It was lost."}]
    assert (pair["tags"], pair["row"]) == (["workload: help"], 1)


@pytest.mark.parametrize("content", [b'{"run_type": "llm", "inputs": {}}\n', b"", None])
def test_a_trace_file_without_pairs_is_no_file_of_the_preferences(tmp_path, content):
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps(logged_call("a", "b")).encode() + b"\n" if content is None else content)
    source = SourceFile("../traces/log.jsonl", path, "")
    report = build_table("preferences", [source], tmp_path / "pairs", max_quarantined=0.1)
    assert report.files == [] and report.passed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('a{["<>', max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "type", "x"]), inner)
    ),
    max_leaves=5,
)


def places_in(value, path=()):
    """All places in a document."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places_in(item, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], new)
    return copied


@examples(120)
@given(st.data())
def test_a_document_with_anything_anywhere_gives_rows_or_faults(data):
    document, _ = DOCUMENTS[data.draw(st.sampled_from(sorted(DOCUMENTS)))]
    place = data.draw(st.sampled_from(list(places_in(document))))
    broken = replaced(document, place, data.draw(JSON))
    try:
        rows = list(rows_of(broken, Sidecar(), FileFeedback(distrusted={"none"})))
    except Refused:
        return
    for row in rows:
        record = convert(FORMATS["traces"], row, Sidecar())
        assert isinstance(record, Fault) or columns_of(FORMATS["traces"], [record])


def test_instructions_after_the_question_do_not_make_equal_labels_a_leak(tmp_path):
    """A rare class would lose all of its training rows, if one of them is a test row."""
    names = [f"{chr(97 + number % 26)}tone{chr(97 + number % 11)}mill" for number in range(16)]
    labels = ["order status", "refund request", "opening hours", "gift card"]
    tail = "Which of the classes above fits the message best? Answer only with the name of the class."
    rows = [
        logged_call(f"A message of {first} about {second} and {first}: {tail}", labels[min(number % 17, 3)])
        for number, (first, second) in enumerate((a, b) for a in names for b in names if a < b)
    ]
    shares = DataSettings(validation_share=0.2, test_share=0.2)
    build(tmp_path, "traces", {"a.jsonl": rows}, shares=shares)
    report = build_conversations({"traces": tmp_path / "out"}, tmp_path / "c", settings=shares, suite=SuiteTexts())
    assert report.set_aside.get("train_test_overlap", 0) <= 5, "messages with two names that one other row has"
