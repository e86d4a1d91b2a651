"""Worlds of what no score outweighs: faults of answers, forgetting, probes, tasks, and parts of the conversations."""

from ft_pipeline_tests.golden.shop import FAULTS, REFUSE, Shop, answered, declining


def it_forgets(shop: Shop) -> None:
    """The only tuned model forgets; a prompt is used."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, correct=answered(60, 5))


def it_forgets_and_another_does_not(shop: Shop) -> None:
    """The best model forgets, another one is sound, and leads by chance."""
    shop.prompts()
    shop.train("hasty", 0.5, correct=answered(60, 5))
    shop.train("careful", 0.02, spread=0.3, correct=answered(0, 40))


def forgetting_cannot_be_told(shop: Shop) -> None:
    """Whether a model forgets cannot be told: more questions would decide."""
    shop.prompts()
    shop.train("style", 0.4, correct=answered(30, 15))


def forgetting_can_never_be_told(shop: Shop) -> None:
    """The observed drop is at the margin: no number of questions would decide."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, correct=answered(30, 6))


def forgetting_would_take_too_many_questions(shop: Shop) -> None:
    """The observed drop is just below the margin: no suite has as many questions as would decide."""
    shop.prompts(few_shot=0.1)
    shop.train("style", 0.4, correct=answered(25, 6))


def forgetting_was_not_measured(shop: Shop) -> None:
    """No general questions were asked."""
    shop.prompts(of_plain={"correct": []})
    shop.train("style", 0.4, correct=[])


def answers_repeat_themselves(shop: Shop) -> None:
    """The answers of the tuned model repeat themselves; so do some of a better prompt."""
    shop.prompts(few_shot=0.1, chatty={"gain": 0.2, "faults": {"repetition": 20}})
    shop.train("style", 0.4, faults={"repetition": 30})


def answers_are_empty(shop: Shop) -> None:
    """Half of the answers of the tuned model are empty, and no prompt is better."""
    shop.prompts()
    shop.shows_answers = True
    shop.train("style", 0.4, faults={"empty": 40})


def no_model_can_go_out(shop: Shop) -> None:
    """Neither the tuned model nor the base model is usable."""
    shop.prompts(of_plain={"faults": {"refusal": 40}})
    shop.train("style", 0.4, faults={"repetition": 30})


def beating_an_unusable_bar_says_little(shop: Shop) -> None:
    """The base model refuses without need; the tuned model wins, and some of its answers have faults."""
    shop.prompts(of_plain={"faults": {"refusal": 40}})
    shop.train("style", 0.4, faults={"cut_off": 1})


def an_unusable_bar_is_not_beaten(shop: Shop) -> None:
    """The base model refuses without need, and the tuned model is worse."""
    shop.prompts(of_plain={"faults": {"refusal": 40}})
    shop.train("style", -0.4)


def some_faults_cannot_be_told(shop: Shop) -> None:
    """A few answers have each fault, so that it cannot be told whether they are too many."""
    shop.prompts()
    shop.train("style", 0.4, faults=dict.fromkeys(FAULTS, 3) | {"cut_off": 7})


def every_rail_is_broken(shop: Shop) -> None:
    """A quarter of the answers has each of four faults, of which one rail is switched off; another has no format."""
    shop.config["rails"] = {"holes": None}
    shop.prompts(of_plain={"columns": {"format_valid": [1.0] * shop.count}})
    faults = dict.fromkeys(("refusal", "personal_data", "cut_off", "empty"), 16)
    shop.train("style", 0.4, faults=faults, columns={"format_valid": [0.0] * 30 + [1.0] * 34})


def probes_are_kept(shop: Shop) -> None:
    """The model still declines what it should, and answers what it should; a second key decides."""
    shop.config["probes"] = {"refuse": REFUSE, "comply": {**REFUSE, "expect": "answer"}}
    shop.prompts(of_plain={"probes": {"refuse": declining(40), "comply": declining(2)}})
    shop.train("style", 0.4, probes={"refuse": declining(58), "comply": declining(0)})


def probes_are_lost(shop: Shop) -> None:
    """The model declines no more."""
    shop.config["probes"] = {"refuse": REFUSE}
    shop.prompts(few_shot=0.1, of_plain={"probes": {"refuse": declining(50)}})
    shop.train("style", 0.4, probes={"refuse": declining(5)})


def probes_cannot_be_told(shop: Shop) -> None:
    """Whether it still declines cannot be told of one file of probes; of others nothing is known."""
    names = ("refuse", "never", "unasked", "policy", "hopeless")
    shop.config["probes"] = {name: {**REFUSE, "digest": "e" if name == "unasked" else "d"} for name in names}
    shop.config["probes"]["policy"] |= {"expect": None, "must_not": "(?i)yes, here"}
    before = {"refuse": declining(50), "never": declining(2), "policy": declining(50), "hopeless": declining(50)}
    after = {"refuse": declining(49), "never": declining(0), "policy": declining(20), "hopeless": declining(46)}
    shop.prompts(of_plain={"probes": before})
    shop.train("style", 0.4, probes=after)


def probes_of_a_base_model_that_was_not_asked(shop: Shop) -> None:
    """The base model has not answered the probes."""
    shop.config["probes"] = {"refuse": REFUSE}
    shop.prompts()
    shop.train("style", 0.4, probes={"refuse": declining(50)})


def _tasks(shop: Shop, **after: list[int]) -> None:
    shop.config["must_hold"] = dict.fromkeys(after, 0.05)
    about = {"lower_is_better": False, "meaning": "of its task", "unit": "of a task"}
    shop.metrics = {f"{name}/acc": {"label": f"{name}/acc", **about} for name in after}
    before = [1] * 200 + [0] * 200
    shop.prompts(few_shot=0.1, of_plain={"tasks": {f"{name}/acc": before for name in after}})
    shop.train("style", 0.4, tasks={f"{name}/acc": values for name, values in after.items()})


def a_task_is_lost(shop: Shop) -> None:
    """A task got clearly worse."""
    _tasks(shop, lost=[0] * 60 + [1] * 140 + [0] * 200)


def a_task_cannot_be_told(shop: Shop) -> None:
    """Whether a task holds cannot be told, and of two others nothing is known."""
    _tasks(shop, near=[0] * 30 + [1] * 185 + [0] * 185)
    shop.config["must_hold"] |= {"missing": 0.05, "new": 0.05}
    row = shop.inputs["style/scores"]["merged"]
    row["tasks"] = {**row["tasks"], "new/acc": [1] * 50}
    shop.metrics["new/acc"] = {**shop.metrics["near/acc"], "label": "new/acc"}


def answers_in_german(shop: Shop) -> None:
    """References are German: whether answers refuse is not checked, since its patterns are English."""
    shop.reference = "Ihr Paket mit der Nummer {} kommt bei Ihnen an, wie wir es versprochen haben."
    shop.prompts()
    shop.train("style", 0.4)


# --- parts of the test conversations ----------------------------------------------------------------------------------


def _slices(shop: Shop, of_refunds: float, gain: float = 0.4, **rule: object) -> None:
    shop.slice_by(refund={"matches": "money back", **rule})
    shop.prompts()
    shop.train("style", gain, gain_in=lambda number: of_refunds if number < 25 else 0.0)


def worse_in_a_slice(shop: Shop) -> None:
    """A tuned model wins, and is worse where customers want their money."""
    _slices(shop, -0.7)


def a_slice_holds(shop: Shop) -> None:
    """The slice that must hold does."""
    _slices(shop, 0.0, must_hold=True, margin=0.05)


def a_slice_does_not_hold(shop: Shop) -> None:
    """It cannot be told whether the slice holds, and more conversations would hardly help."""
    _slices(shop, -0.7, must_hold=True, margin=0.05)


def a_slice_cannot_be_told(shop: Shop) -> None:
    """More conversations would tell whether the slice holds."""
    _slices(shop, -0.38, must_hold=True, margin=0.02)


def small_slices(shop: Shop) -> None:
    """Of the slices that must hold, one is small and one is empty."""
    _slices(shop, 0.0)
    shop.config["slices"] |= {
        "few": {"matches": "parcel 3\\d", "must_hold": True, "margin": 0.05},
        "none": {"matches": "castle", "must_hold": True, "margin": 0.05},
    }


def slices_of_few_conversations(shop: Shop) -> None:
    """No slice has enough conversations."""
    shop.count = 18
    shop.settings = {"min_test_rows": 10}
    _slices(shop, 0.0)
    shop.config["slices"] = {}
