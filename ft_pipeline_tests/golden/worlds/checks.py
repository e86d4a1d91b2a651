"""Worlds in which answers are right or wrong, and of models that others serve."""

import json
from typing import Any

import numpy as np

from ft_pipeline.evaluation.metrics.json_fields import EXTRA, MISSING, WRONG
from ft_pipeline_tests.golden.shop import Shop


def exact_match_decides(shop: Shop) -> None:
    """Most answers are exact."""
    shop.prompts(few_shot={"gain": 0.1, "right": 0.5}, of_plain={"right": 0.3})
    shop.train("style", 0.4, right=0.8)


def _rights(share: float, count: int, seed: int = 1) -> list[float]:
    return [float(number) for number in np.random.default_rng(seed).random(count) < share]


def _own(label: str, unit: str = "share") -> dict[str, Any]:
    return {"label": label, "lower_is_better": False, "unit": unit, "meaning": "of the project"}


LABELS = ["refund", "order", "other"]


def _topics(count: int, share: float, unread: int = 0) -> dict[str, Any]:
    """Return the columns of a classification."""
    expected = [LABELS[number % 3] for number in range(count)]
    rights = _rights(share, count)
    found = [
        "" if number < unread else topic if right else "other" if topic != "other" else "order"
        for number, (topic, right) in enumerate(zip(expected, rights, strict=True))
    ]
    same = [float(ours == theirs) for ours, theirs in zip(found, expected, strict=True)]
    return {"topic": same, "topic/expected": expected, "topic/found": found}


def topics_decide(shop: Shop) -> None:
    """A check of the project decides: the topic of each answer."""
    shop.config |= {"decides": "topic", "labels": {"topic": LABELS}}
    shop.metrics = {"topic": _own("topic")}
    shop.prompts(of_plain={"columns": _topics(shop.count, 0.3)})
    shop.train("style", 0.4, columns=_topics(shop.count, 0.9))


def topics_without_a_label(shop: Shop) -> None:
    """The same, where the best model often names no topic; a tuned model leads by chance."""
    shop.config |= {"decides": "topic"}
    shop.metrics = {"topic": _own("topic")}
    shop.prompts(of_plain={"columns": _topics(shop.count, 0.8, unread=13)})
    shop.train("style", 0.4, columns=_topics(shop.count, 0.97, unread=15))


def _fields(count: int, share: float, name: str) -> dict[str, Any]:
    """Return the columns of a check of JSON answers."""
    rights = _rights(share, count, seed=2)
    kinds = (WRONG, MISSING, WRONG)
    outcomes = [
        {
            "id": "right",
            "total": "right" if right else kinds[number % 3],
            **({"note": EXTRA} if number % 9 == 0 else {}),
        }
        for number, right in enumerate(rights)
    ]
    values = [sum(outcome == "right" for outcome in entry.values()) / len(entry) for entry in outcomes]
    return {name: values, f"{name}/fields": [json.dumps(entry) for entry in outcomes]}


def fields_decide(shop: Shop) -> None:
    """A check of JSON answers decides."""
    shop.config |= {"decides": "order"}
    shop.metrics = {"order": _own("order", "share of fields")}
    shop.prompts(of_plain={"columns": _fields(shop.count, 0.3, "order")})
    shop.train("style", 0.4, columns=_fields(shop.count, 0.8, "order"))


def json_answers_decide(shop: Shop) -> None:
    """The fields of JSON answers decide, without a check of the project."""
    shop.prompts(of_plain={"columns": {"fields_match": _rights(0.3, shop.count)}})
    shop.train("style", 0.4, columns={"fields_match": _rights(0.8, shop.count)})


def calls_decide(shop: Shop) -> None:
    """Most answers may call tools."""

    def calls(share: float) -> dict[str, Any]:
        rights = _rights(share, shop.count)
        return {
            "call_items": [1.0] * shop.count,
            **dict.fromkeys(("call_names", "call_arguments", "call_order"), rights),
        }

    shop.prompts(of_plain={"columns": calls(0.3)})
    shop.train("style", 0.4, columns=calls(0.7))


def a_number_decides(shop: Shop) -> None:
    """The project names chrF: neither percent nor points."""
    shop.config["primary_metric"] = "chrf"
    shop.prompts(few_shot={"gain": 0.1, "likes": 2.0})
    shop.train("style", 0.4, likes=9.0)


# --- what others serve ------------------------------------------------------------------------------------------------


def _incumbent(shop: Shop, right: float | None = None, ends: str | None = "2027-01-14", **values: Any) -> None:
    shop.config["contenders"] = {"today": {"incumbent": True, **({"ends": ends} if ends else {})}}
    known = {} if right is None else {"right": right}
    shop.contend("today", document={"cost_per_call": 0.01}, **known, **values)


def the_incumbent_is_replaced(shop: Shop) -> None:
    """A tuned model is not worse than what answers today, by exact answers, and costs less."""
    shop.config["prices"] = {"input_per_million": 2.0, "output_per_million": 6.0}
    shop.prompts(of_plain={"right": 0.3})
    shop.train("style", 0.4, right=0.95)
    _incumbent(shop, 0.8)


def the_incumbent_may_be_better(shop: Shop) -> None:
    """A tuned model wins, but is not shown to be as good as what answers today, which does not end."""
    shop.prompts(of_plain={"right": 0.3})
    shop.train("style", 0.4, right=0.75)
    _incumbent(shop, 0.8, ends=None)


def nothing_compares_with_the_incumbent(shop: Shop) -> None:
    """What answers today gives no likelihoods, and nothing checks its answers; a further contender has no key."""
    shop.config["not_asked"] = ["The contender big was not asked: set BIG_API_KEY."]
    shop.prompts()
    shop.train("style", 0.4)
    _incumbent(shop, likes=3.0)


def people_compare_with_the_incumbent(shop: Shop) -> None:
    """People rated answers against those of what answers today."""
    shop.prompts()
    shop.train("style", 0.4)
    _incumbent(shop)
    shop.rate("style/merged", "today", 40, 20)


def only_a_contender(shop: Shop) -> None:
    """Nothing gives likelihoods: chrF is shown."""
    shop.contend("today")
    shop.contend("other", likes=5.0)
