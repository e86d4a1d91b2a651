"""`ft serve --engine llama.cpp`: real processes, real champion records, and the answers of the merged model."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.scored_files import find_gguf
from ft_pipeline.models.chat import with_prompt
from ft_pipeline.models.load import load_tokenizer
from ft_pipeline.models.serving_engines import OFFLINE_ENVIRONMENT, find_engine
from ft_pipeline.release.champion import rollback
from ft_pipeline.release.export.chat_template import template_with_variables
from ft_pipeline.release.export.served_folder import TEMPLATE_NAME, write_served_folder
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.serving.engine_pool import EnginePool
from ft_pipeline.serving.engine_process import EngineProcess, free_port, send
from ft_pipeline.serving.engine_start import SETTINGS_NAME, EngineStart, command_of, write_llama_cpp_settings
from ft_pipeline.serving.front import Front, front_server
from ft_pipeline.serving.llama_cpp_request import template_variables
from ft_pipeline.serving.metrics import ServingMetrics
from ft_pipeline_tests.release.trained import SYSTEM_PROMPT, Trained
from ft_pipeline_tests.serving.served_shop import PATIENCE, Clients, ServedShop, health, samples, wait_for
from ft_pipeline_tests.serving.test_serving import items, serving

LLAMA_CPP = find_engine("llama.cpp")


BEGINNING = 20
"""Characters that tell the answers of the models apart. Later ones may differ: requests at once round differently."""


@pytest.fixture(scope="module")
def shop(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> ServedShop:
    shop = ServedShop(trained, tmp_path_factory.mktemp("served") / "shop")
    shop.add_gguf("lora")
    shop.add_gguf("whole")
    return shop


@contextmanager
def client_of(shop: ServedShop, name: str, folder: Path) -> Iterator[openai.OpenAI]:
    """The client of a model that llama.cpp serves."""
    started = EngineStart(shop.store, LLAMA_CPP, None, folder).start(find_model(shop.store, name))
    try:
        started.wait_until_ready(60)
        pool = EnginePool()
        pool.serve(started.ready)
        port = free_port("127.0.0.1")
        with (
            front_server(Front(pool, ServingMetrics(pool)), "127.0.0.1", port),
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client,
        ):
            yield client
    finally:
        started.stop()
    assert not started.folder.exists()


NEAR_TIE = 0.02
"""Nats between the two best tokens. llama.cpp keeps keys and values in 16 bit, which can decide closer ones."""


def answer(folder: Path, messages: list[Any], tokens: int) -> str:
    """What transformers answers in 32 bit, one question at a time, up to a near tie."""
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = model.generate(
        **ids, max_new_tokens=tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
    )
    best = [torch.log_softmax(logits[0], -1).topk(2).values for logits in made.logits]
    sure = next((n for n, (first, second) in enumerate(best) if first - second < NEAR_TIE), len(best))
    text: str = tokenizer.decode(made.sequences[0][ids["input_ids"].shape[1] :][:sure], skip_special_tokens=True)
    return text.strip()


@pytest.mark.slow
def test_it_answers_as_the_merged_model_does(trained: Trained, shop: ServedShop, tmp_path: Path) -> None:
    merged = trained.inputs["lora"]["merged_model"].path
    with client_of(shop, "lora", tmp_path) as client:
        for messages, _ in items(trained, "lora/merged"):
            expected = answer(merged, with_prompt(messages, SYSTEM_PROMPT, []), 12)
            for more in ({}, {"stream": True}):
                made = client.chat.completions.create(model="lora", messages=messages, max_tokens=12, **more)
                text = (
                    "".join(chunk.choices[0].delta.content or "" for chunk in made if chunk.choices)
                    if more
                    else made.choices[0].message.content
                )
                # Broken characters at the end of an answer, of which this model writes many, are left out.
                known = expected[: max(len(expected) - 3, 1)]
                assert text.strip().startswith(known)
        with pytest.raises(openai.BadRequestError, match="writes no tools"):
            client.chat.completions.create(
                model="lora", messages=messages, tools=[{"type": "function", "function": {"name": "find"}}]
            )
        with pytest.raises(openai.BadRequestError, match="a part that is not a text"):
            image = {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}
            client.chat.completions.create(model="lora", messages=[{"role": "user", "content": [image]}])
        with pytest.raises(openai.NotFoundError, match="only /v1/chat/completions is served"):
            client.completions.create(model="lora", prompt="x")
        with pytest.raises(openai.BadRequestError, match="`response_format` is not supported"):
            client.chat.completions.create(model="lora", messages=messages, response_format={"type": "json_object"})
        assert [model.id for model in client.models.list()] == ["lora"]


FUNCTION = {
    "name": "find",
    "description": 'Find "it" <b>',
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Köln"]}}},
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "find", "arguments": {"city": "Köln", "days": 3}}}
TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Where is it? "},
    {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "thinking": "Hm.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "name": "find", "content": "Bonn"},
    {"role": "assistant", "content": "It is in Bonn."},
    {"role": "user", "content": "5 °C there?\n"},
]


@pytest.mark.parametrize("template", ["qwen2_5", "qwen3", "qwen3_5_nothink", "llama3_2", "glm4moe", "gemma4"])
def test_templates_get_turns_and_tools_as_in_training(shop: ServedShop, tmp_path: Path, template: str) -> None:
    """llama.cpp's own conversion of turns, and variables that it sets, change none of the prompt."""
    served = write_served_folder(shop.store, find_model(shop.store, "lora"), tmp_path, turns="variables")
    source = (files("trl") / "chat_templates" / f"{template}.jinja").read_text(encoding="utf-8")
    source = source.replace("bos_token", "''")  # the tiny model has none, and llama.cpp then makes one up
    (served.path / TEMPLATE_NAME).write_text(template_with_variables(source), encoding="utf-8")
    write_llama_cpp_settings(served, "lora", find_gguf(shop.store, find_model(shop.store, "lora"), None))
    tools = [{"type": "function", "function": FUNCTION}]
    served.tokenizer.chat_template = source
    expected = served.tokenizer.apply_chat_template(TURNS, tools=tools, add_generation_prompt=True, tokenize=False)
    address = ("127.0.0.1", free_port("127.0.0.1"))
    process = EngineProcess(command_of(LLAMA_CPP, "lora", tmp_path, address[1]), tmp_path, OFFLINE_ENVIRONMENT, address)
    try:
        wait_for(process.is_healthy)
        status, body = send(address, "POST", "/apply-template", template_variables(TURNS, tools), seconds=PATIENCE)
    finally:
        process.stop()
    assert (status, json.loads(body)["prompt"]) == (200, expected)


def test_a_prompt_that_is_read_differently_is_refused(shop: ServedShop, tmp_path: Path) -> None:
    started = EngineStart(shop.store, LLAMA_CPP, None, tmp_path).start(find_model(shop.store, "whole"))
    [first, *_] = started.probes
    other = replace(started, probes=[replace(first, token_ids=[*first.token_ids, 5])])
    try:
        with pytest.raises(
            UserError, match=r"reads the prompts of this model differently .* Use --engine transformers"
        ):
            other.wait_until_ready(PATIENCE)
        started.wait_until_ready(PATIENCE)
    finally:
        started.stop()


@pytest.mark.parametrize(
    ("name", "quantization", "message"),
    [
        ("lora", "q4_k_m", "no GGUF file of lora/merged of the type q4_k_m. Run `ft export lora DIR --format gguf"),
        ("few_shot", None, "serves GGUF files of merged models, and few_shot is none. Use --engine"),
    ],
)
def test_a_model_without_the_file_is_refused(
    shop: ServedShop, tmp_path: Path, name: str, quantization: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        EngineStart(shop.store, LLAMA_CPP, quantization, tmp_path).start(find_model(shop.store, name))
    assert list(tmp_path.iterdir()) == []


def test_slots_share_what_is_kept_in_memory_and_no_penalty_of_the_model_is_passed_on(
    shop: ServedShop, tmp_path: Path
) -> None:
    served = write_served_folder(shop.store, find_model(shop.store, "lora"), tmp_path, turns="variables")
    write_llama_cpp_settings(served, "lora", find_gguf(shop.store, find_model(shop.store, "lora"), None))
    settings = json.loads((served.path / SETTINGS_NAME).read_text(encoding="utf-8"))
    assert (settings["context"], settings["slots"]) == (4096, 4)
    assert settings.keys() == {"gguf", "template", "alias", "context", "slots"}


@pytest.mark.long
def test_champions_are_served_one_after_the_other_and_no_request_fails(trained: Trained, tmp_path: Path) -> None:
    """While programs ask all the time: a promotion, a champion that cannot be served, and two rollbacks."""
    shop = ServedShop(trained, tmp_path / "shop")
    for name in ("lora", "whole"):
        shop.add_gguf(name)
    assert shop.release("lora") == 1
    seen: dict[int, tuple[float, str]] = {}

    def wait_for_record(number: int) -> None:
        wait_for(lambda: health(served.port)["record"] == number)
        moment = time.monotonic()
        seen[number] = (moment, clients.ask(served.client, stream=False)[:BEGINNING])

    with serving(shop.root, "champion", "--engine", "llama.cpp") as served:
        clients = Clients(served.port)
        wait_for_record(1)
        with clients.running(4):
            shop.release("whole")
            wait_for_record(2)
            shop.release("lora", "adapter")
            wait_for(lambda: (health(served.port)["next"] or {}).get("status") == "failed")
            state = health(served.port)
            assert (state["record"], state["next"]["record"], state["code"]) == (2, 3, 200)
            assert "is an unmerged adapter" in state["next"]["reason"]
            rollback(shop.store.root)  # to the model that is still served
            wait_for_record(4)
            below = served.below()
            rollback(shop.store.root)
            wait_for_record(5)
        assert clients.failures == [] and len(clients.answers) > 20
        lora, whole = seen[1][1], seen[2][1]
        assert lora != whole and seen[4][1] == whole and seen[5][1] == lora
        answers = [(began, ended, text[:BEGINNING]) for began, ended, text in clients.answers]
        assert {text for _, _, text in answers} == {lora, whole}
        assert {text for began, ended, text in answers if began > seen[2][0] and ended < seen[4][0]} == {whole}
        assert {text for began, _, text in answers if began > seen[5][0]} <= {lora}
        numbers = samples(served.port)
        assert (numbers["swaps_total",], numbers["failed_swaps_total",]) == (2, 1)
        wait_for(lambda: sum(not process.is_running() for process in below) >= 2)  # the engine of record 2
        left = served.below()
        served.process.send_signal(signal.SIGINT)
        _, errors = served.process.communicate(timeout=PATIENCE)
        assert psutil.wait_procs(left, PATIENCE)[1] == []
    assert errors.count("Champion record 3 cannot be served, so whole/merged is served on.") == 1
    assert "Serving whole/merged (champion record 2)." in errors and "Traceback" not in errors
