"""What `--over` may vary: its values are checked by the experiment's own settings before anything runs."""

import pytest

from ft_pipeline.errors import UserError
from ft_pipeline.search.commands import read_duration
from ft_pipeline.search.space import Dimension, document_with, read_space, settings_with

LORA = {"technique": "lora", "training": {"num_train_epochs": 1}, "seeds": 3}


def test_ranges_and_lists_have_the_types_of_their_settings() -> None:
    over = ["lora.r=8, 32", "training.learning_rate=1e-4..3e-3", "lora.use_rslora=true,false", "lora.lora_alpha=4..16"]
    alpha, r, rslora, rate = read_space(over, LORA)
    assert r == Dimension("lora.r", (8, 32)) and rslora.choices == (True, False)
    assert rate == Dimension("training.learning_rate", low=1e-4, high=3e-3, log=True)
    assert alpha == Dimension("lora.lora_alpha", low=4, high=16, integer=True)
    assert rate.describe() == "training.learning_rate: 0.0001 to 0.003, on a logarithmic scale"
    assert alpha.describe() == "lora.lora_alpha: 4 to 16, on a linear scale"


def test_lists_of_rates_names_and_nulls_are_values() -> None:
    over = ["training.learning_rate=1e-4,3e-4,null", "lora.target_modules=all-linear,[q_proj, v_proj]"]
    modules, rate = read_space(over, LORA)
    assert rate.choices == (1e-4, 3e-4, None) and modules.choices == ("all-linear", ["q_proj", "v_proj"])


def test_the_own_document_is_kept_except_for_values_and_members() -> None:
    changed = document_with(LORA, {"lora.r": 4, "training.weight_decay": 0.1})
    training = {"num_train_epochs": 1, "weight_decay": 0.1}
    assert changed == {"technique": "lora", "training": training, "lora": {"r": 4}}
    assert LORA["training"] == {"num_train_epochs": 1}
    assert settings_with(LORA, {"lora.r": 4}).lora.r == 4


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ("lora.rr=8", r"--over lora\.rr: unknown key `lora\.rr`\. Did you mean `r`\?"),
        ("lora=8", r"--over lora: a search cannot vary it"),
        ("lora.r=0,8", r"--over lora\.r=0: `lora\.r` is 0: input should be greater than or equal to 1\."),
        ("lora.r=8..2000", r"--over lora\.r=2000: `lora\.r` is 2000: input should be less than or equal to 1024"),
        ("lora.r=8..4", r"the range is empty\. Write the smaller number first\."),
        ("lora.r=1.5..4", r"a range of lora\.r has two whole numbers\."),
        ("lora.r=many", r"`lora\.r` is 'many'"),
        ("lora.use_dora=0..1", r"lora\.use_dora is not a number\. List its values"),
        ("lora.r", r"--over lora\.r names no values\."),
        ("lora.r=8,8", r"--over lora\.r=8,8 names a value twice\."),
        ("lora.r=[8", r"is not a list of values\."),
        (f"lora.r={'[' * 5000}8{']' * 5000}", r"is not a list of values\."),
        ("base_model=a,b", r"--over base_model: a search cannot vary it, because losses would not be comparable\."),
        ("dpo.beta=0.1,0.2", r"--over dpo\.beta: a search cannot vary it"),
        ("training.seed=1,2", r"The best of several seeds is luck\."),
        ("technique=lora,full", r"technique 'full' trains no LoRA matrices"),
        ("training.weight_decay=0..inf", r"Write two finite numbers\."),
        ("training.learning_rate=many", r"`training\.learning_rate` is 'many'"),
        ("training.learning_rate=1e-4..2", r"--over training\.learning_rate=2: .* less than or equal to 1"),
        ("grpo.rewards=1", r"It changes the reward itself"),
        ("grpo.beta=0.1,0.2", r"objective 'sft' has no rewards"),
    ],
)
def test_an_unknown_key_or_value_is_one_clear_error(over: str, message: str) -> None:
    document = LORA | {"lora": {"r": 4}}
    with pytest.raises(UserError, match=message):
        read_space([over], document)


def test_rewards_are_comparable_where_the_reward_is_the_same() -> None:
    grpo = {"objective": "grpo", "technique": "lora", "grpo": {"rewards": {"chrf": 1}}}
    beta, count = read_space(["grpo.beta=0.01..0.1", "grpo.num_generations=4,8"], grpo)
    assert beta.log and count.choices == (4, 8)


def test_a_key_is_named_once() -> None:
    with pytest.raises(UserError, match=r"--over names lora\.r twice\."):
        read_space(["lora.r=4", "lora.r=8"], LORA)
    with pytest.raises(UserError, match="There is nothing to vary"):
        read_space([], LORA)


def test_durations() -> None:
    assert [read_duration(text) for text in ("90m", "2h", "1h30min", "45s", "0.5h")] == [5400, 7200, 5400, 45, 1800]
    for text in ("2", "h", "0h", "2 hours", "-2h"):
        with pytest.raises(UserError, match="is not a duration"):
            read_duration(text)
