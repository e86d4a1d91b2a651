"""The specs of adapters and merged models, made from the settings of an experiment."""

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.project import Project
from ft_pipeline.settings.experiment import ExperimentSettings
from ft_pipeline.step import SpecContext
from ft_pipeline.steps.adapter import adapter_spec
from ft_pipeline.steps.experiment import spec as experiment_spec
from ft_pipeline.steps.merged_model import merged_model_spec
from ft_pipeline.steps.shared.phases import Phase
from ft_pipeline.store.artifacts import Artifact, ArtifactStore
from ft_pipeline.store.spec import Spec
from ft_pipeline_tests.projects import project_of

SMALL, LARGE = 134_515_008, 1_711_376_384
"""Parameters of SmolLM2-135M and SmolLM2-1.7B."""


class Case:
    """A project with experiments, and a store with the inputs of an adapter."""

    def __init__(self, root: Path, params: int, **experiments: str) -> None:
        self.project = project_of(root, **experiments)
        self.store = ArtifactStore(root / "data" / "store")
        self.base = self._put("base_model", {"params": params})
        self.data = self._put("training_data", {})
        self.adapter = self._put("adapter", {}, base_model=self.base)

    def spec(self, kind: str, experiment: str = "a") -> Spec:
        context = SpecContext(Project(self.project.root), self.store, experiment)
        if kind == "experiment":
            return experiment_spec(context)
        settings = context.project.experiment(experiment)
        if kind == "merged_model":
            return merged_model_spec(context, settings, self.data, self.adapter)
        return adapter_spec(context, Phase(experiment, settings), self.data, self.base, None)

    def _put(self, kind: str, summary: dict[str, Any], **inputs: Artifact) -> Artifact:
        draft = self.store.begin(Spec(kind, {name: artifact.reference for name, artifact in inputs.items()}))
        (draft.out / "content").write_text(kind, encoding="utf-8")
        return self.store.commit(draft, summary)


@pytest.mark.parametrize(("params", "rate"), [(SMALL, 0.001), (LARGE, 0.0002)])
def test_specs_contain_the_learning_rate_for_the_base_model(tmp_path: Path, params: int, rate: float) -> None:
    case = Case(tmp_path, params, a="technique: lora\n")
    for kind in ("adapter", "merged_model"):
        assert case.spec(kind).config["experiment"]["training"]["learning_rate"] == rate
    assert case.spec("experiment").config["training"]["learning_rate"] is None


def test_the_config_in_the_spec_of_an_adapter_is_unchanged(tmp_path: Path) -> None:
    """The whole config of an experiment that sets `eval_steps`, as the previous version wrote it."""
    text = "technique: lora\nobjective: dpo\ntraining: {eval_steps: 10, num_train_epochs: 2}\n"
    config = Case(tmp_path, SMALL, a=text).spec("adapter").config
    assert config == {
        "experiment": {
            "objective": "dpo",
            "technique": "lora",
            "prompt_tuning": {
                "num_virtual_tokens": 20,
                "prompt_tuning_init": "SAMPLE_VOCAB",
                "prompt_tuning_init_text": None,
            },
            "lora": {
                "r": 8,
                "lora_alpha": None,
                "lora_dropout": 0.0,
                "target_modules": "all-linear",
                "use_rslora": False,
                "use_dora": False,
                "rank_pattern": {},
                "alpha_pattern": {},
            },
            "quantization": {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
            "training": {
                "learning_rate": 0.0001,
                "num_train_epochs": 2,
                "max_steps": -1,
                "per_device_train_batch_size": 8,
                "gradient_accumulation_steps": 1,
                "max_length": 1024,
                "optim": "paged_adamw_8bit",
                "lr_scheduler_type": "cosine",
                "warmup_ratio": 0.05,
                "weight_decay": 0.0,
                "max_grad_norm": 1.0,
                "eval_steps": 10,
                "early_stopping_patience": 3,
                "gradient_checkpointing": False,
                "neftune_noise_alpha": None,
                "report_to": [],
                "seed": 42,
            },
            "dpo": {"beta": 0.1, "label_smoothing": 0.0},
        }
    }


def test_only_the_spec_of_an_adapter_of_grpo_contains_its_rewards(tmp_path: Path) -> None:
    text = "technique: lora\nobjective: grpo\ngrpo: {rewards: {exact_match: 1, chrf: 2}}\n"
    case = Case(tmp_path, SMALL, a=text, b="technique: lora\n")
    config = case.spec("adapter").config
    assert config["rewards"]["signs"] == {"exact_match": 1.0, "chrf": 0.01}
    assert config["experiment"]["grpo"]["rewards"] == {"exact_match": 1.0, "chrf": 2.0}
    assert case.spec("experiment").config["grpo"] == config["experiment"]["grpo"]
    other = case.spec("adapter", "b").config
    assert "rewards" not in other and "grpo" not in other["experiment"]
    assert "grpo" not in case.spec("experiment", "b").config
    # The worker of the merged model gets no section `grpo`.
    merged = case.spec("merged_model").config["experiment"]
    assert ExperimentSettings.model_validate(merged).objective == "grpo" and "grpo" not in merged


def test_only_greedy_answers_in_training_depend_on_penalties_of_the_base_model(tmp_path: Path) -> None:
    """The validation rewards of grpo choose its checkpoint."""
    case = Case(
        tmp_path, SMALL, a="technique: lora\nobjective: grpo\ngrpo: {rewards: {chrf: 1}}\n", b="technique: lora\n"
    )
    assert "ignored_while_decoding" not in case.spec("adapter").config
    own = case.base.path / "generation_config.json"
    own.write_text('{"repetition_penalty": 1.1, "temperature": 0.6}', encoding="utf-8")
    assert case.spec("adapter").config["ignored_while_decoding"] == ["repetition_penalty"]
    assert "ignored_while_decoding" not in case.spec("adapter", "b").config


@pytest.mark.parametrize("kind", ["experiment", "adapter", "merged_model"])
def test_a_tracker_changes_no_spec(tmp_path: Path, kind: str) -> None:
    case = Case(tmp_path, SMALL, a="technique: lora\nseeds: 2\n")
    before = case.spec(kind)
    path = case.project.root / "experiments" / "a.yaml"
    path.write_text("technique: lora\nseeds: 2\ntraining: {report_to: [tensorboard, mlflow]}\n", encoding="utf-8")
    after = case.spec(kind)
    assert after.hash == before.hash
    if kind == "adapter":
        assert before.handling == {"report_to": []}
        assert after.handling == case.spec(kind, "a.seed1").handling == {"report_to": ["tensorboard", "mlflow"]}


def test_a_phase_without_its_yaml_has_no_trackers(tmp_path: Path) -> None:
    case = Case(tmp_path, SMALL, a="technique: lora\n")
    context = SpecContext(case.project, case.store, "a")
    spec = adapter_spec(context, Phase("gone", case.project.experiment("a")), case.data, case.base, None)
    assert spec.handling == {"report_to": []}
