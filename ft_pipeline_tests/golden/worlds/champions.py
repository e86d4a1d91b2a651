"""Worlds with a champion, with test rows that were used before, and with what prevents every decision."""

from ft_pipeline.decide.exposure import Exposure
from ft_pipeline.decide.fitting import DataAtHand
from ft_pipeline.evaluation.comparison.score import Score
from ft_pipeline_tests.golden.shop import REFUSE, Shop, answered, declining


def the_champion_stays(shop: Shop) -> None:
    """The champion is the best model of the comparison."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.train("other", 0.3)
    shop.release("style/merged")


def the_champion_stays_alone(shop: Shop) -> None:
    """The champion is the only model that can be released."""
    shop.prompts()
    shop.train("style", 0.4)
    shop.release("style/merged")


def the_champion_may_be_beaten(shop: Shop) -> None:
    """A candidate leads the champion by chance: ratings would decide."""
    shop.prompts()
    shop.train("style", 0.4)
    shop.train("other", 0.42)
    shop.release("style/merged")


def the_champion_is_beaten(shop: Shop) -> None:
    """A candidate beats the champion, which is scored as such."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.6)
    shop.release_old(0.3)


def an_old_champion_is_better(shop: Shop) -> None:
    """No candidate beats the champion, which is scored as such, and forgets."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.release_old(0.6, correct=answered(60, 5))


def the_champion_has_no_score(shop: Shop) -> None:
    """The champion is not in the comparison."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.release("gone")


def the_champion_cannot_go_out(shop: Shop) -> None:
    """The answers of the champion repeat themselves or refuse, and nothing else passes."""
    shop.prompts(few_shot=0.0)
    shop.train("style", 0.4, faults={"repetition": 20, "refusal": 20})
    shop.release("style/merged")


def a_prompt_stays_champion_while_tuning_is_open(shop: Shop) -> None:
    """A prompt is the champion, and it cannot be told whether a tuned model is better."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.12)
    shop.release("few_shot")


def a_tuned_champion_lost_by_merging(shop: Shop) -> None:
    """A prompt becomes champion in place of a merged model that lost quality."""
    shop.prompts(few_shot=0.3)
    shop.train("four", 0.5, merged=0.1, only=("adapter", "merged"))
    shop.release("four/merged")


def rejected_by_a_person(shop: Shop) -> None:
    """A person rejected the best model, and a prompt stays."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.rejected = ["style/merged"]
    shop.release("few_shot")


def the_rows_are_used_up(shop: Shop) -> None:
    """Models of 43 settings were looked at on the test rows."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.exposure = Exposure(count=50.0, designs=43.0, test_share=0.15)


def earlier_looks_make_it_stricter(shop: Shop) -> None:
    """Two candidates on rows on which 12 were looked at: a lead that is clear may be luck."""
    shop.prompts()
    shop.train("style", 0.07, spread=0.2)
    shop.train("other", 0.01)
    shop.exposure = Exposure(count=12.4, test_share=0.15)
    shop.looks = {"style/merged": 4}


def designed_for_these_rows(shop: Shop) -> None:
    """A model was designed after four looks at the rows, and trails on those that came later."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)
    shop.looks = {"style/merged": 4}
    shop.exposure = Exposure(count=11.0, fresh_leads={"style/merged": {"few_shot": Score(-0.05, -0.09, -0.01)}})


def too_few_test_conversations(shop: Shop) -> None:
    """Twenty test conversations decide nothing."""
    shop.count = 20
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4)


def one_test_conversation(shop: Shop) -> None:
    """One test conversation shows no spread."""
    shop.count = 1
    shop.settings = {"min_test_rows": 2}
    shop.prompts()
    shop.train("style", 0.4)


def the_same_everywhere(shop: Shop) -> None:
    """Two models have one value in every conversation, which proves nothing."""
    shop.prompts()
    shop.train("style", 0.4)
    for source, row, value in (("a/prompt_baseline", "plain", 1.5), ("style/scores", "merged", 1.25)):
        shop.inputs[source][row]["nats"] = [value] * shop.count


def a_model_equals_the_prompt(shop: Shop) -> None:
    """A tuned model has exactly the likelihoods of the base model."""
    shop.prompts()
    shop.train("style", 0.0)
    shop.inputs["style/scores"]["merged"]["nats"] = shop.inputs["a/prompt_baseline"]["plain"]["nats"]


def nothing_is_tuned(shop: Shop) -> None:
    """Two prompts and the base model."""
    shop.prompts(system_prompt=0.1, few_shot=0.3)
    shop.at_hand = DataAtHand(["alpaca"], [], {"sft": ["style", "other"]})


def only_the_base_model(shop: Shop) -> None:
    """Nothing can be released."""
    shop.prompts()


def only_a_tuned_model(shop: Shop) -> None:
    """There is nothing to compare with, not even for its probes."""
    shop.config["probes"] = {"refuse": REFUSE}
    shop.train("style", 0.4, probes={"refuse": declining(50)})


def only_a_prompt(shop: Shop) -> None:
    """The base model was not scored without a prompt."""
    shop.prompts(plain=None, few_shot=0.1)


def checks_failed(shop: Shop) -> None:
    """The token audit and the merge failed."""
    shop.prompts()
    shop.train("style", 0.4)
    shop.gates = {"style/merged": {"token_audit": False, "merge": False}}


def behind_on_the_validation_rows(shop: Shop) -> None:
    """A model trails on the validation rows, and another one leads too little there: neither is tested."""
    shop.prompts(of_plain={"validation": (40, 0.0)})
    shop.train("style", 0.4, validation=(40, -0.1))
    shop.train("other", 0.3, validation=(40, 0.005))
    shop.train("screened", 0.2, validation=(40, 0.2))


def the_champion_leads_on_the_validation_rows(shop: Shop) -> None:
    """The champion is still compared, and is no worse than itself on the validation rows: its scores are shown."""
    shop.prompts(of_plain={"validation": (40, 0.0)})
    shop.train("style", 0.4, validation=(40, 0.2))
    shop.release_compared("style/merged")


def not_worth_it_and_behind_on_the_validation_rows(shop: Shop) -> None:
    """The only tuned model trails on the validation rows: that its lead is too small is told without its scores."""
    shop.prompts(of_plain={"validation": (40, -0.3)}, few_shot={"gain": 0.3, "validation": (40, 0.0)})
    shop.train("style", 0.1, validation=(40, -0.1))
