"""Worlds of tuned models: better, behind, or not to be told; techniques, merging, seeds and shares of the rows."""

from typing import Any

from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.evaluation.model_kinds import TUNED
from ft_pipeline_tests.golden.shop import Shop


def tuned_wins(shop: Shop) -> None:
    """A tuned model clearly beats the best prompt, in both of its forms."""
    shop.shows_answers = True
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, only=TUNED)


def tuned_wins_on_many_rows(shop: Shop) -> None:
    """The same on 150 conversations, with what else the project has to train on."""
    shop.count = 150
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, technique="full")
    shop.at_hand = DataAtHand(["alpaca", "preferences", "text"], ["topic"], {"sft": ["style"], "dpo": ["taste"]})


def tuned_leads_by_chance(shop: Shop) -> None:
    """The lead of a tuned model over the best prompt may be chance, and the project names the metric."""
    shop.config["primary_metric"] = "nats_per_byte"
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.13, spread=0.3)


def tuned_is_behind(shop: Shop) -> None:
    """The best prompt is clearly better than the tuned model."""
    shop.prompts(few_shot=0.3)
    shop.train("style", 0.1)


def answers_are_worse_but_a_prompt_wins(shop: Shop) -> None:
    """The same, where a prompt becomes champion."""
    shop.prompts(few_shot={"gain": 0.1, "likes": 1.0})
    shop.train("style", 0.4, likes=-6.0)


def loss_per_token(shop: Shop) -> None:
    """Scores of an older version have no nats per byte."""
    shop.has_bytes = False
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)


def simpler_keeps_the_lead(shop: Shop) -> None:
    """LoRA keeps most of the lead of full training."""
    shop.prompts(few_shot=0.1)
    shop.train("small", 0.48)
    shop.train("whole", 0.5, technique="full")


def simpler_keeps_the_lead_of_an_adapter(shop: Shop) -> None:
    """The same with adapters, of which one is a hair better than its merged model."""
    shop.prompts(few_shot=0.1)
    shop.train("small", 0.48, only=TUNED)
    shop.train("whole", 0.5, technique="full", only=TUNED)


def prompt_tuning_wins(shop: Shop) -> None:
    """A learned prompt cannot be merged: its adapter is released."""
    shop.prompts(few_shot=0.1)
    shop.train("soft", 0.3, technique="prompt_tuning")


def merging_loses(shop: Shop) -> None:
    """The adapter beats the prompt, and its merged model does not; what quantization costs is known."""
    shop.prompts(few_shot=0.2)
    shop.train("four", 0.4, merged=0.1, technique="qlora", only=TUNED)
    noise = {"first": "adapter", "second": "merged", "kl": 0.02, "first_loss": 1.2, "second_loss": 1.5}
    shop.facts["four"]["noise"] = [{**noise, "difference": 0.3}]


def few_training_rows(shop: Shop) -> None:
    """Tuned on 60 rows, and not better."""
    shop.prompts(few_shot=0.2)
    shop.train("style", 0.15, rows=60)


def fewer_training_rows_than_usual(shop: Shop) -> None:
    """Tuned on 300 rows, and better: more rows should help."""
    shop.prompts()
    shop.train("style", 0.3, rows=300)


def neither_prompt_nor_few_rows_help(shop: Shop) -> None:
    """Tuned on 300 rows: as good as the base model, as are the prompts."""
    shop.prompts(few_shot={"gain": 0.0, "spread": 0.2})
    shop.train("style", -0.01, rows=300)


def _curve(shop: Shop, half: float, whole: float, rows: int = 800) -> None:
    shop.prompts(few_shot=0.3)
    for name, gain, count in (("style", whole, rows), ("style.at50", half, rows // 2), ("style.at25", 0.05, rows // 4)):
        shop.train(name, gain, rows=count)


def more_rows_would_close_the_gap(shop: Shop) -> None:
    """The learning curve rises, and one more step reaches the prompt."""
    _curve(shop, 0.12, 0.25)


def the_curve_is_flat(shop: Shop) -> None:
    """The second half of the rows brought nothing."""
    _curve(shop, 0.46, 0.42, rows=300)


def the_curve_does_not_show_it(shop: Shop) -> None:
    """Whether the second half of the rows helped cannot be told."""
    _curve(shop, 0.41, 0.43)


def _seeds(shop: Shop, *gains: float) -> None:
    shop.prompts(few_shot=0.1)
    for number, gain in enumerate(gains):
        shop.train(f"style.seed{number}" if number else "style", gain)


def three_seeds_win(shop: Shop) -> None:
    """The recipe leads over three trainings."""
    _seeds(shop, 0.4, 0.38, 0.43)


def one_of_three_seeds_wins(shop: Shop) -> None:
    """One training wins, and its recipe is not shown to."""
    _seeds(shop, 0.4, 0.12, 0.05)


def two_seeds_disagree(shop: Shop) -> None:
    """One of two trainings leads, beside another recipe of which three trainings are known."""
    _seeds(shop, 0.4, 0.05)
    for number, gain in enumerate((0.2, 0.22, 0.19)):
        shop.train(f"other.seed{number}" if number else "other", gain)


def another_training_may_differ(shop: Shop) -> None:
    """A model that was trained once wins; how much trainings of its technique differ is known from another one."""
    _seeds(shop, 0.2, 0.22, 0.19)
    shop.train("once", 0.6, likes=1.0)


def tuned_with_passages(shop: Shop) -> None:
    """A tuned model is best with passages of its project."""
    shop.prompts(looked_up={"gain": 0.3, "passages": 2})
    shop.train("style", 0.2, variants={"looked_up": 0.6}, passages=0)
    shop.inputs["style/scores"]["merged+looked_up"]["passages"] = 2


def a_prompt_besides_is_not_worth_it(shop: Shop) -> None:
    """A tuned model is as good without the prompt variant under which it was scored, too."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.5, variants={"few_shot": 0.51})


def a_prompt_moved_into_the_weights(shop: Shop) -> None:
    """Most of the gain of a prompt is in the weights, at less cost per call."""
    shop.prompts(few_shot={"gain": 0.4, "seconds": 0.9})
    shop.train("own", 0.35, rows=None)
    shop.facts["own"]["prompt"] = "few_shot"
    shop.at_hand = DataAtHand([], [], {"distill": ["own"]})


def a_prompt_without_gain_moved_into_the_weights(shop: Shop) -> None:
    """The prompt does not lead, so there is nothing to keep, and a call of the model takes longer."""
    shop.prompts(few_shot={"gain": 0.02, "spread": 0.2, "seconds": 0.1, "tokens": 30})
    shop.train("own", 0.3, rows=None)
    shop.facts["own"]["prompt"] = "few_shot"


def _target(experiment: str, objective: str, gain: float, **values: Any) -> dict[str, Any]:
    share = values.pop("unit", "share") == "share"
    entry: dict[str, Any] = {
        "experiment": experiment,
        "objective": objective,
        "unit": "share" if share else "nats per token",
    }
    entry |= {"label": "Held-out pairs ranked right" if share else "Held-out loss", "lower_is_better": not share}
    before = 0.5 if share else 2.0
    entry |= {"conversations": 60, "before": before, "after": before + gain * (1 if share else -1), "gain": gain}
    return {**entry, "low": gain - 0.1, "high": gain + 0.1, **values}


def own_targets(shop: Shop) -> None:
    """What each training was to improve: one did and is better, one did and is not, one got worse, one cannot tell."""
    shop.prompts(few_shot=0.2)
    for name, gain in (("style", 0.5), ("taste", 0.1), ("worse", 0.05), ("unclear", 0.02)):
        shop.train(name, gain)
    shop.facts["style"]["own_targets"] = [_target("style", "sft", 0.5, unit="nats")]
    shop.facts["taste"]["own_targets"] = [_target("taste", "dpo", 0.3)]
    shop.facts["worse"]["own_targets"] = [_target("worse", "sft", -0.4, unit="nats")]
    shop.facts["unclear"]["own_targets"] = [_target("unclear", "grpo", 0.05), _target("unclear", "grpo", 0.3)]
