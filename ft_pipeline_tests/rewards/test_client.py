"""The process that computes rewards: values, limits, environment and errors."""

import json
import os
from pathlib import Path

import psutil
import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.rewards.client import Answer, RewardProcess
from ft_pipeline.rewards.config import reward_config
from ft_pipeline.rewards.settings import GrpoSettings
from ft_pipeline.settings.evaluation import EvaluationSettings

CHECKS = """
import os
import random
import socket
import subprocess
import time

import numpy


def readable(path):
    try:
        with open(path, "rb") as file:
            return len(file.read()) > 0
    except OSError:
        return False


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
    if answer.startswith("read "):
        return float(readable(answer.removeprefix("read ")))
    if answer == "write":
        with open("own.txt", "w") as file, open(os.devnull, "w"):
            file.write("x")
        return 1.0
    if answer == "write elsewhere":
        try:
            open("/tmp/from_a_reward", "w").close()
        except OSError:
            return 0.0
        return 1.0
    if answer == "leave a process":
        subprocess.Popen(["sleep", "61.25"], start_new_session=True)
        os._exit(3)
    if answer == "fork":
        if not os.fork():
            return 7.0
        os.wait()
        return 1.0
    if answer == "chatter":
        for descriptor in range(3, 10):
            try:
                os.write(descriptor, b"not a reply\\n")
            except OSError:
                pass
    if answer == "random":
        return random.random() + float(numpy.random.random())
    if answer == "set":
        return float(hash("text") % 1000)
    if answer == "large":
        return 1e200
    if answer == "connect":
        try:
            socket.create_connection(("127.0.0.1", int(os.environ.get("PORT", "9"))), timeout=5)
        except OSError as error:
            return float(error.errno == 101)
    return 1.0
"""
TURNS = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": '{"city": "Leeds"}'}]
CONVERSATION = {"messages": TURNS, "tools": None}


EVALUATION = EvaluationSettings.model_validate(
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


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    (folder / "checks.py").write_text(CHECKS)
    return folder


def open_process(project, rewards, **limits):
    return RewardProcess(GrpoSettings(rewards=rewards, **limits), reward_config(project, EVALUATION, rewards))


@pytest.fixture(scope="module")
def obedience(project):
    process = open_process(project, {"obedience": 1}, reward_seconds=1)
    yield process
    process.close()


def texts(*answers):
    return [Answer(CONVERSATION, text) for text in answers]


def test_a_reward_is_the_weighted_mean_of_the_metrics_of_the_evaluation(project):
    process = open_process(project, {"city": 1, "format_valid": 2, "length": 1})
    right, wrong, prose = process.rewards(texts('{"city": "Leeds"}', '{"city": "York"}', "In Leeds."))
    process.close()
    # The function returns minus the length; lower is better, so that its sign changes once more.
    assert right.values == {"city": 1.0, "format_valid": 1.0, "length": 17.0} and right.total == (1 + 2 + 17) / 4
    assert wrong.values == {"city": 0.0, "format_valid": 1.0, "length": 16.0} and wrong.total == (0 + 2 + 16) / 4
    assert prose.total == 9 / 4 and not prose.failed


def test_calls_of_tools_are_compared_with_those_of_the_reference(project):
    call = {"id": "a", "name": "find", "arguments": '{"number":7}'}
    turns = [{"role": "user", "content": "Find 7."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    tools = json.dumps([{"type": "function", "function": {"name": "find", "parameters": {}}}])
    conversation = {"messages": turns, "tools": tools}
    other = {**call, "arguments": '{"number": 8}'}
    process = open_process(project, {"call_arguments": 1, "call_names": 1})
    answers = [Answer(conversation, "find", [call]), Answer(conversation, "find", [other]), Answer(conversation, "7")]
    assert [reward.total for reward in process.rewards(answers)] == [1.0, 0.5, 0.0]
    process.close()


def test_an_answer_whose_reward_takes_too_long_or_ends_the_process_fails_and_the_rest_goes_on(obedience):
    rewards = obedience.rewards(texts("fine", "sleep", "exit", "fine"))
    assert [reward.total for reward in rewards] == [1.0, 0.0, 0.0, 1.0]
    assert [reward.failed for reward in rewards] == [False, True, True, False]


def test_an_answer_whose_reward_fails_has_the_lowest_values_even_if_they_are_negative(project):
    process = open_process(project, {"obedience": 1, "shortness": 1})
    fine, failed = process.rewards(texts("fine", "exit"))
    process.close()
    assert fine.total == (1 - 4) / 2 and failed.failed
    assert failed.values == {"obedience": 0.0, "shortness": -4.0} and failed.total == -2.0


def test_a_function_that_takes_too_much_memory_raises_its_error(obedience):
    with pytest.raises(UserError, match=r"obedience .*MemoryError"):
        obedience.rewards(texts("eat"))


def test_the_process_sees_no_other_variables_of_the_environment(project, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "s3cret")
    process = open_process(project, {"obedience": 1})
    (reward,) = process.rewards(texts("secret"))
    process.close()
    assert reward.total == 0.0 and not reward.failed


def test_the_process_reaches_no_network_where_the_system_allows_that(obedience):
    (reward,) = obedience.rewards(texts("connect"))
    assert reward.total == float(obedience.limits["network"])


def test_the_process_reads_neither_keys_nor_the_variables_of_the_training(obedience, tmp_path, monkeypatch):
    key = tmp_path / "key.pem"
    key.write_text("PRIVATE KEY")
    files = [key, Path(f"/proc/{os.getpid()}/environ"), Path(__file__)]
    rewards = obedience.rewards(texts(*(f"read {path}" for path in files)))
    assert [reward.total for reward in rewards] == [float(not obedience.limits["files"])] * 3
    libraries = obedience.rewards(texts(f"read {json.__file__}", f"read {pytest.__file__}"))
    assert [reward.total for reward in libraries] == [1.0, 1.0]


def test_the_process_writes_only_to_its_own_folder(obedience):
    try:
        own, other = obedience.rewards(texts("write", "write elsewhere"))
    finally:
        Path("/tmp/from_a_reward").unlink(missing_ok=True)
    assert own.total == 1.0 and other.total == float(not obedience.limits["files"])


def test_what_a_function_started_ends_with_the_process(obedience):
    (reward,) = obedience.rewards(texts("leave a process"))
    assert reward.failed
    left = [process for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"] == ["sleep", "61.25"]]
    for process in left:
        process.kill()
    assert bool(left) == (not obedience.limits["processes"])


def test_a_copy_of_the_process_that_a_function_forked_gives_no_reply(obedience):
    rewards = obedience.rewards(texts("fork", "fine", "fork", "fine"))
    assert [reward.total for reward in rewards] == [1.0] * 4


def test_what_a_function_writes_to_the_replies_is_no_reward(obedience):
    rewards = obedience.rewards(texts("chatter", "fine"))
    assert [reward.failed for reward in rewards] == [True, False] and rewards[1].total == 1.0


def test_a_reward_does_not_depend_on_the_answers_before_it(obedience, project):
    first, second = obedience.rewards(texts("random", "random"))
    assert first.total == second.total > 0
    other = open_process(project, {"obedience": 1})
    assert other.rewards(texts("set")) == obedience.rewards(texts("set"))
    other.close()


def test_an_answer_that_is_too_deep_for_a_check_has_the_lowest_reward_and_the_rest_goes_on(project):
    deep = '{"city": ' + "[" * 900 + "]" * 900 + "}"
    process = open_process(project, {"city": 1, "format_valid": 1})
    rewards = process.rewards(texts(deep, '{"city": "Leeds"}', "", "\0\udcff", "{" * 5000))
    process.close()
    assert [reward.total for reward in rewards] == [rewards[0].total, 1.0, 0.0, 0.0, 0.0]
    assert rewards[0].total <= 0.5


def test_values_that_are_too_large_for_a_mean_raise_a_clear_error(obedience):
    with pytest.raises(UserError, match=r"The reward 'obedience' is 1e\+200. Return numbers of at most 1,000,000"):
        obedience.rewards(texts("large"))


@pytest.mark.parametrize(
    "value",
    [
        "float('nan')",
        "None",
        *(pytest.param(value, marks=pytest.mark.long) for value in ("float('inf')", "'high'", "[1.0]")),
    ],
)
def test_a_function_that_returns_no_finite_number_raises_a_clear_error(tmp_path, value):
    (tmp_path / "checks.py").write_text(f"def obedience(answer):\n    return {value}\n")
    process = open_process(tmp_path, {"obedience": 1})
    with pytest.raises(UserError, match=r"obedience \(checks.obedience\)"):
        process.rewards(texts("fine"))
    process.close()


def test_an_experiment_without_a_reward_raises_a_clear_error(project):
    with pytest.raises(UserError, match=r"'grpo' needs a reward. Set `grpo.rewards: \{METRIC: 1\}`"):
        reward_config(project, EVALUATION, {})


@pytest.mark.parametrize("name", ["of_all", "citty", "nats_per_byte"])
def test_a_reward_that_is_no_metric_of_single_answers_raises_a_clear_error(project, name):
    with pytest.raises(UserError, match=rf"grpo.rewards names '{name}'.*Use one of exact_match, .*city/all"):
        reward_config(project, EVALUATION, {name: 1})


def test_a_function_that_raises_an_exception_stops_with_its_line(tmp_path):
    (tmp_path / "checks.py").write_text("def obedience(answer):\n    return 1 / 0\n")
    process = open_process(tmp_path, {"obedience": 1})
    with pytest.raises(UserError, match=r"obedience \(checks.obedience\) failed in line 2 of checks.py"):
        process.rewards(texts("fine"))
    process.close()
