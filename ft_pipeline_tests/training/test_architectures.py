"""Architectures other than Llama: each trains and merges into the same model, or is refused with one clear error."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from ft_pipeline.errors import UserError
from ft_pipeline.evaluation.scoring.likelihood import target_log_likelihoods
from ft_pipeline.models.load import load_model, load_tokenizer
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.settings.training import ATTENTION
from ft_pipeline.steps import merged_model
from ft_pipeline.training import adapter
from ft_pipeline.training.memory.estimate import estimate_experiment
from ft_pipeline.training.memory.layer_sizes import read_shape
from ft_pipeline.training.merging.equivalence import kl_divergence, measure_model
from ft_pipeline.training.techniques import new_model, save_adapter
from ft_pipeline.training.token_rows import read_split
from ft_pipeline.training.trainer.batches import collate
from ft_pipeline.training.trainer.loss import answer_loss
from ft_pipeline.training.trainer.model_probe import require_causal
from ft_pipeline_tests.training.architectures import CONFIGS, tiny_model_of
from ft_pipeline_tests.training.subject import job, make_training_data, support_rows

# The default targets are the matrices of the attention, which have different names in each architecture.
MATRICES = {
    "gpt2": {"attn.c_attn", "attn.c_proj"},
    "phi3": {"self_attn.qkv_proj", "self_attn.o_proj"},
    "gpt_neox": {"attention.query_key_value", "attention.dense"},
    "opt": {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"},
    "mixtral": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


def experiment(technique, lora=None, **training):
    keys = {"learning_rate": 1e-2, "max_steps": 2, "per_device_train_batch_size": 4, "eval_steps": 2, "max_length": 200}
    document = {"technique": technique, "training": {**keys, "lr_scheduler_type": "constant", **training}}
    return ExperimentSettings.model_validate(document | ({"lora": {"lora_alpha": 32, **(lora or {})}} if lora else {}))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A function that returns the folder of a tiny model of a kind."""
    folder = tmp_path_factory.mktemp("bases")
    return lambda kind: folder / kind if (folder / kind).is_dir() else tiny_model_of(kind, folder / kind)


@pytest.fixture(scope="module")
def rows(tmp_path_factory, base):
    data = make_training_data(tmp_path_factory.mktemp("data"), base("gpt2"), support_rows(1), experiment("lora"))
    return data, read_split(data, "validation")


@pytest.mark.parametrize("kind", CONFIGS)
def test_our_loss_equals_the_models_own_loss(kind, base, rows):
    model = AutoModelForCausalLM.from_pretrained(base(kind), dtype=torch.float32).eval()
    batch = collate(rows[1], 0)
    with torch.no_grad():
        total, count = answer_loss(model, batch)
        logits = (
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].flatten(0, 1)
        )
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 1:].flatten())
    assert float(total) / count == pytest.approx(float(expected), abs=1e-4)
    require_causal(model)


# Transposed weights, a joined matrix, experts; the others differ from Llama only where a merge changes nothing.
QUICK = {("gpt2", "lora"), ("phi3", "lora"), ("mixtral", "lora")}
MERGES = [
    pytest.param(kind, technique, marks=() if (kind, technique) in QUICK else pytest.mark.long)
    for kind in CONFIGS
    for technique in ("lora", "qlora")
]


@pytest.mark.parametrize(("kind", "technique"), MERGES)
def test_an_adapter_on_every_matrix_merges_into_the_same_model(kind, technique, base, rows, tmp_path):
    """The adapter's matrices are random instead of trained: the merge must add what the adapter adds."""
    settings = experiment(technique, {"target_modules": "all-linear"})
    model = new_model(base(kind), settings, "cpu")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.02)
    model.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "adapter").mkdir()
    save_adapter(tmp_path / "checkpoint", tmp_path / "adapter", base(kind))
    inputs = {"adapter": tmp_path / "adapter", "base_model": base(kind), "training_data": rows[0]}
    summary = merged_model.run(job("merged_model", tmp_path / "merged", settings, inputs))
    # In a mixture of experts, rounding can change the choice of a router.
    assert summary["kl_adapter_merged"] < (0.1 if "mo" in kind or "mix" in kind else 5e-3)
    untouched = measure_model(load_model(base(kind), "cpu"), rows[1], 0)
    tuned = measure_model(load_model(tmp_path / "merged" / "out", "cpu"), rows[1], 0)
    assert kl_divergence(untouched, tuned) > 4 * summary["kl_adapter_merged"], "more than noise"


@pytest.mark.parametrize("kind", MATRICES)
def test_attention_targets_are_found_under_the_names_of_each_architecture(kind, base):
    model = new_model(base(kind), experiment("lora", {"target_modules": [*ATTENTION]}), "cpu")
    assert set(model.peft_config["default"].target_modules) == MATRICES[kind]


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_memory_estimate_counts_the_parameters_of_the_model(kind, base):
    config = json.loads((base(kind) / "config.json").read_text())
    parameter_count = sum(parameter.numel() for parameter in load_model(base(kind), "cpu").parameters())
    # Biases and positions matter in tiny models only.
    assert read_shape(config).params == pytest.approx(parameter_count, rel=0.12)
    estimate = estimate_experiment(experiment("qlora"), config, 100, 24)
    assert estimate["fits"] is True and all(value > 0 for value in estimate["bytes"].values())


@pytest.mark.parametrize(
    ("kind", "lora", "message"),
    [
        ("gpt2", {"target_modules": ["c_attn", "q_proj"]}, r"gpt2 model has no matrix q_proj\. Choose from c_attn"),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}, "no matrix lm_head"),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, "no matrix embed_tokens"),
        ("llama", {"target_modules": ".*(q_proj|lm_head)"}, "names lm_head, but embeddings and the head"),
        ("llama", {"target_modules": ".*(q_proj|embed_tokens)"}, "names embed_tokens, but embeddings and"),
        ("llama", {"target_modules": ".*norm"}, "settings in `lora` do not fit the model"),
        (
            "llama",
            {"target_modules": [*ATTENTION], "rank_pattern": {"up_proj": 4}},
            "lora.rank_pattern contains 'up_proj'",
        ),
        ("llama", {"alpha_pattern": {"q_prj": 4}}, "lora.alpha_pattern contains 'q_prj'"),
        ("mixtral", {"target_modules": "all-linear", "lora_dropout": 0.1}, "lora_dropout"),
    ],
)
def test_unsuitable_target_matrices_are_named_in_the_error(kind, lora, message, base):
    with pytest.raises(UserError, match=message):
        new_model(base(kind), experiment("lora", lora), "cpu")


def test_peft_does_not_change_the_settings(base):
    settings = experiment("lora", {"target_modules": "all-linear"})
    new_model(base("mixtral"), settings, "cpu")
    assert settings.lora.rank_pattern == settings.lora.alpha_pattern == {}


@pytest.mark.parametrize(
    ("kind", "keys", "message"),
    [
        ("bert", {"is_decoder": True}, "this trainer does not support how a bert model computes its logits"),
        ("llama", {"is_causal": False}, None),
    ],
)
def test_unsupported_heads_and_bidirectional_attention_are_refused(kind, keys, message, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = load_model(tiny_model_of(kind, tmp_path, **(sizes if kind == "bert" else {}), **keys), "cpu")
    if message is None:
        for layer in model.model.layers:  # as in a bidirectional Llama
            layer.self_attn.is_causal = False
        model.config.is_causal = False
        message = "tokens attend to later tokens"
    with pytest.raises(UserError, match=message):
        require_causal(model)


def test_full_training_of_a_mixture_keeps_its_config_and_generates(base, rows, tmp_path):
    """transformers saves the experts one by one, and TRL would turn on router logits in the saved config."""
    from ft_pipeline.models.chat import render
    from ft_pipeline.models.decoding.generate import generate

    inputs = {"training_data": rows[0], "base_model": base("mixtral")}
    work = job("adapter", tmp_path, experiment("full", learning_rate=1e-3), inputs)
    summary = adapter.run(work)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (base("mixtral"), work.out))
    for key in ("output_router_logits", "router_aux_loss_coef"):
        assert after.get(key) == before.get(key)
    model, tokenizer = load_model(work.out, "cpu"), load_tokenizer(work.out)
    assert measure_model(model, rows[1], 0).loss == pytest.approx(summary["best_eval_loss"], abs=0.05)
    prompt = render(tokenizer, [{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert generate(model, tokenizer, [prompt], max_new_tokens=4, batch_size=1)[0].answer_tokens > 0


def test_a_shared_prefix_stays_inside_a_sliding_window(base):
    """Padding between a shared prefix and the rest of a row would push the prefix out of the window."""
    model = load_model(base("gemma3_text"), "cpu", dtype=torch.float32)
    shared = [(7 * number) % 250 + 5 for number in range(600)]
    pairs = [(shared + list(range(10, 10 + length)), [9, 8, 7]) for length in (2, 30, 60)]
    together = target_log_likelihoods(model, pairs, batch_size=3)
    alone = [target_log_likelihoods(model, [pair], batch_size=1)[0] for pair in pairs]
    for score, expected in zip(together, alone, strict=True):
        assert score.total == pytest.approx(expected.total, abs=1e-3)
