"""experiments/*.yaml as typed models: how a model is trained, and what it is served with (docs/settings.md)."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from ft_pipeline.settings.chat_template import TemplateVariables, check_template_variables
from ft_pipeline.settings.distill import DistillSettings
from ft_pipeline.settings.experiment_rules import RULES
from ft_pipeline.settings.feature_keys import open_to_features
from ft_pipeline.settings.machine import MachineSettings
from ft_pipeline.settings.objectives import objective_rules
from ft_pipeline.settings.project import NAME_PATTERN
from ft_pipeline.settings.training import LoraSettings, PromptTuningSettings, QuantizationSettings, TrainingSettings
from ft_pipeline.settings.yaml_file import Section, later, rule_error

Technique = Literal["prompt_tuning", "lora", "qlora", "full"]
if TYPE_CHECKING:
    Objective = str
else:
    Objective = Literal[tuple(objective_rules())]


class MixSettings(Section):
    """How often an epoch uses the rows of each source: 1 each row once, 0.25 a seeded quarter of the rows, 2 each row
    twice."""

    human: float = Field(1.0, ge=0)
    distilled: float = Field(0.25, ge=0)
    replay: float = Field(0.0, ge=0)
    """Raw texts of data/raw/text, with every token trained, to limit forgetting: put general text there. A block has
    at most `max_length` tokens."""


class ExperimentData(Section):
    """The training data of the experiment."""

    weights: MixSettings = MixSettings()
    share: float = Field(1.0, gt=0, le=1)
    """Use only this share of each source's training rows (sft). `training.seed` draws the rows, and a larger share
    contains all rows of a smaller one. Validation uses all rows."""
    without: tuple[str, ...] = later(())
    """Tables or files whose rows are left out of training (sft), as `ft worth` names them: `alpaca` or
    `alpaca/old.jsonl`. Other experiments, and rivals, learn from them. Validation uses all rows."""
    relabels: bool = later(False)
    """Train on the labels that people gave again with `ft relabel` (sft), and not on those of the raw files. Validation
    and test rows stay as they are."""
    system_prompt: str | None = None
    """The system prompt that the tuned model is trained and served with. Null: none."""
    reasoning: Literal["train", "keep", "drop"] = later("train")
    """The reasoning of assistant turns (docs/training-rows.md). `train`: trained like the answer. `keep`: shown before
    the answer, not trained. `drop`: left out, in training and in scoring."""


class MergeSettings(Section):
    """How the adapter is merged into the weights."""

    mode: Literal["dequantized", "w16", "auto"] = "dequantized"
    max_kl: float = Field(0.02, gt=0)
    """Limit for `dequantized` and for lora: KL(adapter || merged), nats per token, on held-out prompts."""
    min_kept_gain: float = Field(0.9, gt=0, le=1)
    """Limit for qlora's `w16`, which merges into a different base than the one trained on: the smallest share of the
    gain that the merged model must keep. The gain is the held-out loss of the base minus that of the adapter."""
    measure_noise: bool = True
    """qlora: measure the quantization noise on the held-out rows (base model, merged model, and merged model quantized
    again), for the table in the comparison. This takes seconds to minutes."""


class GpuSettings(Section):
    """GPU requirements of the experiment. An experiment that sets `count`, or `min_memory_gb` above 0, needs a GPU:
    without one, its steps fail. An experiment that sets neither uses a GPU if there is one, else the CPU."""

    count: int = Field(1, ge=1, le=8)
    """Number of GPUs that a training leases. With more than one, several processes train together (docs/deploy.md).
    Every other step leases one."""
    min_memory_gb: float = Field(0, ge=0)
    """GB (10⁹ bytes) that each GPU must have, and must have free when the job starts. 0: any GPU, regardless of its
    free memory."""

    @property
    def required(self) -> bool:
        """Whether the experiment needs a GPU: its YAML sets `count`, or a size above 0."""
        return "count" in self.model_fields_set or self.min_memory_gb > 0


@open_to_features("objective")
class Trained(Section):
    """What is trained, and how. Objectives of features add their sections here, which is where specs have them."""

    description: str = ""
    base_model: str = Field("embedded", min_length=1)
    """`embedded` (SmolLM2-135M-Instruct from the wheel), a folder (relative to the project), or a hub id."""
    revision: str | None = None
    chat_template_kwargs: TemplateVariables = later(default_factory=dict)
    """Variables of the base model's chat template, such as `{enable_thinking: false}`. They are written into the
    template, so that training, scoring, serving and exports use the same values, and a request cannot change them."""
    objective: Objective = "sft"
    """`sft` (answers to imitate), `dpo` (preferred and rejected answers), `kto` (answers with a thumb up or down),
    `cpt` (raw text), `grpo` (own answers, and rewards that can be checked) or `distill` (a teacher's token
    distributions)."""
    technique: Technique = "qlora"
    """What is trained: a learned prompt (`prompt_tuning`), LoRA matrices on the 16-bit base (`lora`) or on the 4-bit
    base (`qlora`), or all weights (`full`)."""
    start_from: str | None = Field(None, pattern=NAME_PATTERN)
    """Another experiment, which is trained first: `cpt` before `sft`, `sft` before `dpo`, `kto` or `grpo`. If
    `technique` and `lora` are equal, training continues with its adapter; otherwise it starts from its merged model.
    Null: start from the base model."""
    data: ExperimentData = ExperimentData()
    prompt_tuning: PromptTuningSettings = PromptTuningSettings()
    lora: LoraSettings = LoraSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    training: TrainingSettings = TrainingSettings()

    @field_validator("chat_template_kwargs")
    @classmethod
    def _check_template_variables(cls, variables: TemplateVariables) -> TemplateVariables:
        return check_template_variables(variables)


@open_to_features("experiment")
class ExperimentSettings(Trained):
    """experiments/NAME.yaml: one experiment."""

    distill: DistillSettings | None = later(None)
    """The teacher of the objective `distill`, which needs this section."""
    merge: MergeSettings = MergeSettings()
    gpu: GpuSettings = GpuSettings()
    machine: MachineSettings = MachineSettings()
    seeds: int = Field(1, ge=1, le=10)
    """Number of trainings, with `training.seed` and the numbers after it. The additional ones are sweep members
    (`NAME.seed1`), and the comparison shows the spread of all of them."""
    learning_curve: list[float] = Field(default_factory=list)
    """Shares of the training rows for additional trainings, in whole percent: `[0.25, 0.5]` (sft). Each is a sweep
    member (`NAME.at25`), and the comparison shows the loss by number of rows."""
    retrain: bool = False
    """Whether the nightly schedule trains it again when there are enough new rows. The champion's experiment is always
    included."""

    @property
    def is_on_policy(self) -> bool:
        """Whether a teacher reads answers of the student during training."""
        return self.distill is not None and self.distill.on_policy > 0

    @model_validator(mode="after")
    def _check_combinations(self) -> "ExperimentSettings":
        if violation := next(filter(None, (rule(self) for rule in RULES)), None):
            raise rule_error(*violation)
        return self
