"""Ollama's template, run by Go, gives the tokens of the chat template; and the Modelfile is read as it was meant."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unicodedata import unidata_version

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.go_template import go_template, is_printable
from ft_pipeline.gguf.ollama import (
    PROBE_TEXTS,
    ServedPrompt,
    modelfile,
    probe_conversations,
    quoted,
    require_same_tokens,
)
from ft_pipeline.gguf.prompt_form import Around, PromptForm, SystemPlace, prompt_form
from ft_pipeline.models.base_model import find_embedded
from ft_pipeline.models.chat import render, with_prompt
from ft_pipeline_tests.gguf.go_renderer import GoRenderer, go_renderer
from ft_pipeline_tests.release.chat_families import OWN, family
from ft_pipeline_tests.tiny import CHATML, tiny_tokenizer

DOCUMENT = Path(__file__).parents[2] / "docs" / "ollama.md"
ROWS = re.findall(r"^\| (`.*`) \| (passes|refused) \|.*\| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
PASSING = {name: runs for names, result, runs in ROWS if result == "passes" for name in re.findall(r"\w+", names)}
REFUSED = [name for names, result, _ in ROWS if result == "refused" for name in re.findall(r"\w+", names)]
WITHOUT_SYSTEM = ("gemma", "mistral_1")
"""Families whose templates reject a system prompt."""
WITH_BOS = ("mistral_1", "mistral_3", "mistral_7", "llama_2", "vicuna", "llama3", "llama3_1", "gemma", "gemma3")
"""Families whose templates write a BOS token, which llama.cpp writes if the GGUF file says so."""
KINDS = ("chatml_default", "llama3", "gemma", "mistral_1", "mistral_3", "llama_2")
"""Families whose templates differ in their kind; the others are long."""
EXAMPLES = [
    [{"role": "user", "content": "Is it {{ late }}?"}, {"role": "assistant", "content": 'It\'s \\n "5 C"\nyes 😀'}],
    [
        {"role": "system", "content": "left out"},
        {"role": "user", "content": '"""Where?"""'},
        {"role": "assistant", "content": 'In "Lyon"'},
    ],
]
SYSTEM_PROMPTS = [None, "Be brief.", 'Say "no",\n\tthen \'yes\' \\ {% raw %} {{ .System }} """ #1\n\nBye "now"']
Talk = list[dict[str, Any]]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[GoRenderer]:
    folder, kept = tmp_path_factory.mktemp("go"), getattr(request.config, "cache", None)
    with go_renderer(folder, Path(kept.mkdir("go-build")) if kept else folder / "cache") as renderer:
        yield renderer


def token_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def write(tokenizer: Any, prompt: ServedPrompt | None = None, **changes: Any) -> str:
    facts: dict[str, Any] = {"window": 2048, "adds_bos": False, **changes}
    return modelfile("model-q8_0.gguf", tokenizer=tokenizer, prompt=prompt or ServedPrompt(), **facts)


def system_prompts(name: str) -> Sequence[str | None]:
    return SYSTEM_PROMPTS[:1] if name in WITHOUT_SYSTEM else SYSTEM_PROMPTS


def test_each_family_of_our_own_is_in_the_document() -> None:
    assert set(OWN) <= set(PASSING)


@pytest.mark.parametrize("name", PASSING)
def test_the_document_says_which_template_ollama_runs(name: str) -> None:
    named = "OLLAMA_GO_TEMPLATE" in write(family(name).tokenizer())
    assert PASSING[name] == ("the chat template" if named else "`TEMPLATE`")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in KINDS or name in OWN else pytest.mark.long) for name in PASSING]
)
def test_ollama_writes_the_tokens_of_the_chat_template(go: GoRenderer, name: str) -> None:
    tokenizer = family(name).tokenizer()
    for adds_bos in {False, name in WITH_BOS}:
        for system_prompt in system_prompts(name):
            for examples in ([], EXAMPLES):
                scored = [
                    (talk, messages)
                    for talk in probe_conversations()
                    for messages in [with_prompt(talk, system_prompt, examples)]
                    if not merges(messages) and accepts(tokenizer, messages)
                ]
                assert len(scored) >= 10
                text = write(tokenizer, ServedPrompt(system_prompt, examples), adds_bos=adds_bos)
                prompts = go.prompts(text, [talk for talk, _ in scored])
                for prompt, (_, messages) in zip(prompts, scored, strict=True):
                    expected = render(tokenizer, messages, add_generation_prompt=True)
                    added = [tokenizer.bos_token_id] if adds_bos else []
                    assert [*added, *token_ids(tokenizer, prompt)] == token_ids(tokenizer, expected)


def merges(messages: Talk) -> bool:
    """Whether Ollama merges turns, as it does if a client's conversation begins with an answer after our examples."""
    return any(first["role"] == second["role"] for first, second in pairwise(messages))


def accepts(tokenizer: Any, messages: Talk) -> bool:
    try:
        render(tokenizer, messages, add_generation_prompt=True)
    except UserError:
        return False
    return True


@pytest.mark.parametrize("name", REFUSED)
def test_other_families_are_refused(name: str) -> None:
    with pytest.raises(
        UserError, match=r"cannot be written for Ollama: .+\. Use `ft serve --engine llama\.cpp`|^The chat template re"
    ):
        write(family(name).tokenizer())


@pytest.mark.long
def test_the_embedded_model(go: GoRenderer) -> None:
    from transformers import AutoTokenizer

    gguf = find_embedded()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    for system_prompt in SYSTEM_PROMPTS:
        text = write(tokenizer, ServedPrompt(system_prompt, EXAMPLES))
        talks = [talk for talk in probe_conversations() if not merges(with_prompt(talk, system_prompt, EXAMPLES))]
        for prompt, talk in zip(go.prompts(text, talks), talks, strict=True):
            messages = with_prompt(talk, system_prompt, EXAMPLES)
            expected = render(tokenizer, messages, add_generation_prompt=True)
            assert token_ids(tokenizer, prompt) == token_ids(tokenizer, expected)


def test_the_modelfile_is_read_as_it_was_meant(go: GoRenderer) -> None:
    prompt = ServedPrompt(SYSTEM_PROMPTS[2], EXAMPLES)
    text = write(tiny_tokenizer(), prompt, answer_tokens=96, license_text="Apache-2.0")
    reply = go.read(text)
    assert reply["from"] == "./model-q8_0.gguf"
    assert reply["system"] == SYSTEM_PROMPTS[2]
    assert reply["messages"] == [turn for example in EXAMPLES for turn in example if turn["role"] != "system"]
    assert reply["license"] == "Apache-2.0"
    assert reply["parameters"] == [
        ["temperature", "0"],
        ["top_k", "1"],
        ["repeat_penalty", "1"],
        ["stop", "<|im_end|>"],
        ["num_ctx", "2048"],
        ["num_predict", "96"],
    ]


def test_the_name_of_the_file_is_quoted_if_needed(go: GoRenderer) -> None:
    for name in ("model.gguf", "my model #2.gguf"):
        text = modelfile(name, tokenizer=tiny_tokenizer(), prompt=ServedPrompt(), window=None, adds_bos=False)
        assert go.read(text)["from"] == f"./{name}"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(str.strip)


@pytest.mark.parametrize("name", ["chatml_default", "llama3", "gemma3", "mistral_3", "llama_2"])
@given(system=st.none() | TEXTS, texts=st.lists(TEXTS, min_size=1, max_size=5).filter(lambda texts: len(texts) % 2))
@settings(max_examples=60, deadline=None)
def test_any_text(go: GoRenderer, name: str, system: str | None, texts: list[str]) -> None:
    tokenizer = family(name).tokenizer()
    talk = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    talk = talk if system is None else [{"role": "system", "content": system}, *talk]
    [prompt] = go.prompts(_instructions(prompt_form(tokenizer)), [talk])
    expected = render(tokenizer, talk, add_generation_prompt=True)
    assert prompt == expected


def _instructions(form: PromptForm, fixed_system: str | None = None) -> str:
    return f"FROM x\nTEMPLATE {quoted(go_template(form, fixed_system), 'TEMPLATE')}\n"


PIECES = st.lists(st.sampled_from([*"{}\"'`\\\n \t-#.$%aé\u00a0\u200d😀<|>", '"""\n', "{{"]), max_size=6).map("".join)
AROUND = st.builds(Around, PIECES, PIECES)
FORMS = st.builds(
    PromptForm,
    user=AROUND,
    assistant=AROUND,
    generation=PIECES,
    start=PIECES,
    system=AROUND,
    default_system=PIECES,
    system_place=st.sampled_from(["turn", "first_user", "last_user", "ignored"]),
    empty_is_none=st.booleans(),
)
TURNS = st.builds(
    lambda role, content: {"role": role, "content": content},
    st.sampled_from(["system", "user", "assistant"]),
    st.sampled_from(["a", "b {{ .Role }}", ""]),
)


@given(form=FORMS, talks=st.lists(st.lists(TURNS, min_size=1, max_size=6), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_form_and_any_order_of_turns(go: GoRenderer, form: PromptForm, talks: list[Talk]) -> None:
    """Python renders a form as Ollama does, also where the client sends turns that Ollama moves or merges."""
    assert go.prompts(_instructions(form), talks) == [form.render(talk) for talk in talks]


@given(text=st.lists(st.sampled_from([*'a"\n\r\t #{}\u00a0', '"""', '"""\n']), max_size=8).map("".join))
@settings(max_examples=300, deadline=None)
def test_a_text_is_read_as_it_was_or_refused(go: GoRenderer, text: str) -> None:
    try:
        value = quoted(text, "SYSTEM")
    except UserError as error:
        assert not is_printable(text) or '"""' in text, error
    else:
        reply = go.read(f"FROM x\nSYSTEM {value}\nTEMPLATE {{{{ .Messages }}}}\nLICENSE last\n")
        assert (reply["system"], reply["license"]) == (text, "last")


@pytest.mark.skipif(unidata_version > "15.0.0", reason="has characters that Go 1.24 does not know")
def test_ollama_keeps_all_characters_that_are_printable(go: GoRenderer) -> None:
    text = "".join(character for character in map(chr, range(0x110000)) if character.isprintable())
    assert go.read(f"FROM x\nSYSTEM {quoted(text, 'SYSTEM')}\nTEMPLATE {{{{ .Messages }}}}\n")["system"] == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("5\u00a0°C", r"^The text of SYSTEM contains U\+00A0, which Ollama leaves out\. Replace this character"),
        ('Quote:\n"""\ntext', '^The text of SYSTEM has a line that ends with """, where Ollama ends the text'),
    ],
)
def test_texts_that_a_modelfile_cannot_hold(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        write(tiny_tokenizer(), ServedPrompt(text))


def test_the_parts_of_a_form_are_whole_control_tokens() -> None:
    """Phi 3 writes `<|endoftext|>` after a last answer, which begins like the next header."""
    form = prompt_form(family("phi3").tokenizer())
    assert form.user == Around("<|user|>\n", "<|end|>\n")
    assert form.assistant == Around("<|assistant|>\n", "<|end|>\n")


def test_other_roles_are_an_error_and_not_left_out(go: GoRenderer) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]
    [reply] = go.read(write(tiny_tokenizer()), [talk])["prompts"]
    assert '"turns of the roles system, user and assistant only" not defined' in reply["error"]


def test_a_system_turn_is_an_error_if_the_chat_template_rejects_it(go: GoRenderer) -> None:
    tokenizer = family("gemma").tokenizer()
    talk = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    [refused, accepted] = go.read(write(tokenizer), [talk, talk[1:]])["prompts"]
    assert '"conversations without a system prompt only" not defined' in refused["error"]
    assert accepted["prompt"] == render(tokenizer, talk[1:], add_generation_prompt=True)
    with pytest.raises(UserError, match=r"^The chat template rejects the system prompt"):
        write(tokenizer, ServedPrompt("Be brief."))


def test_the_clients_system_prompt_takes_the_place_of_ours_unless_replaced(go: GoRenderer) -> None:
    tokenizer = family("zephyr").tokenizer()
    talk = [{"role": "system", "content": "Mine."}, {"role": "user", "content": "Where?"}]
    for replace_system in (False, True):
        for sent in (talk, talk[1:]):
            [prompt] = go.prompts(write(tokenizer, ServedPrompt("Ours.", EXAMPLES, replace_system)), [sent])
            messages = with_prompt(sent, "Ours.", EXAMPLES, replace_system=replace_system)
            assert prompt == render(tokenizer, messages, add_generation_prompt=True)


def test_trimmed_texts_are_written_trimmed(go: GoRenderer) -> None:
    tokenizer = family("llama3").tokenizer()
    example = [{"role": "user", "content": " Is it late? "}, {"role": "assistant", "content": "\nYes.\n"}]
    talk = [{"role": "user", "content": "Where?"}]
    [prompt] = go.prompts(write(tokenizer, ServedPrompt("Be brief.\n", [example])), [talk])
    assert prompt == render(tokenizer, with_prompt(talk, "Be brief.\n", [example]), add_generation_prompt=True)


def _system_place(place: SystemPlace) -> dict[str, Any]:
    return {"system_place": place}


@pytest.mark.parametrize(
    "changes",
    [
        {"user": Around("<|im_start|>user\n", "<|im_end|>")},
        {"assistant": Around("<|im_start|>assistant", "<|im_end|>\n")},
        {"generation": "<|im_start|>assistant"},
        {"start": "<|im_start|>"},
        {"default_system": "<|im_start|>system\nBe brief.<|im_end|>\n"},
        {"empty_is_none": True},
        {"system": Around("<|im_start|>user\n", "<|im_end|>\n")},
        _system_place("first_user"),
        _system_place("ignored"),
    ],
)
def test_a_wrong_form_is_found(changes: dict[str, Any]) -> None:
    tokenizer = tiny_tokenizer()
    form = prompt_form(tokenizer)
    require_same_tokens(tokenizer, form, probe_conversations())
    with pytest.raises(UserError, match=r"for the roles .* where Ollama would write"):
        require_same_tokens(tokenizer, replace(form, **changes), probe_conversations())


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ strftime_now('%d %B %Y') }}" + CHATML, "it writes today's date"),
        (CHATML.replace("{{ message['role'] }}", "{{ message['role'] ~ loop.index }}"), "depends on the position"),
        (CHATML.replace("message['content']", "message['content'] | tojson"), "it writes"),
        (CHATML.replace("message['content']", "message['content'] | upper"), "leaves out, repeats or moves"),
        (CHATML.replace("message['content']", "message['content'] * 2"), "leaves out, repeats or moves"),
        (CHATML.replace("message['content']", "message['content'] | replace('{{', '{ {')"), "it writes ' { .System"),
        ("{% if messages | length > 6 %}{{ 'long' }}{% endif %}" + CHATML, "it writes 'long"),
        (
            "{% if messages | length > 3 and messages[0].role == 'system' %}{{ raise_exception('long') }}{% endif %}"
            + CHATML,
            "it rejects some system prompts only",
        ),
        (
            "{% if messages[0].role == 'system' %}{% set messages = messages[:2] %}{% endif %}" + CHATML,
            "leaves out, repeats or moves",
        ),
        ("{{ messages | length }}" + CHATML, "it writes"),
        (CHATML + "{{ '<think>' if enable_thinking else '</think>' }}", "it is for thinking"),
    ],
)
def test_templates_that_go_cannot_express(template: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        write(tiny_tokenizer(template))


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        (ServedPrompt(calls_tools=True), "^The model calls tools"),
        (ServedPrompt(reasons=True), "^The model's answers contain reasoning"),
        (ServedPrompt(examples=[EXAMPLES[0][:1]]), "^The examples do not alternate"),
    ],
)
def test_prompts_that_ollama_cannot_serve(prompt: ServedPrompt, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        write(tiny_tokenizer(), prompt)


def test_an_architecture_with_a_renderer_of_its_own_is_refused() -> None:
    with pytest.raises(UserError, match="for the architecture gemma4, Ollama writes prompts in its own way"):
        write(tiny_tokenizer(), architecture="gemma4")


def test_a_bos_token_that_the_chat_template_does_not_write_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"^The GGUF file adds '<s>' to each prompt.* Set tokenizer\.ggml\.add_bos_token"
    ):
        write(family("zephyr").tokenizer(), adds_bos=True)


def test_a_chat_template_that_ollama_prefers_is_named_in_the_modelfile() -> None:
    """Ollama 0.30 runs a chat template with tools; then a client's system prompt cannot be replaced."""
    tokenizer = family("qwen2_5").tokenizer()
    assert "OLLAMA_GO_TEMPLATE" in write(tokenizer, ServedPrompt("Be brief."))
    assert "OLLAMA_GO_TEMPLATE" not in write(tiny_tokenizer(), ServedPrompt("Be brief."))
    with pytest.raises(UserError, match=r"^`replace_system` has no effect in Ollama"):
        write(tokenizer, ServedPrompt("Be brief.", replace_system=True))


def test_a_model_without_a_chat_template_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match=r"^The base model has no chat template"):
        write(tokenizer)


def test_no_probe_text_has_white_space_around_it() -> None:
    assert all(text == text.strip() for text in PROBE_TEXTS)
