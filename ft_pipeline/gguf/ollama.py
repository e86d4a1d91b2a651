"""Write a Modelfile with which Ollama gives a GGUF file the prompts, and the decoding, that it was scored with."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import UserError
from ft_pipeline.gguf.go_template import go_template, is_printable
from ft_pipeline.gguf.prompt_form import PromptForm, jinja, not_expressible, prompt_form
from ft_pipeline.models.chat import stop_strings, with_prompt
from ft_pipeline.tables.formats.turns import Message

PROBE_TEXTS = (
    "My package is late.",
    "",
    "{{ .System }} {{- end }} {% raw %} {{ messages }} }} {",
    "\"double\" 'single' `back` \"\"\"three\"\"\" '''three''' \\ \\n \\u0041",
    "first\nsecond\n\n\nthird\ttabbed  twice",
    "São Paulo, Ελλάδα, 東京, مرحبا, 👩‍💻, 5\u00a0°C and\u2028a line",
    "<b>&amp;</b> <s> </s> [INST] <<SYS>> ### user: assistant: system",
    "user",
    "a " * 300 + "b",
)
"""Texts that a quotation, an escape or a condition of a template could change. None begins or ends with white space,
which Ollama cannot remove."""
_SHOWN_CHARACTERS = 40


_PLAIN_PATH = re.compile(r"[\w./+-]+", re.ASCII)
_QUOTES = '"""'
_QUESTION: Message = {"role": "user", "content": "Where is it?"}
_DECODING = """\
# Greedy, as scored. The OpenAI-compatible API sets a temperature of its own: top_k 1 keeps it greedy.
PARAMETER temperature 0
PARAMETER top_k 1
PARAMETER repeat_penalty 1
"""
_RUNS_JINJA_NOTE = """\
# Ollama 0.30 and later run the chat template in the GGUF file instead of this one, because it knows tools or thinking.
# OLLAMA_GO_TEMPLATE=1 in the server's environment turns this off.
"""
_KNOWS_TOOLS = ("tools", "tool_call")
_KNOWS_THINKING = "</think>"
"""Ollama looks for these words in the chat template of a GGUF file."""
_OWN_RENDERER = ("gemma4", "laguna", "nemotron_h", "nemotron_h_moe", "nemotron_h_omni")
"""Values of general.architecture for which Ollama ignores TEMPLATE and writes the prompt in code of its own."""


@dataclass(frozen=True)
class ServedPrompt:
    """The prompt that a model was scored with, and the kinds of answers it learned."""

    system_prompt: str | None = None
    examples: Sequence[Sequence[Message]] = ()
    """Each is a conversation. System turns in it are left out."""
    replace_system: bool = False
    """Whether the system prompt takes the place of the client's."""
    calls_tools: bool = False
    reasons: bool = False
    """Whether the answers contain reasoning."""

    @property
    def turns(self) -> list[Message]:
        """The system turn and the examples."""
        return list(with_prompt([], self.system_prompt, self.examples))


def modelfile(
    gguf_name: str,
    *,
    tokenizer: Any,
    prompt: ServedPrompt,
    window: int | None,
    adds_bos: bool,
    architecture: str | None = None,
    answer_tokens: int | None = None,
    license_text: str | None = None,
) -> str:
    """Return the Modelfile of a GGUF file in the same folder. Raises UserError, with the reason, if Ollama would write
    a prompt of other tokens than the chat template.

    window: the context window in tokens. adds_bos: whether the GGUF file makes llama.cpp add a BOS token to a prompt
    (tokenizer.ggml.add_bos_token). architecture: its general.architecture. answer_tokens: the longest answer in tokens;
    without it, only a stop token ends an answer.
    """
    _require_text_answers(prompt)
    if architecture in _OWN_RENDERER:
        raise UserError(not_expressible(f"for the architecture {architecture}, Ollama writes prompts in its own way"))
    form = prompt_form(tokenizer)
    require_same_tokens(tokenizer, form, probe_conversations())
    _require_same_prompt(tokenizer, form, prompt)
    runs_jinja = _require_same_jinja(tokenizer, prompt)
    fixed_system = prompt.system_prompt if prompt.replace_system else None
    template = go_template(_without_added_bos(form, tokenizer, adds_bos), fixed_system)
    return "".join(
        [
            f"FROM {_path(gguf_name)}\n",
            _RUNS_JINJA_NOTE if runs_jinja else "",
            f"TEMPLATE {quoted(template, 'TEMPLATE')}\n",
            *(_instruction(turn["role"], form.trim(turn)) for turn in prompt.turns),
            _DECODING,
            *(f"PARAMETER stop {quoted(stop, 'stop')}\n" for stop in stop_strings(tokenizer)),
            f"PARAMETER num_ctx {window}\n" if window else "",
            f"PARAMETER num_predict {answer_tokens}\n" if answer_tokens else "",
            f"LICENSE {quoted(license_text, 'LICENSE')}\n" if license_text else "",
        ]
    )


def _require_text_answers(prompt: ServedPrompt) -> None:
    """Raise UserError if the model learned more than texts."""
    if prompt.calls_tools:
        raise UserError(
            "The model calls tools, which Ollama's templates write in another way than its chat template. Use "
            "`ft serve --engine llama.cpp`, which runs the template itself."
        )
    if prompt.reasons:
        raise UserError(
            "The model's answers contain reasoning, which Ollama's templates cannot leave out of earlier turns. Use "
            "`ft serve --engine llama.cpp`, which runs the chat template itself."
        )


def _require_same_prompt(tokenizer: Any, form: PromptForm, prompt: ServedPrompt) -> None:
    """Raise UserError if the prompt of this model, with its examples, is not the same, or not accepted."""
    if prompt.system_prompt and form.system_place in ("refused", "ignored"):
        verb = "rejects" if form.system_place == "refused" else "omits"
        raise UserError(
            f"The chat template {verb} the system prompt. Remove `system_prompt`, and train and score again."
        )
    roles = [turn["role"] for turn in prompt.turns if turn["role"] != "system"]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise UserError(
            "The examples do not alternate between user and assistant, so Ollama would merge turns. Use others."
        )
    messages = [*prompt.turns, _QUESTION]
    if jinja(tokenizer, messages) is None:
        raise UserError("The chat template rejects the system prompt and examples. Score the model without them.")
    require_same_tokens(tokenizer, form, iter([messages]))


def _require_same_jinja(tokenizer: Any, prompt: ServedPrompt) -> bool:
    """Return whether Ollama 0.30 and later run the chat template in the GGUF file instead of TEMPLATE.

    Raises UserError if the prompts would differ then.
    """
    template = tokenizer.get_chat_template()
    thinks = _KNOWS_THINKING in template
    for messages in ([_QUESTION], [*prompt.turns, _QUESTION]):
        if thinks and jinja(tokenizer, messages) != jinja(tokenizer, messages, enable_thinking=True):
            raise UserError(not_expressible("it is for thinking, which Ollama turns on and scoring does not"))
    runs_jinja = thinks or any(word in template for word in _KNOWS_TOOLS)
    if runs_jinja and prompt.replace_system:
        raise UserError(
            "`replace_system` has no effect in Ollama with this model: a client's system prompt has priority. Use "
            "`ft serve --engine llama.cpp`."
        )
    return runs_jinja


def _without_added_bos(form: PromptForm, tokenizer: Any, adds_bos: bool) -> PromptForm:
    """Return the form without the BOS token that llama.cpp adds. UserError if the chat template writes none there."""
    if not adds_bos:
        return form
    if (rest := form.without_first(tokenizer.bos_token or "")) is None:
        raise UserError(
            f"The GGUF file adds {tokenizer.bos_token!r} to each prompt, and the chat template does not. Set "
            "tokenizer.ggml.add_bos_token to false in the file."
        )
    return rest


def _path(gguf_name: str) -> str:
    path = f"./{gguf_name}"
    return path if _PLAIN_PATH.fullmatch(path) else quoted(path, "FROM")


def _instruction(role: str, text: str) -> str:
    name = "SYSTEM" if role == "system" else f"MESSAGE {role}"
    return f"{name} {quoted(text, name)}\n"


def quoted(text: str, name: str) -> str:
    """Return a value of a Modelfile. Raises UserError if Ollama, which knows no escapes there, would read another.

    Its reader leaves out characters that cannot be printed. It ends a value at the first line that ends with three
    quotation marks.
    """
    if not is_printable(text):
        character = next(character for character in text if not is_printable(character))
        raise UserError(
            f"The text of {name} contains U+{ord(character):04X}, which Ollama leaves out. Replace this character, or "
            "use `ft serve --engine llama.cpp`."
        )
    *lines, _ = text.replace("\r", "\n").split("\n")
    if any(line.rstrip().endswith(_QUOTES) for line in lines):
        raise UserError(
            f"The text of {name} has a line that ends with {_QUOTES}, where Ollama ends the text. Replace it, or use "
            "`ft serve --engine llama.cpp`."
        )
    return f'"{text}"' if '"' not in text and "\n" not in text and "\r" not in text else f"{_QUOTES}{text}{_QUOTES}"


def probe_conversations() -> Iterator[list[Message]]:
    """Yield conversations that end with the user: each text in each role, with and without a system prompt, and of
    one to nine turns. None has turns that Ollama merges or moves."""
    for text in PROBE_TEXTS:
        yield _talk(text)
        yield _talk("Where is it?", text, "Thanks.")
        yield _talk("Where is it?", "In Lyon.", text)
        yield _talk("Where is it?", system=text)
        yield _talk(text, text, text, system=text)
    for count in (1, 3, 5, 7, 9):
        turns = [f"Turn {index}." for index in range(count)]
        yield _talk(*turns)
        yield _talk(*turns, system="Be brief.")
    greeting = {"role": "assistant", "content": "How can I help?"}
    yield [greeting, *_talk("Where is it?")]
    yield [{"role": "system", "content": "Be brief."}, greeting, *_talk("Where is it?")]


def require_same_tokens(tokenizer: Any, form: PromptForm, conversations: Iterator[list[Message]]) -> None:
    """Raise UserError, with the first difference, if a prompt of the form has other tokens than the chat template's.

    A conversation that the template rejects is not compared.
    """
    for messages in conversations:
        expected = jinja(tokenizer, messages)
        if expected is None:
            continue
        try:
            rendered = form.render(messages)
        except ValueError as error:
            raise UserError(not_expressible(str(error))) from error
        if rendered != expected and _token_ids(tokenizer, rendered) != _token_ids(tokenizer, expected):
            raise UserError(not_expressible(_difference(messages, rendered, expected)))


def _talk(*texts: str, system: str | None = None) -> list[Message]:
    """Return a conversation of these texts, which begins with the user."""
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return [*([] if system is None else [{"role": "system", "content": system}]), *turns]


def _token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a rendered prompt, as in training: control tokens are read as such, and none is added."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _difference(messages: Sequence[Message], rendered: str, expected: str) -> str:
    roles = ", ".join(message["role"] for message in messages)
    pairs = zip(rendered, expected, strict=False)
    begin = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), min(len(rendered), len(expected)))
    other, own = (text[begin : begin + _SHOWN_CHARACTERS] for text in (rendered, expected))
    return f"for the roles {roles} it writes {own!r}, where Ollama would write {other!r}"
