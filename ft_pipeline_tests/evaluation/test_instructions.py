"""Instructions that a model writes: honest and foolish reflectors, copies of held-out rows, kills, keys and bills."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.prompt_search.instructions import NO_BETTER, TRIED, Answered, World, write_instructions
from ft_pipeline.evaluation.prompt_search.reflector import plan_of, read_instruction
from ft_pipeline.evaluation.prompt_search.refusals import MOST_LETTERS, HeldOutTexts, why_no_instruction
from ft_pipeline.evaluation.prompt_search.search import Found, search
from ft_pipeline.evaluation.prompt_search.space import Space, Variant, variant
from ft_pipeline.evaluation.prompt_search.tries import Measured, Try, read_tries
from ft_pipeline.job import Job
from ft_pipeline.settings.project import ProjectSettings
from ft_pipeline.steps import searched_prompt
from ft_pipeline_tests.distillation.fault_server import FaultServer, serving
from ft_pipeline_tests.evaluation.conftest import JobMaker, conversation

ROWS = [f"row-{number}" for number in range(6)]
SPACE = Space({"short": variant({"system_prompt": "Be brief."})}, "Answer the customer.", ROWS, most_examples=2)
UPPER, NUMBER = "upper case", "the order number first"
"""The format of the right answers, which no prompt of the project names."""
NEVER_HELD_OUT = HeldOutTexts([])
Reply = Callable[[str, Sequence[Answered]], str | None]


def right(prompt: Variant) -> float:
    """The share of right answers: an instruction helps a little, and each rule of the format much."""
    said = prompt["system_prompt"] or ""
    return 0.1 + 0.1 * bool(said) + 0.3 * (UPPER in said) + 0.4 * (NUMBER in said)


def answered(prompt: Variant, numbers: Sequence[int]) -> list[Answered]:
    return [Answered(f"Question {n}", "Hello", f"LF-{n}: HELLO", right(prompt), False) for n in numbers]


def honest(instruction: str, answers: Sequence[Answered]) -> str:
    """Read one rule more off the right answers."""
    assert all(answer.reference.isupper() and answer.reference.startswith("LF-") for answer in answers)
    return f"{instruction} Write {UPPER if UPPER not in instruction else NUMBER}."


def run(
    file: Path, reflect: Reply, tries: int = 30, replies: int = 6, held_out: HeldOutTexts = NEVER_HELD_OUT
) -> Found:
    def write(start: Variant, attempt: Callable[[Variant], Try], has_tries_left: Callable[[], bool]) -> None:
        def scores(prompt: Variant) -> list[float]:
            attempt(prompt)
            return [right(prompt)] * 8

        world = World(10, 8, answered, scores, reflect, held_out, has_tries_left)
        fates.extend(write_instructions(start, world, replies=replies, seed=3))

    fates.clear()
    return search(
        SPACE,
        lambda prompt: Measured(-right(prompt), right(prompt), 1.0, 10.0 + prompt["few_shot"]),
        file,
        tries=tries,
        seed=3,
        write=write,
    )


fates: list[Any] = []


def test_a_format_that_no_prompt_names_is_found_by_an_honest_reflector(tmp_path: Path) -> None:
    found = run(tmp_path / "tries", honest)
    assert UPPER in found.best.variant["system_prompt"] and NUMBER in found.best.variant["system_prompt"]
    assert [each.fate for each in fates[:2]] == [TRIED, TRIED]
    assert [each.name for each in found.tries if each.name][-2:] == ["written #1", "written #2"]


def test_what_is_written_is_tried_with_examples_too(tmp_path: Path) -> None:
    searched = [each.variant for each in run(tmp_path / "tries", honest).tries if each.name is None]
    assert any(NUMBER in (prompt["system_prompt"] or "") and prompt["few_shot"] for prompt in searched)


FOOLISH = [
    "",
    "[]",
    '{"instruction": "x"}',
    "x" * 100_000,
    "It is a pleasant day today.",
    "It is a pleasant day today.",
]


def test_a_foolish_reflector_changes_nothing(tmp_path: Path) -> None:
    replies = iter(FOOLISH)
    found = run(tmp_path / "tries", lambda instruction, answers: next(replies))
    assert [each.fate.removeprefix("refused: ") for each in fates] == [
        "the reply is empty",
        "the reply is JSON",
        "the reply is JSON",
        "the reply has 100,000 characters, and 4,000 are the most",
        NO_BETTER,
        "it was proposed before",
    ]
    assert max(len(each.text) for each in fates) == MOST_LETTERS
    assert found.best.measured.score == pytest.approx(0.2)


def test_no_reply_uses_more_than_half_of_the_tries(tmp_path: Path) -> None:
    def longer(instruction: str, answers: Sequence[Answered]) -> str:
        return honest(instruction, answers) + "!"

    found = run(tmp_path / "tries", longer, tries=6, replies=20)
    assert sum((each.name or "").startswith("written") for each in found.tries) == 1  # four are given, two are left


@pytest.mark.parametrize("killed_after", [0, 1, 3])
def test_a_killed_search_ends_with_the_same_prompts(tmp_path: Path, killed_after: int) -> None:
    whole = run(tmp_path / "whole", honest)
    asked: list[str] = []

    def dies(instruction: str, answers: Sequence[Answered]) -> str:
        asked.append(instruction)
        if len(asked) > killed_after:
            raise KeyboardInterrupt
        return honest(instruction, answers)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", dies)
    assert run(tmp_path / "killed", honest).tries == whole.tries


def test_an_error_of_the_reflector_ends_the_search(tmp_path: Path) -> None:
    def dead(instruction: str, answers: Sequence[Answered]) -> str:
        raise UserError("The server is down. Start it.")

    with pytest.raises(UserError, match="The server is down"):
        run(tmp_path / "tries", dead)


def test_an_instruction_for_which_the_context_is_too_short_is_refused() -> None:
    def too_long(prompt: Variant, numbers: Sequence[int]) -> list[Answered]:
        if "long" in (prompt["system_prompt"] or ""):
            raise UserError("6 test answers need up to 900 tokens of context, but the model has 512.")
        return answered(prompt, numbers)

    world = World(10, 8, too_long, lambda prompt: [0.1] * 8, lambda *_: "A long one", NEVER_HELD_OUT, lambda: True)
    replies = write_instructions(variant(), world, replies=1, seed=3)
    assert [reply.fate for reply in replies] == [
        "refused: 6 test answers need up to 900 tokens of context, but the model has 512."
    ]


def test_an_error_while_answers_are_scored_ends_the_search() -> None:
    def broken(prompt: Variant, numbers: Sequence[int]) -> list[Answered]:
        raise MemoryError

    world = World(10, 8, broken, lambda prompt: [0.1] * 8, lambda *_: "A rule", NEVER_HELD_OUT, lambda: True)
    with pytest.raises(MemoryError):
        write_instructions(variant(), world, replies=1, seed=3)


TEST_ROW = conversation("test", "My parcel with the blue ribbon never came to the old mill", "refund")
SHORT_ROW = conversation("validation", "Who pays the ferry?", "account")
CHINESE = conversation("test", "我的包裹昨天下午在旧磨坊附近丢失了请帮我查询", "退款")
TRAIN_ROW = conversation("train", "Please tell me at once when the parcel is going to come", "refund")
HELD_OUT = HeldOutTexts([TEST_ROW, SHORT_ROW, CHINESE, TRAIN_ROW])


@pytest.mark.parametrize(
    ("instruction", "copied"),
    [
        (
            "Say refund for: my PARCEL, with the blue ribbon never came to a mill.",
            "my parcel with the blue ribbon never",
        ),
        ("If they ask `Who pays the ferry?`, say account.", "who pays the ferry"),
        ("如果客户说我的包裹昨天下午在旧磨坊附近丢失了请帮我,回答退款", "我 的 包"),
        ("The answer is one of refund, account and 退款.", ""),
        ("If a parcel never came to a mill, say refund.", ""),
        ("Tell me at once when the parcel is going to come.", ""),  # a train row has it, too
    ],
)
def test_an_instruction_may_not_copy_held_out_rows(instruction: str, copied: str) -> None:
    found = HELD_OUT.copied_words(instruction)
    assert found.startswith(copied) and bool(found) == bool(copied)


def test_a_copy_is_refused(tmp_path: Path) -> None:
    copies = "Say refund for my parcel with the blue ribbon never came to the old mill"
    run(tmp_path / "tries", lambda instruction, answers: copies, replies=1, held_out=HELD_OUT)
    assert fates[0].fate.startswith("refused: it copies a held-out row ('my parcel with the")


@pytest.mark.parametrize(
    ("reply", "read"),
    [
        ("```\nBe kind.\n```", "Be kind."),
        ("Here:\n```text\nBe\nkind.\n```\nGood?", "Be\nkind."),
        (" Be kind.\n", "Be kind."),
    ],
)
def test_the_instruction_is_read_out_of_a_reply(reply: str, read: str) -> None:
    assert read_instruction(reply) == read and why_no_instruction(read) == ""


# --- the step, with a real server and a tiny model --------------------------------------------------------------------

LABELS = ["refund", "delivery", "account"]
CANARY = "canary-5d1c"


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with serving(reply=lambda prompt: f"```\nName one of refund, delivery, account. {len(prompt)}\n```") as started:
        yield started


@pytest.fixture
def job(make_job: JobMaker, tmp_path: Path, server: FaultServer) -> Job:
    """A search over rows whose held-out texts have a canary."""
    rows = [
        conversation(split, f"Question {number} of {split} {'' if split == 'train' else CANARY}", LABELS[number % 3])
        for split, count in {"train": 12, "validation": 4, "test": 4}.items()
        for number in range(count)
    ]
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows" / "rows.parquet")
    config, handling = server.teacher({"max_failed": 1.0}).config_and_handling()
    made = make_job(
        "searched_prompt",
        "search",
        {"conversations": tmp_path / "rows"},
        search={"tries": 9, "most_examples": 1, "reflector": "teacher", "reflections": 3},
        reflector=config,
        task="",
        given={"told": {"system_prompt": "Name the label."}},
        metric="nats_per_byte",
    )
    own = {key: value for key, value in made.config.items() if key in searched_prompt.Config.model_fields}
    own["evaluation"].pop("max_test_rows", None)
    return replace(made, config=own, handling=handling, shared=tmp_path / "shared")


def test_a_reflector_reads_train_rows_only_and_each_reply_is_paid_for_once(
    job: Job, server: FaultServer, tmp_path: Path
) -> None:
    summary = searched_prompt.run(job)
    sent = "\n".join(body["messages"][0]["content"] for body in server.bodies)
    assert "of train" in sent and "The right answer:\nrefund" in sent
    assert CANARY not in sent and "of test" not in sent and "of validation" not in sent
    assert 1 <= server.requests == summary["instructions"]["calls"] <= 3
    assert summary["instructions"]["host"] == server.url.split("/")[2]
    tries = read_tries(job.out / searched_prompt.TRIES_FILE)
    assert len(tries) == summary["tries"]
    (job.work / searched_prompt.INSTRUCTIONS).unlink()  # as if it was killed before
    again = searched_prompt.run(job)
    assert again == summary and server.requests == summary["instructions"]["calls"]


def test_a_key_is_set_only_while_the_server_is_asked(
    job: Job, server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFLECTOR_KEY", "k-123")
    server.key = "k-123"
    job.handling["endpoint"]["api_key_env"] = "REFLECTOR_KEY"
    searched_prompt.run(replace(job, secrets=("REFLECTOR_KEY",)))
    assert server.requests >= 1 and "REFLECTOR_KEY" not in os.environ


def test_a_dead_server_is_one_clear_error(job: Job) -> None:
    job.config["reflector"]["endpoint"]["url"] = "http://127.0.0.1:9/v1"
    job.handling["endpoint"]["attempts"] = 1
    with pytest.raises(UserError, match=r"127\.0\.0\.1:9/v1 cannot be reached .*Check that the server is running"):
        searched_prompt.run(job)


def test_where_the_budget_ends_the_search_goes_on(job: Job, server: FaultServer) -> None:
    job.handling["endpoint"]["budget"] = {"tokens": 1, "money": None}
    summary = searched_prompt.run(job)
    assert server.requests == 0 and summary["instructions"]["calls"] == 0
    assert "budget" in summary["instructions"]["stopped"] and summary["tries"] >= 4


# --- settings ---------------------------------------------------------------------------------------------------------


def settings(**given: Any) -> ProjectSettings:
    search = {"search": {"reflector": "teacher", "reflections": 10}}
    return ProjectSettings.model_validate({"name": "shop", "prompting": search, **given})


def test_a_reflector_needs_an_endpoint() -> None:
    with pytest.raises(ValueError, match=r"is 'teacher', which is no model with an `endpoint`"):
        settings()


def test_the_plan_names_host_calls_and_the_largest_bill(server: FaultServer) -> None:
    prices = {"input_per_million": 1.0, "output_per_million": 10.0}
    endpoint = {"url": "https://models.example/v1", "prices": prices}
    reflector = settings(teacher={"model": "big", "endpoint": endpoint}).reflector()
    assert reflector is not None
    assert plan_of(reflector, 10).startswith(
        "reflector big: up to 10 calls to models.example with train rows and answers"
    )
    assert plan_of(reflector, 10).endswith("at most about 0.16 by its prices")
