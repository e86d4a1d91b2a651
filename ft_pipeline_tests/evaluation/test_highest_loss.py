"""The test answers that a tuned model finds hardest, and `ft inspect`, which lists them."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from ft_pipeline.cli import app
from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.highest_loss import hardest_answers, newest_scored_experiment
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.asset_pointers import AssetPointers
from ft_pipeline.store.spec import Spec
from ft_pipeline.tables.conversations import SCHEMA
from ft_pipeline_tests.evaluation.scored import PARTS, scored

QUESTIONS = ["Where is my order now?", "Can I return the lamp?", "Do you ship to Norway?", "When do you open?"]
TUNED = [1.0, 4.0, 2.0, 3.0]
BASE = [2.0, 3.5, 2.5, 1.0]


class Shop:
    """A project with four test rows, and scores of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "experiments").mkdir(parents=True)
        (root / "project.yaml").write_text("{}\n", encoding="utf-8")
        for name in ("lora", "qlora"):
            (root / "experiments" / f"{name}.yaml").write_text("base_model: embedded\n", encoding="utf-8")
        self.store = ArtifactStore(root / "data" / "store")

    def add(
        self,
        spec: Spec,
        write: Callable[[Path], object],
        experiment: str | None = None,
    ) -> Artifact:
        draft = self.store.begin(spec)
        draft.out.rmdir()
        write(draft.out)
        artifact = self.store.commit(draft, {})
        AssetPointers(self.store.root).write(spec.kind, experiment, artifact)
        return artifact

    def add_conversations(self, erased: int | None = None) -> Artifact:
        rows = [
            {
                "id": f"{number:03}" if number != erased else "excluded:" + "0" * 64,
                "split": "test",
                "group": "",
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": f"answer {number}"},
                ],
                "table": "alpaca" if number < 3 else "sharegpt",
                "file": "a.jsonl",
                "row": number + 1,
            }
            for number, question in enumerate(QUESTIONS)
        ]

        def write(folder: Path) -> None:
            folder.mkdir()
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / "rows.parquet")

        return self.add(Spec("conversations", config={"erased": erased}), write)

    def add_scores(
        self, conversations: Artifact, experiment: str = "qlora", *, losses=TUNED, validated: int = 0
    ) -> Artifact:
        """validated: number of validation conversations."""

        def write(folder: Path) -> None:
            rows = {"adapter": {"kind": "adapter", "losses": [9.0] * 4}, "merged": {"kind": "merged", "losses": losses}}
            scored(folder, rows)
            known = {"name": "merged", "content_nats": 20.0, "content_bytes": 40}
            records = [{**known, "item": f"{number}:1", "group": str(number)} for number in range(validated)]
            if records:
                pq.write_table(pa.Table.from_pylist(records), folder / "validation.parquet")

        config = {"experiment": experiment, "validated": validated}
        spec = Spec("scores", {"conversations": conversations.reference}, config)
        return self.add(spec, write, experiment)

    def add_baseline(self, parts=PARTS) -> Artifact:
        rows = {"few_shot": {"kind": "prompt", "losses": [0.0] * 4}, "plain": {"kind": "base", "losses": BASE}}
        return self.add(Spec("prompt_baseline"), lambda folder: scored(folder, rows, parts), "qlora")

    def inspect(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["inspect", *arguments, "--project", str(self.root)])


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    for name in ("FT_PROJECT", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # `ft` sets them for its process
    return Shop(tmp_path / "shop")


def test_the_merged_model_counts_and_the_highest_loss_comes_first(shop: Shop) -> None:
    found = hardest_answers(shop.store, shop.add_scores(shop.add_conversations()), shop.add_baseline(), 3)
    assert (found.model, found.scored) == ("merged", 4)
    assert [(answer.row.origin, answer.loss, answer.base_loss) for answer in found.highest_loss] == [
        ("alpaca/a.jsonl:2", 4.0, 3.5),
        ("sharegpt/a.jsonl:4", 3.0, 1.0),
        ("alpaca/a.jsonl:3", 2.0, 2.5),
    ]
    first = found.highest_loss[0]
    assert (first.row.prompt, first.model_answer) == (QUESTIONS[1], "merged says 1")
    assert first.row.answer == "This is the one and only answer 1"
    assert (first.row.language, first.row.why) == ("en", "4.00 nats per token, 3.50 under the base model")


def test_only_a_higher_loss_than_the_base_models_is_a_regression(shop: Shop) -> None:
    scores, baseline = shop.add_scores(shop.add_conversations()), shop.add_baseline()
    regressions = hardest_answers(shop.store, scores, baseline, 5).regressions
    assert regressions is not None
    assert [(answer.row.row, answer.rise) for answer in regressions] == [(4, 2.0), (2, 0.5)]


@pytest.mark.parametrize("parts", [None, {**PARTS, "test_rows": "others"}], ids=["no baseline", "other test rows"])
def test_without_a_comparable_base_model_regressions_are_unknown(shop: Shop, parts: dict | None) -> None:
    baseline = shop.add_baseline(parts) if parts else None
    found = hardest_answers(shop.store, shop.add_scores(shop.add_conversations()), baseline, 5)
    assert found.regressions is None and found.highest_loss[0].row.why == "4.00 nats per token"
    assert json.loads(json.dumps(found.to_json()))["regressions"] is None


def test_only_the_rows_of_one_table_are_listed(shop: Shop) -> None:
    found = hardest_answers(shop.store, shop.add_scores(shop.add_conversations()), None, 5, "sharegpt")
    assert [answer.row.origin for answer in found.highest_loss] == ["sharegpt/a.jsonl:4"]
    assert found.scored == 1


def test_the_origin_is_unknown_where_the_conversations_are_gone(shop: Shop) -> None:
    scores = shop.add_scores(conversations := shop.add_conversations())
    (conversations.path / "rows.parquet").unlink()
    answer = hardest_answers(shop.store, scores, None, 1).highest_loss[0]
    assert (answer.row.origin, answer.row.prompt, answer.row.answer) == ("?", "", "This is the one and only answer 1")


def test_an_erased_row_is_not_listed(shop: Shop) -> None:
    scores = shop.add_scores(shop.add_conversations(erased=1))
    path = scores.path / "samples.parquet"
    samples = pq.read_table(path).to_pylist()
    marker = "excluded:" + "0" * 64
    for sample in samples:
        if sample["group"] == "001":
            sample |= {"item": f"{marker}:1", "group": "", "reference": "[forgotten]"}
    pq.write_table(pa.Table.from_pylist(samples), path)
    found = hardest_answers(shop.store, scores, None, 5)
    assert [answer.row.row for answer in found.highest_loss] == [4, 3, 1]


def test_the_command_shows_the_experiment_that_was_scored_last(shop: Shop) -> None:
    conversations = shop.add_conversations()
    shop.add_scores(conversations, "lora")
    shop.add_scores(conversations, "qlora", losses=[0.5, 0.25, 0.125, 0.75])
    assert newest_scored_experiment(shop.store) == "qlora"
    document = json.loads(shop.inspect("--json", "-n", "1").stdout)
    assert (document["held_out"]["experiment"], document["held_out"]["scored"]) == ("qlora", 4)
    assert [row["origin"] for row in document["held_out"]["highest_loss"]] == ["sharegpt/a.jsonl:4"]
    assert json.loads(shop.inspect("--json", "-e", "lora").stdout)["held_out"]["highest_loss"][0]["loss"] == 4.0
    assert (len(document["longest"]), document["languages"]["sampled"]) == (1, 4)


def test_the_command_prints_origins_reasons_and_texts(shop: Shop) -> None:
    shop.add_scores(shop.add_conversations())
    shown = shop.inspect().stdout
    for part in (
        "Highest held-out loss of qlora/merged (4 test answers)",
        "alpaca/a.jsonl:2",
        "4.00 nats per token",
        "merged says 1",
        "Unknown: the base model was not scored on these rows.",
        "None: no row is far from the others in any measure.",
        "30 characters (median 30)",
    ):
        assert part in shown, (part, shown)


def test_without_scores_the_command_says_so(shop: Shop) -> None:
    shop.add_conversations()
    shown = shop.inspect()
    assert shown.exit_code == 0
    assert "no experiment has scores yet. Run `ft run`." in shown.stdout and "Longest" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["alpaca"], "The store has no valid table alpaca yet. Run `ft run`."),
        (["nonsense"], "There is no table 'nonsense'. Choose one of conversations, alpaca,"),
        (["text", "-e", "qlora"], "--experiment cannot be used with the table text, which has no test rows."),
        (["-e", "qlora"], "The experiment qlora has no scores yet. Run `ft run --experiment qlora`."),
        (["-e", "nonsense"], "there is no experiment 'nonsense'"),
    ],
)
def test_errors_say_what_to_do(shop: Shop, arguments: list[str], message: str) -> None:
    shop.add_conversations()
    result = shop.inspect(*arguments)
    assert isinstance(result.exception, UserError) and message in str(result.exception)


def test_test_answers_are_not_listed_before_a_comparison_screened_the_model(shop: Shop) -> None:
    conversations = shop.add_conversations()
    shop.add_baseline()
    shop.add_scores(conversations, validated=5)
    assert json.loads(shop.inspect("--json").stdout)["held_out"], "too few validation rows screen nothing"
    shop.add_scores(conversations, validated=40)
    document = json.loads(shop.inspect("--json").stdout)
    assert (document["held_out"], document["not_shown"]) == (None, "qlora/merged")
    assert "not shown, because qlora/merged is not known to lead on the validation rows" in " ".join(
        shop.inspect().stdout.split()
    )
