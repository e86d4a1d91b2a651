"""Worlds of what is compared besides: prices, base models, GGUF files, teachers, contenders, models left out."""

from typing import Any

from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.evaluation.scoring.fingerprint import fingerprint
from ft_pipeline_tests.golden.shop import Shop


def training_pays_back(shop: Shop) -> None:
    """A GPU-hour has a price: the tuned model is faster, and a teacher was paid."""
    shop.config["prices"] = {"gpu_hour": 2.5}
    shop.prompts(few_shot={"gain": 0.1, "seconds": 0.9})
    shop.train("style", 0.4)
    shop.facts["style"]["took"] = {"seconds": 5400.0, "gpu_hours": 1.5, "teacher": 12.0}


def training_never_pays_back(shop: Shop) -> None:
    """Tokens have prices: the tuned model reads as many, and is slower; its training took minutes."""
    shop.config["prices"] = {"input_per_million": 2.0, "output_per_million": 6.0, "cached_input_per_million": 0.5}
    shop.prompts(few_shot={"gain": 0.1, "seconds": 0.3, "tokens": 30, "shared": 20})
    shop.train("style", 0.4)
    shop.facts["style"]["took"] = {"seconds": 300.0, "gpu_hours": 0.1}


def when_it_pays_back_is_unknown(shop: Shop) -> None:
    """No seconds were measured, and nothing has a price."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.facts["style"]["took"] = {"seconds": 90.0, "gpu_hours": 0.1}
    for rows in shop.inputs.values():
        for row in rows.values():
            row["document"] = {"seconds_per_call": None}


def computed_in_two_types(shop: Shop) -> None:
    """The rows were computed in different types."""
    shop.prompts(few_shot={"gain": 0.1, "computed_in": "bfloat16"}, of_plain={"computed_in": "bfloat16"})
    shop.train("style", 0.4, computed_in="float32")


def _two_bases(shop: Shop, large: float) -> None:
    bases = {"a/prompt_baseline": "1", "style/scores": "1", "b/prompt_baseline": "2", "big/scores": "2"}
    shop.config |= {"bases": bases, "base_names": {"1": "small", "2": "large"}}
    shop.parts = {key: {"vocabulary": base} for key, base in bases.items()}
    shop.prompts(few_shot=0.1)
    shop.prompts(large, owner="b")
    shop.train("style", 0.4)


def another_base_model_is_better_untuned(shop: Shop) -> None:
    """Two base models with two vocabularies: the large one is better without training than the small one with."""
    shop.has_bytes = True
    _two_bases(shop, 0.6)


def two_base_models_are_tuned(shop: Shop) -> None:
    """Both are tuned; each must beat its own base model. Losses per token are there, and cannot be compared."""
    _two_bases(shop, 0.1)
    shop.train("big", 0.6)
    for rows in shop.inputs.values():
        for row in rows.values():
            row["columns"] = {"loss_sum": [10 * loss for loss in row["losses"]]}


def likelihood_is_withheld(shop: Shop) -> None:
    """The tokenizer of the base model loses texts, so that it has no nats per byte."""
    _two_bases(shop, 0.1)
    row = shop.inputs["b/prompt_baseline"]["plain"]
    row |= {"nats": None, "withheld": {"nats_per_byte": "its tokenizer loses texts"}}


def a_gguf_file_is_scored(shop: Shop) -> None:
    """The merged model as a GGUF file, with what it costs."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    low: dict[str, Any] = {"value": 0.012, "low": 0.008, "high": 0.017}
    share = {"value": 0.95, "low": 0.9, "high": 0.98}
    costs = {"loss_increase": low, "kl": {**low, "value": 0.01}, "agreement": share, "identical": share}
    row = shop.row("gguf", 0.39, "gguf", technique="lora", document={"gguf": costs})
    shop.inputs["style/gguf_scores"] = {"q8_0": row}


def the_teacher_leads(shop: Shop) -> None:
    """The teacher's answers are clearly better than all others, and a tuned model wins."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, likes=1.0)
    shop.teach(20.0, document={"cost_per_call": 0.004})


def the_teacher_leads_and_nothing_else(shop: Shop) -> None:
    """The teacher's answers are clearly better, and the tuned model leads by chance."""
    shop.prompts()
    shop.train("style", 0.02, spread=0.3)
    shop.teach(20.0, document={"seconds_per_call": None})


def the_teacher_does_not_lead(shop: Shop) -> None:
    """The teacher's answers are not clearly better."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, likes=1.0)
    shop.teach(1.0)


def facts_are_missing(shop: Shop) -> None:
    """Passages help most: retrieval wins, and tuning does not reach it."""
    shop.prompts(few_shot=0.1, looked_up={"gain": 0.5, "passages": 3})
    shop.train("style", 0.3)


def passages_help_and_tuning_more(shop: Shop) -> None:
    """Passages help, and the tuned model is better without them."""
    shop.prompts(few_shot=0.1, looked_up={"gain": 0.3, "passages": 3})
    shop.train("style", 0.6)


def left_out_of_another_evaluation(shop: Shop) -> None:
    """A model was scored on other rows, and one sweep member was not trained again."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.train("older", 0.6)
    shop.parts["older/scores"] = {"test_rows": "b"}
    shop.config["fingerprint"] = fingerprint({"test_rows": "a", "template": "t", "generation": {"max_new_tokens": 8}})
    shop.config["stale"] = ["style.seed1"]


MOVED: dict[str, Any] = {"rows": 12, "first": ["alpaca/a.jsonl:1", "alpaca/a.jsonl:5"], "since": "2026-01-02 10:00 UTC"}
"""Facts about a model that learned from test rows."""


def an_experiment_is_contaminated(shop: Shop) -> None:
    """The only trained model learned from rows that are test rows now."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.config["contaminated"] = {"style": {**MOVED, "rows": 1, "first": MOVED["first"][:1]}}


def _contaminated_champion(shop: Shop, experiment: str) -> None:
    shop.config["champion"] = {
        "name": f"{experiment}/merged",
        "experiment": experiment,
        "fingerprint": "old",
        "contaminated": MOVED,
    }
    shop.release("gone")


def the_champion_learned_from_test_rows(shop: Shop) -> None:
    """The champion is not compared, and its experiment is gone: the best candidate takes its place."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    _contaminated_champion(shop, "old")


def the_champion_must_be_trained_again(shop: Shop) -> None:
    """The champion learned from test rows, and its experiment was not trained again."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.train("old", 0.3)
    shop.config["contaminated"] = {"old": MOVED}
    _contaminated_champion(shop, "old")


def the_champion_was_trained_again(shop: Shop) -> None:
    """The champion learned from test rows; trained again, it is not better than another candidate."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.6)
    shop.train("old", 0.3)
    _contaminated_champion(shop, "old")


def trained_to_prefer(shop: Shop) -> None:
    """Of a model that was trained to prefer, nothing says whether it is better."""
    shop.prompts(few_shot=0.1)
    shop.train("taste", -0.2)
    shop.config["learned_from"] = {"taste": "preferences"}
    shop.at_hand = DataAtHand(["preferences"], [], {"dpo": ["taste"]})


def trained_for_rewards_beside_one_that_imitates(shop: Shop) -> None:
    """Two models that do not imitate, and one that does and wins; a slice must hold."""
    shop.prompts()
    for name, gain in (("taste", 0.1), ("paid", -0.3), ("style", 0.4)):
        shop.train(name, gain)
    shop.config["learned_from"] = {"taste": "preferences", "paid": "rewards"}
    shop.slice_by(refund={"matches": "money back", "must_hold": True, "margin": 0.05})


def trained_to_prefer_and_the_likelihood_is_named(shop: Shop) -> None:
    """The project names the likelihood, so that it decides of a model that was trained to prefer, too."""
    shop.config["primary_metric"] = "nats_per_byte"
    shop.prompts()
    shop.train("taste", 0.3)
    shop.config["learned_from"] = {"taste": "preferences"}
