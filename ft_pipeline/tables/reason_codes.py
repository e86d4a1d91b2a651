"""All reason codes: why a row or a file is not used. The UI and docs/formats.md show each code with its meaning."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

ROW_CODES: dict[str, str] = {
    "invalid_json": "the line is not JSON, is nested too deeply, or its CSV cells do not fit the header",
    "not_utf8": "the row holds bytes that are not UTF-8",
    "duplicate_key": "an object names one key twice, so that it is unclear which value is meant",
    "lone_surrogate": "an escape stands for half a character (\\ud800 to \\udfff without its pair)",
    "control_characters": "a control character (U+0000 to U+001F but tab, LF and CR; U+007F)",
    "wrong_type": "a value, a turn or the row itself has the wrong type; nothing is turned into text by force",
    "wrong_format": "the row has the keys of another format",
    "missing_instruction": "no instruction, or an empty one",
    "missing_output": "no output column",
    "empty_output": "the output is null, or empty but for white space and zero-width characters",
    "missing_conversations": "no list of turns",
    "empty_conversation": "the list of turns holds no turn of a person or a model",
    "missing_from": "a turn does not say who speaks",
    "missing_value": "a turn has no text, or null",
    "empty_value": "the text of a turn is empty",
    "unknown_role": "a turn has a role that is not known and that no sidecar maps (function_call and observation, too)",
    "first_turn_not_human": "the first turn (after the system turn) is not the human's",
    "non_alternating": "two turns in a row have the same role, or the human speaks before the model has answered",
    "last_turn_not_gpt": "the last turn is not the model's: there is nothing to learn",
    "no_trained_turn": "every answer has the weight 0: there is nothing to learn",
    "system_not_first": "a system turn that is not the first turn, or a second one",
    "missing_text": "no text column",
    "empty_text": "the text is empty",
    "too_short": "a text of fewer than 10 characters",
    "too_long": "more than 50,000 characters in the row (for text: a line or array element of more than 64 MiB)",
    "missing_prompt": "no prompt",
    "empty_prompt": "the prompt is empty",
    "missing_chosen": "no chosen answer",
    "missing_rejected": "no rejected answer",
    "empty_chosen": "the chosen answer is empty",
    "empty_rejected": "the rejected answer is empty",
    "last_turn_not_human": "an unlabelled conversation must end with the human",
    "chosen_equals_rejected": "both answers are equal but for case, white space and final punctuation",
    "contradicting_pair": "an earlier pair prefers the other way round",
    "missing_label": "no label: no thumb on the answer",
    "unrated": "nobody rated the answer: its label is null or empty",
    "unknown_label": "the rating is no thumb: not true or false, up or down, 1 or -1 (0)",
    "contradicting_feedback": "an earlier row rates the same answer the other way round",
    "prompt_mismatch": "chosen and rejected do not answer one common prompt",
    "unsupported_shape": "a pair that needs a sidecar (columns: {conversations: prompt}), a weight between 0 and 1, or "
    "two values that exclude each other",
    "unsupported_content": "a part of a turn that is no text: an image, a sound or a file",
    "unsupported_tool": "a tool, or a call of one, that is not a function",
    "invalid_arguments": "the arguments of a call are not an object in JSON",
    "undeclared_tool": "a call of a tool that the row does not declare",
    "unanswered_call": "a call that has no result before the next turn",
    "orphaned_result": "a result of a call that is not in the turn before it",
    "no_content": "a call of a model that was logged without its messages",
    "no_model_call": "a trace without a call of a model",
    "failed_call": "a call of a model that failed, or whose answer a filter stopped",
    "several_choices": "a call with several answers, of which it is unclear which one was used",
    "rated_down": "an answer that a person rated down and nobody corrected",
    "special_tokens": "a control token of a chat template inside the text forges turns",
    "output_equals_input": "the answer repeats the prompt",
    "refusal_boilerplate": "the answer is an assistant's stock refusal",
    "unresolved_placeholder": "a {{placeholder}} of a template was never filled in",
    "duplicate": "equal to an earlier row",
    "earlier_turns": "the beginning of a longer conversation of the same thread",
    "near_duplicate": "equal to an earlier row but for case, white space, final punctuation, or a few words",
    "train_test_overlap": "near a validation or test row, or a question of the general suite",
    "over_length": "more tokens than training.max_length of an experiment that skips or truncates such rows",
    "excluded": "forgotten on request",
    "teacher_failed": "the teacher gave no answer",
    "answer_cut_off": "the answer hit the length limit, or its reasoning is never closed",
    "repetition": "the teacher's answer repeats itself",
    "answer_length": "the teacher's answer is too short or too long",
    "reference_mismatch": "the teacher's answer does not contain the reference of its prompt",
    "not_best": "another sound answer of the teacher to the same prompt agrees more with the rest of them",
}

FILE_CODES: dict[str, str] = {
    "empty_file": "no rows",
    "not_a_list": "one object around or instead of rows",
    "not_json": "no line is a JSON object",
    "no_content": "a file of traces whose calls were all logged without their messages",
    "not_utf8": "UTF-16 or UTF-32, or no row is UTF-8",
    "compressed": "an archive, or a compressed file that is cut off, damaged, too large or compressed twice",
    "unknown_format": "every row has another format or lacks columns, or the container or sidecar cannot be understood",
    "too_few_rows": "fewer than 2 rows",
    "path_outside_data_dir": "the path leads out of the data folder",
    "not_found": "there is no such file",
    "not_a_file": "a folder, a device or a pipe",
    "invalid_json": "a JSON array that is cut off or broken, or a CSV quote that is never closed",
}

DUPLICATE_CODES = frozenset({"duplicate", "near_duplicate", "earlier_turns"})
"""Codes that count as `duplicates` and not as `quarantined`."""

USUAL_CODES = frozenset(
    {"excluded", "no_model_call", "failed_call", "answer_cut_off", "rated_down", "unrated"} | {"contradicting_feedback"}
)
"""Codes that do not count against a file (max_quarantined): they say nothing of its quality as data."""

ALLOWABLE = frozenset(
    {
        "non_alternating",
        "control_characters",
        "too_short",
        "too_long",
        "special_tokens",
        "output_equals_input",
        "refusal_boilerplate",
        "unresolved_placeholder",
        "chosen_equals_rejected",
        "contradicting_pair",
        "contradicting_feedback",
        "duplicate",
        "near_duplicate",
    }
)
"""Codes that a sidecar may allow: they apply to rows that can be read. The others mean that the row is unusable."""

_RANK = {code: rank for rank, code in enumerate(ROW_CODES)}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why one row is not used."""

    code: str
    message: str
    raw: str = ""
    """The row's text, if only the reader still has it."""


@dataclass(frozen=True, slots=True)
class DamagedRow(Fault):
    """Why a row is not used if all of its columns matter. Its code and message are those of the worst column."""

    row: dict[str, Any] = field(default_factory=dict)
    """The row, with null in the columns that have a fault."""
    faults: Mapping[str, Fault] = field(default_factory=dict)
    """Column → its fault."""

    def restricted_to(self, read: Collection[str]) -> Any:
        """Return what is left of the row if only these columns are read: the row itself if none of them has a fault."""
        return damaged(self.row, {name: fault for name, fault in self.faults.items() if name in read})


def damaged(row: dict[str, Any], faults: Mapping[str, Fault]) -> Any:
    """Return a row with these faults in its columns; the row itself if there are none."""
    if not faults:
        return row
    worst = min(faults.values(), key=lambda fault: code_priority(fault.code))
    return DamagedRow(worst.code, worst.message, worst.raw, {**row, **dict.fromkeys(faults)}, faults)


class Refused(Exception):
    """Raised for a file that is not used at all; `code` is one of FILE_CODES."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple:
        return Refused, (self.code, self.message)


def code_priority(code: str) -> int:
    """Return the rank of a code. If a row has several faults, the fault with the lowest rank is reported."""
    return _RANK[code]
