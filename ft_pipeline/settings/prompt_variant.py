"""A prompt variant: what comes before the question; and the search of one (`ft prompt`)."""

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from ft_pipeline.settings.yaml_file import Section, later, rule_error

PASSAGES = "{passages}"
"""The placeholder for retrieved passages in a variant's system prompt."""
RETRIEVED = "retrieved_examples"
"""The variant that is scored in every project, as a rival (settings/evaluation.py)."""
RETRIEVED_COUNT = 4
"""Number of its examples, if no variant of the project has some."""
SEARCHED = "searched"
"""The variant that `ft prompt` found."""
MAX_INSTRUCTION_TOKENS = 800
"""The longest reply of a reflector, in its own tokens."""


class PromptVariant(Section):
    """One prompt for the base model."""

    system_prompt: str | None = None
    """`{passages}` is replaced by the passages. Without it, they are appended."""
    replace_system: bool = later(False)
    """Use the system prompt in place of the system turn that a conversation has. Otherwise that turn has priority."""
    few_shot: int = Field(0, ge=0, le=64)
    """Number of examples from the train split before the question."""
    examples: Literal["fixed", "retrieved"] = "fixed"
    """`fixed`: the same examples for every question. `retrieved`: those with the most similar questions (BM25)."""
    example_rows: list[str] = later(default_factory=list, max_length=64)
    """The ids of the rows that are the `fixed` examples, in this order. Empty: a choice of the train split."""
    passages: int = Field(0, ge=0, le=16)
    """Number of passages from data/raw/text to add: those most similar to the question (BM25)."""
    passage_words: int = Field(120, ge=10, le=2000)
    """Largest number of words in a passage. Texts are split at paragraphs, long paragraphs at sentences."""

    @model_validator(mode="after")
    def _check_retrieval(self) -> "PromptVariant":
        if self.replace_system and not self.system_prompt:
            raise rule_error(
                "replace_system", "`replace_system` needs `system_prompt`. Write the prompt that takes the place."
            )
        if self.examples == "retrieved" and not self.few_shot:
            raise rule_error(
                "examples", "`examples: retrieved` needs `few_shot`. Set the number of examples (4 is typical)."
            )
        if self.example_rows and (self.examples == "retrieved" or self.few_shot != len(self.example_rows)):
            raise rule_error(
                "example_rows",
                f"`example_rows` names {len(self.example_rows)} fixed examples, but `few_shot` is {self.few_shot} and "
                f"`examples` is {self.examples}. Set `few_shot: {len(self.example_rows)}` and `examples: fixed`.",
            )
        if not self.passages and PASSAGES in (self.system_prompt or ""):
            raise rule_error(
                "system_prompt",
                f"the system prompt contains {PASSAGES}, but `passages` is 0. Set the number of passages.",
            )
        return self


class PromptSearchSettings(Section):
    """Search a prompt for each base model on the train and validation rows. The comparison scores the best one."""

    model_config = ConfigDict(serialize_by_alias=True)

    models: list[Literal["base", "tuned"]] = later(default_factory=lambda: ["base"], alias="for", min_length=1)
    """`base`: each base model. `tuned`: also each merged model, once it is trained, before it is scored."""
    tries: int = Field(40, ge=1, le=1000)
    """Number of prompts that are tried, those of the project among them."""
    most_examples: int = Field(8, ge=0, le=64)
    """The largest number of examples in a prompt."""
    reflector: str | None = later(None, min_length=1)
    """A model that reads answers to train rows, and writes instructions: `teacher`, or a contender's name. It needs an
    `endpoint`, which gets these train rows. Null: instructions are those that people wrote."""
    reflections: int = later(8, ge=1, le=100)
    """Number of instructions that the reflector is asked for. Budget, log and retries are those of its endpoint."""
