"""A tool-calling set from the raw file to calls that OpenAI's client reads, and to feedback in the log."""

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from ft_pipeline.models.chat import render
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.store.artifacts import ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.end_to_end.calling import ARGUMENTS, THANKS, TOOLS, calling_project
from ft_pipeline_tests.end_to_end.project import current, ft
from ft_pipeline_tests.serving.test_serving import Served, serving, vllm
from ft_pipeline_tests.tiny_gguf import write_gguf

pytestmark = [pytest.mark.long, pytest.mark.waits]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after its first `ft run`."""
    root = calling_project(tmp_path_factory.mktemp("calling") / "shop")
    done = ft(root, "run")
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-2000:]
    return root


def ask(served: Served, text: str, **more: object) -> openai.types.chat.ChatCompletion:
    messages = [{"role": "user", "content": text}]
    return served.client.chat.completions.create(model=served.name, messages=messages, **more)  # type: ignore[call-overload,no-any-return]


WHERE, WELL = "Ann waits for the red lamp. Where is it?", "Thanks! Bob has it next week."


def test_the_trained_model_scores_its_calls(shop: Path) -> None:
    audit = current(shop, "training_data", "calls").summary["audit"]
    assert audit["checks"]["calls_read_back"]["passed"]
    rows = {row["name"]: row["scores"] for row in current(shop, "scores", "calls").summary["rows"]}
    for metric in ("call_names", "call_arguments", "call_order", "exact_match"):
        assert rows["merged"][metric]["value"] == 1.0
    plain = current(shop, "prompt_baseline", "calls").summary["rows"][0]["scores"]
    assert plain["call_arguments"]["value"] < 1.0
    shown = ft(shop, "compare")
    assert "called tools" in shown.stdout and "calls" in shown.stdout


def test_the_served_model_answers_with_tool_calls_and_logs_them(shop: Path, tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with serving(shop, "calls", "--log", str(folder)) as served:
        assert f"Logging every request and answer, with their texts, to {folder}" in served.said
        answered = ask(served, WHERE, tools=TOOLS, max_tokens=120)
        choice = answered.choices[0]
        assert choice.finish_reason == "tool_calls" and not choice.message.content
        [call] = choice.message.tool_calls or []
        assert (call.function.name, json.loads(call.function.arguments)) == ("find_parcel", ARGUMENTS)
        thanked = ask(served, WELL, tools=TOOLS, max_tokens=120).choices[0]
        assert (thanked.message.content, thanked.finish_reason, thanked.message.tool_calls) == (THANKS, "stop", None)
        with served.client.chat.completions.stream(
            model="calls", messages=[{"role": "user", "content": WHERE}], tools=TOOLS, max_tokens=120
        ) as stream:
            streamed = stream.get_final_completion()
        [again] = streamed.choices[0].message.tool_calls or []
        assert again.function.arguments == call.function.arguments
        reply = served.client.post(
            "/feedback", cast_to=object, body={"id": streamed.id, "rating": "down", "correction": "It is in Bonn."}
        )
        assert reply == {"id": streamed.id, "status": "recorded"}
    [file] = folder.iterdir()
    *calls, feedback = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["id"] for line in calls][::2] == [answered.id, streamed.id] and len(calls) == 3
    assert {line["workload_id"] for line in calls} == {"shop"}
    logged = calls[2]["response"]["choices"][0]["message"]["tool_calls"][0]["function"]
    assert logged == {"name": "find_parcel", "arguments": call.function.arguments}
    assert feedback["feedback"]["id"] == streamed.id


def test_a_conversation_with_calls_is_read_as_in_training(shop: Path) -> None:
    function = {"name": "find_parcel", "arguments": json.dumps(ARGUMENTS)}
    messages = [
        {"role": "system", "content": "You know where parcels are."},
        {"role": "user", "content": WHERE},
        {
            "role": "assistant",
            "content": "I look for it.",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "find_parcel", "content": "It is in Bonn."},
    ]
    rows: list[Any] = [dict(turn) for turn in messages]
    rows[2]["tool_calls"] = [{"id": "c1", **function}]
    tokenizer = load_tokenizer(current(shop, "merged_model", "calls").path)
    prompt = render(tokenizer, rows, add_generation_prompt=True, tools=json.dumps(TOOLS))
    assert "I look for it." in prompt
    with serving(shop, "calls") as served:
        answer = served.client.chat.completions.create(
            model="calls",
            messages=messages,  # type: ignore[arg-type]
            tools=TOOLS,
            max_tokens=4,
        )
    assert answer.usage and answer.usage.prompt_tokens == len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def test_vllm_gets_the_parser_of_the_template(shop: Path, tmp_path: Path) -> None:
    with serving(shop, "calls", **vllm(tmp_path / "bin")) as served:
        record = json.loads((tmp_path / "bin" / "record.json").read_text(encoding="utf-8"))
        arguments = record["arguments"]
        position = arguments.index("--enable-auto-tool-choice")
        assert arguments[position + 1 : position + 3] == ["--tool-call-parser", "hermes"]
        assert arguments[arguments.index("--port") + 1] != str(served.port)  # that of the server in front


def test_llama_cpp_answers_with_the_same_calls(shop: Path, tmp_path: Path) -> None:
    store = ArtifactStore(shop / "data" / "store")
    merged = current(shop, "merged_model", "calls")
    draft = store.begin(Spec("gguf", {"merged_model": merged.reference}, {"name": "calls", "types": ["f32"]}))
    file = write_gguf(merged.path, draft.out / "calls-f32.gguf")
    index = {"name": "calls", "files": {"f32": {"file": file.name}}}
    (draft.out / "gguf.json").write_text(json.dumps(index), encoding="utf-8")
    store.commit(draft, {})
    with serving(shop, "calls", "--engine", "llama.cpp") as served:
        choice = ask(served, WHERE, tools=TOOLS, max_tokens=120).choices[0]
        [call] = choice.message.tool_calls or []
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        assert (call.function.name, json.loads(call.function.arguments)) == ("find_parcel", ARGUMENTS)
        thanked = ask(served, WELL, tools=TOOLS, max_tokens=120).choices[0]
        assert (thanked.message.content, thanked.finish_reason) == (THANKS, "stop")
        with served.client.chat.completions.stream(
            model="calls", messages=[{"role": "user", "content": WHERE}], tools=TOOLS, max_tokens=120
        ) as stream:
            [again] = stream.get_final_completion().choices[0].message.tool_calls or []
        assert again.function.arguments == call.function.arguments
