"""Definitions that all tables share: empty texts, equal texts, control tokens."""

import html
import re
import unicodedata

ZERO_WIDTH = "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
EMPTY_CHARS = "".join(chr(point) for point in range(0x3001) if chr(point).isspace()) + ZERO_WIDTH
"""White space and zero-width characters. A string with no other characters is empty."""

FINAL_PUNCTUATION = " " + "".join(
    chr(point) for point in range(0x3100) if unicodedata.category(chr(point)).startswith("P")
)
"""Punctuation of all scripts up to CJK (NFKC folds the full-width forms), and the space that may precede it."""

ASCII_PUNCTUATION = "".join(char for char in FINAL_PUNCTUATION if char.isascii())

SPECIAL_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>", "<|endofprompt|>",  # ChatML, GPT-2, Phi, Qwen, SmolLM
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>",
    "<|python_tag|>", "<|finetune_right_pad_id|>", "<|header_start|>", "<|header_end|>", "<|eot|>", "<|eom|>",  # Llama
    "<s>", "</s>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>",  # Llama 2, Mistral
    "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>",  # Gemma
    "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|end|>", "<|pad|>",  # Phi 3, Zephyr, GLM
    "<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",  # gpt-oss
    "<|start_of_role|>", "<|end_of_role|>",  # Granite
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",  # DeepSeek
    "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|startoftext|>", "<|endofturn|>", "<|end_of_turn|>",
)  # fmt: skip
"""The control tokens of the common chat templates (docs/formats.md lists them)."""

# RE2 (pyarrow) and Python's re both read these four patterns.
SPECIAL_TOKEN_PATTERN = "|".join(re.escape(token) for token in SPECIAL_TOKENS) + r"|<\|reserved_special_token_[0-9]+\|>"
CONTROL_PATTERN = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
PLACEHOLDER_PATTERN = r"\{\{ *[A-Za-z][A-Za-z0-9 _/'’&-]{0,60}\}\}"
REFUSAL_PATTERN = (
    r"(?i)^.{0,80}?\bas an? (?:ai|large language model|language model)\b.{0,40}?\bi(?: am|'m|’m)?\b.{0,30}?"
    r"(?:cannot|can(?:'|’)t|can not|do not|don(?:'|’)t|not able|unable"
    r"|not capable|not allowed|have no|won(?:'|’)t|lack)\b"
    r"|^.{0,80}?\bi(?: am|'m|’m) (?:just|only) an ai\b"
    r"|^(?:(?:i am |i'm |i’m )?sorry,? but )?i (?:cannot|can(?:'|’)t|am unable to|am not able to) "
    r"(?:fulfil|fulfill|comply with|assist with|help with) (?:that|this|your|the)(?: request)?\W*$"
)
"""A stock refusal: an AI states what it cannot do, or one sentence declines and nothing follows."""

_ESCAPE = re.compile(r'\\+(?:u([0-9a-fA-F]{4})|([nrtbf"/]))')
_TAG = re.compile(r"<[A-Za-z/!][^<>]{0,300}>")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "b": " ", "f": " ", '"': '"', "/": "/"}
_CONTROL = re.compile(
    rf"{SPECIAL_TOKEN_PATTERN}|<[|｜][^<>|｜]{{1,40}}[|｜]>|{CONTROL_PATTERN}|[\U000e0000-\U000e007f]"
)
"""Control tokens, any text that looks like one, control characters, and the invisible letters of tags."""


def without_escapes(text: str) -> str:
    """Return the text with the characters for which the escapes of JSON stand, also of JSON inside JSON."""
    plain = _ESCAPE.sub(lambda match: chr(int(match[1], 16)) if match[1] else _ESCAPED[match[2]], text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # an emoji is two escapes


def without_markup(text: str) -> str:
    """Return the text of HTML and JSON: without tags, with the characters for which entities and escapes stand."""
    plain = without_escapes(text) if "\\" in text else text
    return html.unescape(_TAG.sub(" ", plain))


def is_empty(text: str) -> bool:
    """Return whether `text` has only white space and zero-width characters."""
    return not text.strip(EMPTY_CHARS)


def normalise(text: str) -> str:
    """Return the normalized text, without differences in NFKC form, case, white space and final punctuation."""
    if text.isascii():
        text = text.lower()
        spaced = text.isprintable() and "  " not in text  # single spaces already: the usual case, and twice as fast
        text = text.strip(" ") if spaced else " ".join(text.split())
        return text.rstrip(ASCII_PUNCTUATION) or text
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.rstrip(FINAL_PUNCTUATION) or text


def without_control_tokens(text: str) -> str:
    """Return a text without control tokens. Those that appear when others are removed are removed, too."""
    while (cleaned := _CONTROL.sub("", text)) != text:
        text = cleaned
    return text
