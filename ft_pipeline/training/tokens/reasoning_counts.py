"""Counts of the reasoning in training rows, for the token audit."""

from typing import Any

from ft_pipeline.training.tokens.chat_tokens import DroppedTurns

NAMED_ROWS = 5
"""Number of rows that a message names."""


class ReasoningCounts:
    """Counts turns with reasoning. Answers do not need it, so a template without it fails no check, but is reported."""

    def __init__(self, choice: str) -> None:
        """choice: `data.reasoning` of the experiment."""
        self._choice = choice
        self._rows = self._turns = self._left_out = self._hidden = 0
        self._first_without: list[str] = []
        self._trained: list[str] = []

    def add(self, dropped: DroppedTurns | None, origin: str) -> None:
        """Count a row. origin: its file and row."""
        if not dropped or not dropped.reasoning_turns:
            return
        self._rows += 1
        self._turns += dropped.reasoning_turns
        self._left_out += len(dropped.reasoning_left_out)
        self._hidden += dropped.reasoning_hidden
        self._trained += dropped.trained_reasoning
        if dropped.reasoning_left_out and len(self._first_without) < NAMED_ROWS:
            self._first_without.append(origin)

    def extend(self, other: "ReasoningCounts") -> None:
        """Add the counts of other rows, which come after these."""
        self._rows += other._rows
        self._turns += other._turns
        self._left_out += other._left_out
        self._hidden += other._hidden
        self._trained += other._trained
        self._first_without = [*self._first_without, *other._first_without][:NAMED_ROWS]

    def result(self, tokenizer: Any) -> dict[str, Any]:
        """Return {turns, left_out, message}; if there is reasoning, also {choice, rows, hidden, trained_tokens}.

        Tokens are those of the reasoning alone, without what the template writes around it.
        """
        if not self._turns:
            return {"turns": 0, "left_out": 0, "message": ""}
        tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in self._trained)
        return {
            "turns": self._turns,
            "left_out": self._left_out,
            "message": self._message(tokens),
            "choice": self._choice,
            "rows": self._rows,
            "hidden": self._hidden,
            "trained_tokens": tokens,
        }

    def _message(self, tokens: int) -> str:
        rows = "1 row has" if self._rows == 1 else f"{self._rows:,} rows have"
        if self._choice == "drop":
            return f"{rows} reasoning; that of all {self._turns:,} turns is left out (data.reasoning: drop)"
        shown = self._turns - self._left_out
        kept = "show it untrained (data.reasoning: keep)" if self._choice == "keep" else "are trained with it"
        message = f"{rows} reasoning; {shown} of {self._turns} turns with reasoning {kept}"
        if tokens:
            message += f"; {tokens:,} tokens of reasoning are trained"
        if self._hidden:
            message += f"; the chat template leaves that of {self._hidden} turns out of the prompts of later answers"
        if self._left_out:
            first_rows = ", ".join(self._first_without)
            message += f"; the chat template omits the reasoning of the other {self._left_out} (first: {first_rows})"
        return message
