"""What everything that decodes promises: the answers and likelihoods of the plain model, one token after the other.

In 32 bit, on a tiny model. The servers around the engines are tested in serving/test_serving.py and
test_llama_cpp_serving.py; vLLM needs a GPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.likelihood import TargetScore, target_log_likelihoods
from ft_pipeline.gguf.merged_reference import log_softmax
from ft_pipeline.models import serving_engines
from ft_pipeline.models.chat import stop_token_ids
from ft_pipeline.models.decoding import generate as generating
from ft_pipeline.models.decoding import prefix_cache
from ft_pipeline.models.decoding.generate import generate_ids
from ft_pipeline.models.decoding.prefix_cache import Contexts
from ft_pipeline.models.decoding.target_logits import Pair
from ft_pipeline.models.decoding.token_loop import Decoding
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.models.serving_engines import HOST, Engine, EngineName, find_engine
from ft_pipeline.serving import engine_start
from ft_pipeline.serving.engine_start import command_of
from ft_pipeline_tests.evaluation.likelihoods import direct_log_likelihood

NEW_TOKENS = 10
PREFIX = [5, 9, 11, 40, 270, 300, 12, 55, 90, 301, 44]
PROMPTS = [[*PREFIX, 7, 8], [5, 6], [*PREFIX, 100, 4, 77], [30, 31, 32, 33, 34], [*PREFIX, 12], [61]]
PAIRS: list[Pair] = [
    (prompt, target) for prompt, target in zip(PROMPTS, ([7, 8], [1], [90, 91, 92], [40], [3, 4], [44]), strict=True)
]


@dataclass(frozen=True)
class Decoder:
    """Something that decodes the tiny model."""

    answers: Callable[[Sequence[list[int]]], list[list[int]]]
    """The greedy answers to prompts."""
    score: Callable[[Sequence[Pair]], list[TargetScore]]


@contextmanager
def torch_in(base: Path, batch_size: int, *, shares_prefixes: bool = False, own_loop: bool = True) -> Iterator[Decoder]:
    """The project's own decoding, with or without what makes it fast."""
    model, tokenizer = load_model(base, "cpu", dtype=torch.float32), load_tokenizer(base)
    decoding = Decoding(stop_token_ids(tokenizer, model), NEW_TOKENS, 0.0)

    def answers(prompts: Sequence[list[int]]) -> list[list[int]]:
        found: dict[int, list[int]] = {}
        for batch in generate_ids(Contexts(model, list(prompts)), tokenizer, decoding, batch_size=batch_size, seed=0):
            found |= batch
        return [found[index] for index in range(len(prompts))]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_cache, "_MIN_SAVED_TOKENS", 2 if shares_prefixes else 10**9)
        if not own_loop:
            patch.setattr(generating, "supports_token_loop", lambda model: False)
        yield Decoder(answers, lambda pairs: target_log_likelihoods(model, pairs, batch_size=batch_size))


@contextmanager
def llama_cpp(base: Path) -> Iterator[Decoder]:
    """A GGUF file of the model."""
    pytest.importorskip("llama_cpp_py_sync")
    from ft_pipeline.gguf.evaluated_model import EvaluatedModel
    from ft_pipeline_tests.tiny_gguf import write_gguf

    stops = stop_token_ids(load_tokenizer(base), load_model(base, "cpu"))

    def score(pairs: Sequence[Pair]) -> list[TargetScore]:
        scores = []
        for context, target in pairs:
            logits = model.logits(context + target[:-1], len(context) - 1)
            chosen = log_softmax(logits)[np.arange(len(target)), target]
            scores.append(TargetScore(chosen.tolist(), bool((logits.argmax(axis=1) == target).all())))
        return scores

    with EvaluatedModel(write_gguf(base, base.parent / "exact.gguf"), 64, exact=True) as model:
        yield Decoder(lambda prompts: [model.answer(prompt, stops, NEW_TOKENS) for prompt in prompts], score)


DECODERS: dict[str, Callable[[Path], Any]] = {
    "one at a time": lambda base: torch_in(base, 1),
    "in batches": lambda base: torch_in(base, 4),
    "with shared prefixes": lambda base: torch_in(base, 4, shares_prefixes=True),
    "by transformers' generate": lambda base: torch_in(base, 4, own_loop=False),
    "llama.cpp": llama_cpp,
}
"""A new way to decode adds a line."""


@dataclass(frozen=True)
class Expected:
    """What the plain model computes, without a cache or a batch."""

    answers: list[list[int]]
    scores: list[float]
    greedy: list[bool]


@pytest.fixture(scope="module")
def expected(tiny_base: Path) -> Expected:
    model = load_model(tiny_base, "cpu", dtype=torch.float32)
    stops = stop_token_ids(load_tokenizer(tiny_base), model)

    @torch.no_grad()
    def next_token(ids: list[int]) -> int:
        return int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())

    def answer(prompt: list[int], limit: int = NEW_TOKENS) -> list[int]:
        ids: list[int] = []
        while len(ids) < limit and not (ids and ids[-1] in stops):
            ids.append(next_token(prompt + ids))
        return ids

    pairs = scored_pairs([answer(prompt) for prompt in PROMPTS])
    scores = [direct_log_likelihood(model, *pair) for pair in pairs]
    greedy = [answer(prompt, len(target)) == target for prompt, target in pairs]
    return Expected([answer(prompt) for prompt in PROMPTS], scores, greedy)


def scored_pairs(answers: Sequence[list[int]]) -> list[Pair]:
    """Targets of several lengths, and the greedy answers."""
    return [*PAIRS, *zip(PROMPTS, answers, strict=True)]


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, tiny_base: Path) -> Iterator[Decoder]:
    with DECODERS[request.param](tiny_base) as found:
        yield found


def test_its_greedy_answers_are_those_of_the_plain_model(decoder: Decoder, expected: Expected) -> None:
    assert decoder.answers(PROMPTS) == expected.answers
    assert decoder.answers(PROMPTS[::-1]) == expected.answers[::-1]
    assert decoder.answers(PROMPTS[:1]) == expected.answers[:1]


def test_its_likelihoods_are_those_of_the_plain_model(decoder: Decoder, expected: Expected) -> None:
    pairs = scored_pairs(expected.answers)
    found = decoder.score(pairs)
    assert [score.total for score in found] == pytest.approx(expected.scores, abs=1e-3)
    assert [score.is_greedy for score in found] == expected.greedy
    assert [len(score.log_probs) for score in found] == [len(target) for _, target in pairs]
    assert True in expected.greedy and False in expected.greedy


SERVERS: dict[EngineName, tuple[str, ...]] = {
    "vllm": ("--override-generation-config", '{"temperature": 0, "repetition_penalty": 1, "min_p": 0}'),
    "transformers": ("serve", "model"),
    "llama.cpp": ("-P", "-m", engine_start.LLAMA_CPP_SERVER),
}
"""Name of a serving engine → a part of its command line that decides how it decodes."""


def test_every_serving_engine_has_material() -> None:
    assert set(SERVERS) == set(get_args(EngineName)), "add it to SERVERS in contracts/test_engines.py"


@pytest.mark.parametrize("name", SERVERS)
def test_it_serves_this_machine_only_and_decodes_as_scored(
    name: EngineName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_engines, "query_compute_dtype", lambda: {"dtype": "float32", "device": "cpu"})
    engine = Engine(name, Path("/bin/engine"))
    command = command_of(engine, "model", tmp_path, 4711)
    assert command[0] == "/bin/engine" and "4711" in command and HOST == "127.0.0.1"
    begin = command.index(SERVERS[name][0])
    assert tuple(command[begin : begin + len(SERVERS[name])]) == SERVERS[name]
    assert name == "llama.cpp" or command[command.index("--host") + 1] == HOST
    assert engine.turns in get_args(serving_engines.TurnForm)


@pytest.mark.parametrize("name", SERVERS)
def test_an_engine_that_is_not_installed_is_one_sentence_and_what_to_do(
    name: EngineName, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_engines, "find_program", lambda name: None)
    monkeypatch.setattr(serving_engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^\S+ (is not installed|cannot serve without .*)\. Run `pip install .*"):
        find_engine(name)
