"""The section `distill` of an experiment: a teacher's token distributions, which the student learns."""

from typing import Literal

from pydantic import Field, model_validator

from ft_pipeline.settings.yaml_file import Section, rule_error

OWN_PROMPT = "own_prompt"
"""The teacher is the experiment's own base model under a prompt variant."""
DivergenceName = Literal["forward_kl", "reverse_kl", "jsd"]


class DistillSettings(Section):
    """The objective `distill` (docs/distillation.md)."""

    teacher: str = Field(OWN_PROMPT, min_length=1)
    """`own_prompt`: the base model of the experiment under `variant`. The prompt moves into the weights. Or a larger
    model with the same vocabulary: a folder or a hub id."""
    revision: str | None = None
    """The revision of a teacher from the hub."""
    variant: str | None = None
    """The prompt variant of project.yaml that the teacher reads. Null: none, only for another model."""
    rows: list[Literal["unlabelled", "conversations"]] = Field(["unlabelled"], min_length=1)
    """The prompts that the teacher answers: those of data/raw/unlabelled, and those of the train and validation
    conversations, whose human answers are then not read."""
    answers_per_prompt: int = Field(1, ge=1, le=64)
    temperature: float = Field(1.0, ge=0, le=2)
    """How the teacher's answers are sampled. 0: always the most likely token. The distributions are not changed."""
    max_new_tokens: int = Field(96, ge=1, le=4096)
    batch_size: int = Field(16, ge=1)
    """Answers that the teacher writes at a time."""
    seed: int = 0
    """Of the sampled answers."""
    top_k: int = Field(64, ge=1, le=4096)
    """The most likely tokens of each distribution that are stored, with the probability of all others together."""
    divergence: DivergenceName = "forward_kl"
    """`forward_kl`: KL(teacher || student), which covers all that the teacher may say. `reverse_kl`: KL(student ||
    teacher), which avoids what the teacher would not say. `jsd`: between the two (arXiv 2306.13649)."""
    jsd_beta: float = Field(0.5, gt=0, lt=1)
    """jsd: the weight of the teacher in the mixture. Near 0 it is like forward_kl, near 1 like reverse_kl."""
    on_policy: float = Field(0.0, ge=0, le=1)
    """The share of the optimizer steps in which the student answers the prompts itself, and the teacher reads these
    answers (arXiv 2306.13649). 0: the student learns from the teacher's answers only."""

    @model_validator(mode="after")
    def _check_combinations(self) -> "DistillSettings":
        if self.teacher == OWN_PROMPT and self.revision is not None:
            raise rule_error("revision", "`distill.revision` is only for another model as teacher. Remove it.")
        if self.answers_per_prompt > 1 and self.temperature == 0:
            raise rule_error(
                "answers_per_prompt",
                f"`distill.answers_per_prompt` is {self.answers_per_prompt}, but at temperature 0 all answers are "
                "equal. Raise distill.temperature.",
            )
        return self
