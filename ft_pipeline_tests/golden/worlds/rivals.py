"""Worlds with answers that need no language model."""

from ft_pipeline_tests.golden.shop import Shop


def a_classifier_is_enough(shop: Shop) -> None:
    """Words tell the labels: the tuned model is a little behind the classifier, on enough rows to show it."""
    shop.count = 400
    shop.prompts(few_shot={"gain": 0.1, "right": 0.22}, of_plain={"right": 0.1})
    shop.rivals(majority={"right": 0.25}, nearest_answer={"right": 0.9}, word_model={"right": 1.0})
    shop.train("style", 0.4, right=0.97)


def a_classifier_is_about_as_good(shop: Shop) -> None:
    """The tuned model leads the classifier by chance."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.22}, of_plain={"right": 0.1})
    shop.rivals(majority={"right": 0.25}, word_model={"right": 0.85})
    shop.train("style", 0.4, right=0.96)


def a_classifier_is_as_good(shop: Shop) -> None:
    """Both are always right."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.22}, of_plain={"right": 0.1})
    shop.rivals(majority={"right": 0.25}, word_model={"right": 2.0})
    shop.train("style", 0.4, right=2.0)


def the_classifier_is_the_champion(shop: Shop) -> None:
    """It stays, as the tuned model does not beat it."""
    a_classifier_is_enough(shop)
    shop.release("word_model")


def tuning_beats_all_rivals(shop: Shop) -> None:
    """The tuned model clearly leads every answer without a language model."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.4}, of_plain={"right": 0.3})
    shop.rivals(majority={"right": 0.2}, nearest_answer={"right": 0.3}, word_model={"right": 0.5})
    shop.train("style", 0.4, right=0.95)


def the_nearest_answer_is_as_good(shop: Shop) -> None:
    """The training answers repeat: looking them up is right more often than the tuned model."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.3}, of_plain={"right": 0.2})
    shop.rivals(majority={"right": 0.1}, nearest_answer={"right": 0.9})
    shop.train("style", 0.4, right=0.8)


def the_base_model_chooses_a_label(shop: Shop) -> None:
    """Its calibrated choice among the labels is right more often than the tuned model."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.3}, of_plain={"right": 0.2})
    shop.rivals(majority={"right": 0.2})
    shop.choose_labels(right=0.9)
    shop.train("style", 0.4, right=0.8)


def nothing_beats_the_constant_answer(shop: Shop) -> None:
    """The prompts and the tuned model are right less often than one answer to everything."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.3}, of_plain={"right": 0.2})
    shop.rivals(majority={"right": 0.6}, nearest_answer={"right": 0.5})
    shop.train("style", 0.4, right=0.5)


def a_constant_sentence_is_more_similar(shop: Shop) -> None:
    """Free text: the tuned model is likelier, and its answers are less similar to the references than one sentence."""
    shop.prompts(few_shot={"gain": 0.1, "likes": 1.0})
    shop.rivals(majority={"likes": 5.0}, nearest_answer={"likes": 6.0})
    shop.train("style", 0.4, likes=2.0)


def a_constant_sentence_has_the_best_chrf(shop: Shop) -> None:
    """Free text, and the project names chrF as the metric."""
    shop.config |= {"primary_metric": "chrf"}
    shop.prompts(few_shot={"gain": 0.1, "likes": 1.0})
    shop.rivals(majority={"likes": 5.0})
    shop.train("style", 0.4, likes=2.0)


def people_prefer_the_tuned_model_to_its_prompt(shop: Shop) -> None:
    """A constant sentence has the best chrF, and people who compared the answers prefer those of the tuned model."""
    a_constant_sentence_is_more_similar(shop)
    shop.rate("style/merged", "few_shot", 48, 8)


def no_rivals_were_wanted(shop: Shop) -> None:
    """The settings exclude rivals."""
    shop.config |= {"without_rivals": True}
    shop.prompts(few_shot={"gain": 0.1, "right": 0.3}, of_plain={"right": 0.2})
    shop.train("style", 0.4, right=0.8)


def a_prompt_was_searched(shop: Shop) -> None:
    """The best of many prompts is a little behind the tuned model."""
    shop.config |= {"prompts_tried": 41}
    shop.prompts(searched={"gain": 0.2, "right": 0.8}, few_shot={"gain": 0.1, "right": 0.3}, of_plain={"right": 0.2})
    shop.rivals(majority={"right": 0.2}, word_model={"right": 0.5})
    shop.train("style", 0.4, right=0.85)
