"""The process that computes rewards: values, limits, environment and errors."""

import os

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.reward_config import reward_config
from ft_pipeline.settings.evaluation import EvaluationSettings
from ft_pipeline.settings.rewards import GrpoSettings
from ft_pipeline.training.objectives.reward_client import Answer, RewardProcess

CHECKS = """
import os
import socket
import time


def shortness(reference, answer):
    print("not a reply")
    return -float(len(answer))


def obedience(answer):
    if answer == "sleep":
        time.sleep(60)
    if answer == "exit":
        os._exit(3)
    if answer == "eat":
        return float(len(bytearray(10**10)))
    if answer == "secret":
        return float("SECRET_TOKEN" in os.environ)
    if answer == "connect":
        try:
            socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "9"))), timeout=5)
        except OSError as error:
            return float(error.errno == 101)
    return 1.0
"""
TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": '{"city": "Leeds"}'}]
CONVERSATION = {"messages": TURNS, "tools": None}


@pytest.fixture
def process_of(tmp_path):
    (tmp_path / "checks.py").write_text(CHECKS)
    evaluation = EvaluationSettings.model_validate(
        {
            "answer_format": {"type": "json"},
            "metrics": {
                "city": {"type": "json_fields", "fields": {"city": "exact"}},
                "shortness": {"function": "checks.shortness"},
                "length": {"function": "checks.shortness", "lower_is_better": True},
                "obedience": {"function": "checks.obedience"},
                "of_all": {"function": "checks.shortness", "corpus": True},
            },
        }
    )
    opened = []

    def make(rewards, **limits):
        settings = GrpoSettings(rewards=rewards, **limits)
        opened.append(RewardProcess(settings, reward_config(tmp_path, evaluation, rewards)))
        return opened[-1]

    yield make
    for process in opened:
        process.close()


def texts(*answers):
    return [Answer(CONVERSATION, text) for text in answers]


def test_a_reward_is_the_weighted_mean_of_the_metrics_of_the_evaluation(process_of):
    process = process_of({"city": 1, "format_valid": 3})
    right, wrong, prose = process.rewards(texts('{"city": "Leeds"}', '{"city": "York"}', "It is in Leeds."))
    assert right.values == {"city": 1.0, "format_valid": 1.0} and right.total == 1.0
    assert wrong.values == {"city": 0.0, "format_valid": 1.0} and wrong.total == 0.75
    assert prose.total == 0.0 and not prose.failed


def test_a_metric_where_lower_is_better_counts_negatively(process_of):
    (reward,) = process_of({"length": 2}).rewards(texts("four"))
    assert reward.total == 4.0  # the function returns -4


def test_an_answer_whose_reward_takes_too_long_or_ends_the_process_gets_0_and_the_rest_goes_on(process_of):
    process = process_of({"obedience": 1}, reward_seconds=2)
    rewards = process.rewards(texts("fine", "sleep", "fine", "exit", "fine"))
    assert [reward.total for reward in rewards] == [1.0, 0.0, 1.0, 0.0, 1.0]
    assert [reward.failed for reward in rewards] == [False, True, False, True, False]


def test_a_function_that_takes_too_much_memory_raises_its_error(process_of):
    with pytest.raises(UserError, match="obedience.*MemoryError"):
        process_of({"obedience": 1}).rewards(texts("eat"))


def test_the_process_sees_no_other_variables_of_the_environment(process_of, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    (reward,) = process_of({"obedience": 1}).rewards(texts("secret"))
    assert os.environ["SECRET_TOKEN"] == "s3cret" and reward.total == 0.0


def test_the_process_reaches_no_network_where_the_system_allows_that(process_of):
    process = process_of({"obedience": 1})
    (reward,) = process.rewards(texts("connect"))
    assert reward.total == float(not process.has_network)


@pytest.mark.parametrize("name", ["of_all", "citty", "nats_per_byte"])
def test_a_reward_that_is_no_metric_of_single_answers_raises_a_clear_error(process_of, name):
    with pytest.raises(UserError, match=f"grpo.rewards names '{name}'.*Use one of exact_match, .*city/all"):
        process_of({name: 1})


def test_a_function_that_raises_an_exception_stops_with_its_line(process_of, tmp_path):
    (tmp_path / "checks.py").write_text(
        "def obedience(answer):\n    return 1 / 0\n\n\ndef shortness(answer): return 0\n"
    )
    with pytest.raises(UserError, match=r"obedience \(checks.obedience\) failed in line 2 of checks.py"):
        process_of({"obedience": 1}).rewards(texts("fine"))
