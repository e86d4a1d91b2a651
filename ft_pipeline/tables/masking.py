"""Masks personal data before rows are converted, by the pattern recognizers of Presidio (the extra `masking`).

No language model is loaded or fetched, and nothing is asked over the network: names and addresses are therefore not
found. What is found is replaced by its kind, such as `<EMAIL_ADDRESS>`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from ft_pipeline.errors import require_extra
from ft_pipeline.tables.reason_codes import Fault

MIN_SCORE = 0.4
"""Presidio's confidence from which a match is masked. Phone numbers, which it validates, have this one."""
_EMAIL = r"\b[\w.+%-]+@[\w-]+(?:\.[\w-]+)+\b"
_KEPT_KEYS = frozenset(
    {"role", "from", "id", "tool_call_id", "name", "type", "tools", "functions", "session", "call_id", "tags"}
)
"""Keys whose values are no texts of people."""


def require_presidio() -> None:
    """Raise UserError if Presidio is not installed."""
    require_extra("masking", "data.mask needs", "presidio_analyzer")


class Masker:
    """Masks the texts in values, and counts what it masked."""

    def __init__(self, entities: Sequence[str]) -> None:
        """entities: what is masked, of ENTITIES."""
        self._recognizers = [_recognizer(entity) for entity in entities]
        self.counts: Counter[str] = Counter()

    def mask(self, value: Any) -> Any:
        """Return a value with all texts in it masked. A text that is JSON (the arguments of a call) stays JSON."""
        if isinstance(value, str):
            return self._mask_text(value)
        if isinstance(value, Mapping):
            return {key: item if key in _KEPT_KEYS else self.mask(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.mask(item) for item in value]
        if isinstance(value, Fault):
            counted = Counter(self.counts)
            message = self._mask_plain(value.message)  # it quotes the text, and is not counted
            self.counts = counted
            return Fault(value.code, message, self._mask_plain(value.raw))
        return value

    def _mask_text(self, text: str) -> str:
        if text[:1] in ("{", "["):
            try:
                parsed = json.loads(text)
            except (ValueError, RecursionError):
                return self._mask_plain(text)
            masked = self.mask(parsed)
            return text if masked == parsed else json.dumps(masked, ensure_ascii=False)
        return self._mask_plain(text)

    def _mask_plain(self, text: str) -> str:
        masked, end = "", 0
        for begin, stop, entity in _matches(self._recognizers, text):
            masked += f"{text[end:begin]}<{entity}>"
            end = stop
            self.counts[entity] += 1
        return masked + text[end:]


def _matches(recognizers: Sequence[Any], text: str) -> list[tuple[int, int, str]]:
    """Return (begin, end, entity) of what is masked, in order. Of matches that overlap, the surer and longer one."""
    found = [
        match
        for recognizer in recognizers
        for match in recognizer.analyze(text, recognizer.supported_entities, None) or ()
        if match.score >= MIN_SCORE
    ]
    chosen: list[tuple[int, int, str]] = []
    for match in sorted(found, key=lambda match: (-match.score, match.start - match.end)):
        if all(match.end <= begin or match.start >= end for begin, end, _ in chosen):
            chosen.append((match.start, match.end, match.entity_type))
    return sorted(chosen)


@lru_cache(maxsize=16)
def _recognizer(entity: str) -> Any:
    """Return the recognizer of one kind of personal data."""
    from presidio_analyzer import Pattern, PatternRecognizer, predefined_recognizers

    if entity == "EMAIL_ADDRESS":  # Presidio's own asks the network for the list of top-level domains
        return PatternRecognizer(entity, patterns=[Pattern("e-mail", _EMAIL, 1.0)])
    return getattr(predefined_recognizers, ENTITIES[entity])()


ENTITIES: Mapping[str, str] = {
    "EMAIL_ADDRESS": "EmailRecognizer",
    "PHONE_NUMBER": "PhoneRecognizer",
    "CREDIT_CARD": "CreditCardRecognizer",
    "IBAN_CODE": "IbanRecognizer",
    "IP_ADDRESS": "IpRecognizer",
    "CRYPTO": "CryptoRecognizer",
    "US_SSN": "UsSsnRecognizer",
    "UK_NHS": "NhsRecognizer",
}
"""What can be masked → the class of Presidio's recognizer. settings/data.py names the same."""
