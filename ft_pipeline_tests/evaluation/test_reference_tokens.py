"""Which tokens of an answer are its text: nats per byte that do not depend on the tokenizer."""

import math
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ft_pipeline.evaluation.scoring.answer_limit import answer_limit
from ft_pipeline.evaluation.scoring.reference_tokens import ReferenceTokens, byte_count, count_lost, find_reference

REFERENCE = "Grüße, café ☕ and 東京."
TARGET = f"<think>\n\n</think>\n\n{REFERENCE}<end>\n<start>"
PROBABILITIES = {byte: 1 / (byte + 3) for byte in range(256)}
"""Of each byte, whatever came before: the distribution of a toy model."""
STOP_PROBABILITY = 0.25


def byte_level(vocabulary: int, *texts: str, normalizer: Any = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer. vocabulary: its size; the merges are learned from the texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<start>", "<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or [REFERENCE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<start>")


def words_only() -> PreTrainedTokenizerFast:
    """A tokenizer that knows few words."""
    model = models.WordLevel({"[UNK]": 0, "<end>": 1, "known": 2, "words": 3}, unk_token="[UNK]")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="[UNK]")


def toy_log_probs(tokenizer: Any, text: str) -> list[float]:
    """What the toy model says of the tokens of a text: the sum over the bytes of each."""
    alphabet = {character: byte for byte, character in _byte_characters().items()}
    log_probs = []
    for token in tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"]):
        if token in ("<start>", "<end>"):
            log_probs.append(math.log(STOP_PROBABILITY))
        else:
            log_probs.append(sum(math.log(PROBABILITIES[alphabet[character]]) for character in token))
    return log_probs


def _byte_characters() -> dict[int, str]:
    """The characters that byte-level tokenizers write for bytes (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in characters]
    return characters | {byte: chr(256 + number) for number, byte in enumerate(others)}


def test_one_model_has_the_same_nats_per_byte_under_two_tokenizers() -> None:
    expected = -sum(math.log(PROBABILITIES[byte]) for byte in REFERENCE.encode())
    lengths = set()
    for vocabulary in (258, 280, 400):
        tokenizer = byte_level(vocabulary)
        log_probs = toy_log_probs(tokenizer, TARGET)
        lengths.add(len(log_probs))
        content, stop = find_reference(tokenizer, TARGET, REFERENCE).nats(log_probs)
        assert content == pytest.approx(expected)
        assert stop == pytest.approx(-math.log(STOP_PROBABILITY))
    assert len(lengths) == 3  # the tokenizers do differ


def test_a_token_that_straddles_the_edge_of_the_reference_counts_whole() -> None:
    tokenizer = byte_level(300, "\nyes" * 50)
    target = "\nyes<end>"
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(target, add_special_tokens=False)["input_ids"])
    found = find_reference(tokenizer, target, "es")
    assert "".join(tokens[position] for position in found.content).endswith("yes")
    assert tokens[found.stop or 0] == "<end>"


@pytest.mark.parametrize("reference", ["d", "e", "n", "end"])
def test_a_reference_that_is_also_a_part_of_a_control_token_is_found_before_it(reference: str) -> None:
    found = find_reference(byte_level(258), f"{reference}<end>\n", reference)
    assert (found.content, found.stop) == (tuple(range(len(reference))), len(reference))


def test_what_the_template_writes_around_the_reference_is_no_content() -> None:
    tokenizer = byte_level(258)
    found = find_reference(tokenizer, TARGET, REFERENCE)
    assert len(found.content) == byte_count(REFERENCE)  # one token per byte


def test_a_reference_that_the_template_writes_otherwise_is_all_before_the_last_control_token() -> None:
    tokenizer = byte_level(258)
    found = find_reference(tokenizer, "abc<end>", "find(order=1)")
    assert (found.content, found.stop) == ((0, 1, 2), 3)
    assert find_reference(tokenizer, "abc", "find(order=1)").stop is None


def test_a_template_without_a_control_token_has_no_end_of_turn() -> None:
    assert find_reference(byte_level(258), "yes\n", "yes") == ReferenceTokens((0, 1, 2), None)


def test_texts_that_a_tokenizer_does_not_give_back_are_counted() -> None:
    assert count_lost(byte_level(300), [REFERENCE, " leading", "e\u0301"]) == 0
    assert count_lost(byte_level(300, normalizer=normalizers.NFC()), ["e\u0301"]) == 0  # the same letter
    assert count_lost(byte_level(300, normalizer=normalizers.Lowercase()), ["ABC", "abc"]) == 1
    assert count_lost(words_only(), ["known words", "known others"]) == 1


def test_an_answer_may_be_as_long_as_with_the_tokenizer_of_the_project() -> None:
    references = ["x" * 40, "yes " * 10]
    short, long = byte_level(258), byte_level(400, "x" * 40, "yes " * 10)
    used, allowed = (sum(len(tokenizer(text)["input_ids"]) for text in references) for tokenizer in (short, long))
    assert answer_limit(10, short, references, long) == math.ceil(10 * used / allowed) > 20
    assert answer_limit(10, long, references, long) == answer_limit(10, long, references) == 10
