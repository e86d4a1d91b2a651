"""Which tokens of a scored answer are its text, and which one ends the turn: the basis of `nats_per_byte`.

Losses per token of two vocabularies cannot be compared: the one with longer tokens has fewer of them. Nats per byte of
the same text can. Only tokens of the reference count: the header, a reasoning block and control tokens differ between
templates, and cover no byte of it.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.models.chat import special_tokens


@dataclass(frozen=True)
class ReferenceTokens:
    """Positions in the tokens of a target."""

    content: tuple[int, ...]
    """The tokens that overlap the text of the reference. One that straddles its edge counts whole."""
    stop: int | None
    """The first control token after the content; None if the template writes none."""

    def nats(self, log_probs: Sequence[float]) -> tuple[float, float | None]:
        """Return the nats of the content and of the stop token. log_probs: those of all tokens of the target."""
        stop = None if self.stop is None else -log_probs[self.stop]
        return -sum(log_probs[position] for position in self.content), stop


def find_reference(tokenizer: Any, target: str, reference: str) -> ReferenceTokens:
    """Return which tokens of `target` are the text of the reference.

    target: as prompt_and_target returns it. If the template does not write the reference as one text (calls of tools),
    or the tokenizer has no offsets, the content is every token before the last control token.
    """
    controls = special_tokens(tokenizer)
    control_ids = {tokenizer.convert_tokens_to_ids(token) for token in controls}
    # A short reference ("d") may also be a part of the control token after it.
    endings = [position for token in controls if token and (position := target.rfind(token)) >= 0]
    begin = target.rfind(reference, 0, max(endings, default=len(target)))
    if not tokenizer.is_fast or begin < 0:
        ids = tokenizer(target, add_special_tokens=False)["input_ids"]
        stop = next((position for position in reversed(range(len(ids))) if ids[position] in control_ids), None)
        return ReferenceTokens(tuple(range(len(ids) if stop is None else stop)), stop)
    encoded = tokenizer(target, add_special_tokens=False, return_offsets_mapping=True)
    end = begin + len(reference)
    spans = list(enumerate(encoded["offset_mapping"]))
    content = tuple(position for position, (first, last) in spans if first < end and last > begin and last > first)
    after = (
        position for position, (first, _) in spans if first >= end and encoded["input_ids"][position] in control_ids
    )
    return ReferenceTokens(content, next(after, None))


def byte_count(text: str) -> int:
    """Return the number of bytes of a text in UTF-8."""
    return len(text.encode("utf-8", errors="surrogatepass"))


def count_lost(tokenizer: Any, references: Sequence[str]) -> int:
    """Return how many references the tokenizer does not give back, so that their likelihood is that of another text.

    A leading space does not count, nor does another normal form of the same letters.
    """
    return sum(_is_lost(tokenizer, reference) for reference in references)


def _is_lost(tokenizer: Any, reference: str) -> bool:
    ids = tokenizer(reference, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    if unknown is not None and unknown in ids and tokenizer.unk_token not in reference:
        return True
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return _comparable(decoded) != _comparable(reference)


def _comparable(text: str) -> str:
    return unicodedata.normalize("NFC", text).removeprefix(" ")
