"""How long single requests take, measured through a real server."""

from pathlib import Path

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.serving.commands import measure, prompts_of_test_rows
from ft_pipeline_tests.distillation.fault_server import serving
from ft_pipeline_tests.evaluation.conftest import CONVERSATIONS

PROMPTS = [[{"role": "user", "content": f"Where is parcel {number}?"}] for number in range(6)]


def test_requests_are_sent_one_after_the_other_after_one_to_warm_up() -> None:
    with serving(latency=0.05) as server:
        url = server.teacher().model_dump()["endpoint"]["url"]
        found = measure(url, server.teacher().model, PROMPTS, 8)
        assert [body["messages"] for body in server.bodies] == [PROMPTS[0], *PROMPTS]
        assert {body["max_tokens"] for body in server.bodies} == {8}
    assert found.requests == 6 and 0.05 <= found.p50 <= found.p95
    assert found.describe().startswith("6 single requests: half of them took at most 0.")


def test_a_server_that_refuses_is_an_error() -> None:
    with serving(key="secret") as server, pytest.raises(UserError, match="refused a request: HTTP 401"):
        measure(server.teacher().model_dump()["endpoint"]["url"], "any", PROMPTS, 8)


def test_the_prompts_are_those_of_the_test_rows(conversations: Path) -> None:
    prompts = prompts_of_test_rows(conversations, 3)
    questions = {row["messages"][0]["content"] for row in CONVERSATIONS if row["split"] == "test"}
    assert len(prompts) == 3 and all(prompt[0]["content"] in questions for prompt in prompts)
