"""A classifier as the champion: exported, read by its card's own code, and served with its probabilities."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from ft_pipeline.cli.app import app
from ft_pipeline.decide.released import Candidate, Promotion
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.items import read_rows
from ft_pipeline.evaluation.rivals.answered_questions import answered_questions
from ft_pipeline.evaluation.rivals.word_model import ARRAYS, TEXTS, WordModel
from ft_pipeline.release.champion import promote
from ft_pipeline.release.export import classifier
from ft_pipeline.release.export.huggingface import plan_export
from ft_pipeline.release.model_lookup import find_model
from ft_pipeline.serving.word_model_server import application
from ft_pipeline_tests.release.trained import TALKS, Trained
from ft_pipeline_tests.serving.test_serving import serving

ASKED = {
    "delivery": ("Where is my parcel?", "The courier is late.", "When does my order arrive?"),
    "refund": ("I want my money back.", "Please refund the lamp.", "When is my money back?"),
}
TALKS_WITH_LABELS = {
    **TALKS,
    "train": [
        (f"{question} {number}", label)
        for label, questions in ASKED.items()
        for number in range(4)
        for question in questions
    ],
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A project whose champion is a classifier."""
    project = Trained(tmp_path_factory.mktemp("classifier") / "shop", talks=TALKS_WITH_LABELS)
    rows = read_rows(project.conversations.path)
    model = WordModel.fit(answered_questions(rows, "train"), [])
    made = project.put("word_model", {"conversations": project.conversations}, model.write, {"left_out": None})
    candidate = Candidate(
        name="word_model",
        kind="classifier",
        experiment=None,
        fingerprint=made.fingerprint,
        fingerprints={"word_model": made.fingerprint},
    )
    promote(project.store.root, lambda _: Promotion(candidate=candidate, reason="it leads", evidence={"served": {}}))
    return project


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def test_it_is_exported_without_code(shop: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    cell = {"requirement": "tasks hold", "outcome": "cannot be told", "sentence": "Nothing is known of the task x"}
    decided = {
        "verdict": {"sentence": "It is enough.", "basis": ""},
        "looks": {},
        "matrix": {"": [cell]},
    }  # without a comparison
    decided["exposure"] = {"before": 0, "tests": 1, "used_up_at": 60}
    monkeypatch.setattr(classifier, "decision_about", lambda store, comparison: decided)
    made = run("export", "champion", str(target), "--project", str(shop.root), "--json")
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    assert document["kind"] == "classifier" and {ARRAYS, TEXTS, "README.md", "SHA256SUMS"} <= set(document["files"])
    card = (target / "README.md").read_text(encoding="utf-8")
    assert "Base model" not in card and "library_name: sklearn" in card
    assert "- ? tasks hold: Nothing is known of the task x" in card
    assert "no Hugging Face model" in str(
        _refusal(lambda: plan_export(shop.store, find_model(shop.store, "champion"), tmp_path / "other", merged=False))
    )


def _refusal(call: Any) -> UserError:
    with pytest.raises(UserError) as refused:
        call()
    return refused.value


def test_it_is_audited_down_to_its_rows(shop: Trained) -> None:
    done = run("audit", "champion", "--json", "--project", str(shop.root))
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["roots"][0]["kind"] == "word_model"
    assert {node["kind"] for node in document["nodes"]} >= {"word_model", "conversations", "raw_alpaca"}


def test_the_code_of_its_card_answers_as_it_does(shop: Trained, tmp_path: Path) -> None:
    assert run("export", "champion", str(tmp_path / "out"), "--project", str(shop.root)).exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = card.split("```python\n")[1].split("\n```")[0].replace("path/to/this/folder", str(tmp_path / "out"))
    space: dict[str, Any] = {}
    exec(code, space)
    model = WordModel.read(shop.store.all("word_model")[0].path)
    for question in ("my parcel is late", "money back please"):
        assert space["answer"](question) == {"answer": model.answers([question])[0].text}


@contextmanager
def answering(shop: Trained) -> Iterator[openai.OpenAI]:
    """A server of the model alone, without the one in front."""
    app = application(WordModel.read(shop.store.all("word_model")[0].path))
    with TestClient(app, base_url="http://127.0.0.1") as http:
        yield openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="none", max_retries=0, http_client=http)


def chat(client: openai.OpenAI, *turns: Any, **more: Any) -> Any:
    roles = ("user", "assistant")
    messages: Any = [{"role": roles[number % 2], "content": turn} for number, turn in enumerate(turns)]
    return client.chat.completions.create(model="champion", messages=messages, **more)


def test_a_reply_has_the_probabilities_of_the_labels(shop: Trained) -> None:
    with answering(shop) as client:
        [choice] = chat(client, "Where is my parcel?").choices
        probabilities = choice.probabilities["answer"]
        assert choice.message.content == "delivery" == max(probabilities, key=probabilities.get)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-4)
        parts = [{"type": "text", "text": "money back"}]
        assert chat(client, "Where is my parcel?", "delivery", parts).choices[0].message.content == "refund"


def test_a_reply_streams(shop: Trained) -> None:
    with answering(shop) as client:
        chunks = list(chat(client, "my money back", stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "refund"
        assert chunks[-1].usage.total_tokens == 0


def test_what_is_no_chat_is_refused(shop: Trained) -> None:
    with answering(shop) as client:
        with pytest.raises(openai.BadRequestError, match="Send at least one"):
            client.chat.completions.create(model="champion", messages=[])
        with pytest.raises(openai.NotFoundError, match="Send chats"):
            client.completions.create(model="champion", prompt="hello")
        assert client.models.list().data == []


@pytest.mark.long
def test_it_is_served_as_any_champion(shop: Trained) -> None:
    with serving(shop.root, "champion") as served:
        assert "Loading champion (word_model) …" in served.said
        [choice] = chat(served.client, "Where is my parcel?").choices
        assert choice.message.content == "delivery" and choice.probabilities["answer"]["delivery"] > 0.5
        tools: Any = [{"type": "function", "function": {"name": "find", "parameters": {}}}]
        with pytest.raises(openai.BadRequestError, match="calls no tools"):
            chat(served.client, "Where?", tools=tools)
