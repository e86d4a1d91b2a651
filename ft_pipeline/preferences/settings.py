"""The sections `dpo` and `kto` of an experiment: how pairs of answers, or answers with a thumb, train it."""

from typing import Literal

from pydantic import Field, model_validator

from ft_pipeline.settings.feature_keys import FeatureKeys
from ft_pipeline.settings.objectives import ObjectiveRules
from ft_pipeline.settings.yaml_file import Section, later, rule_error

PairLoss = Literal["sigmoid", "robust", "hinge", "ipo", "apo_zero"]


class DpoSettings(Section):
    """TRL's DPOConfig, same names (Rafailov et al. 2023, arXiv 2305.18290)."""

    beta: float = Field(0.1, gt=0)
    """Penalty for moving away from the reference model: the larger, the closer the model stays. For `ipo`, the margin
    per token is 1/(2·beta)."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """The assumed share of pairs whose preference is reversed (`sigmoid`, `robust`)."""
    loss_type: PairLoss = later("sigmoid")
    """`sigmoid` (DPO); `robust`: the same for pairs of which some are reversed; `hinge`: stops at a margin of 1; `ipo`:
    aims at a margin, so that it does not overfit pairs that are always preferred; `apo_zero`: raises preferred answers
    and lowers rejected ones separately."""
    sft_weight: float = later(0.0, ge=0)
    """Weight of the loss of sft on the preferred answers, added to the loss of the pairs. It keeps preferred answers
    likely: DPO alone often lowers both (Pang et al. 2024, arXiv 2404.19733)."""

    @model_validator(mode="after")
    def _check_smoothing(self) -> "DpoSettings":
        if self.loss_type == "robust" and not self.label_smoothing:
            raise rule_error(
                "label_smoothing",
                "`loss_type: robust` needs `label_smoothing`, the share of pairs that are reversed. Set it (0.1 is "
                "typical), or use `loss_type: sigmoid`.",
            )
        if self.label_smoothing and self.loss_type not in ("sigmoid", "robust"):
            raise rule_error(
                "label_smoothing",
                f"`loss_type: {self.loss_type}` has no label smoothing. Remove `label_smoothing`, or use `sigmoid`.",
            )
        return self


class KtoSettings(Section):
    """TRL's KTOConfig, same names (Ethayarajh et al. 2024, arXiv 2402.01306; docs/preferences.md)."""

    beta: float = Field(0.1, gt=0)
    """Penalty for moving away from the reference model: the larger, the closer the model stays."""
    desirable_weight: float = Field(1.0, gt=0)
    """Weight of the losses of answers with a thumb up. If there are more thumbs of one kind, raise the weight of the
    other: the paper recommends weights that make the sum over thumbs up 1 to 4/3 times that over thumbs down."""
    undesirable_weight: float = Field(1.0, gt=0)
    """Weight of the losses of answers with a thumb down."""
    loss_type: Literal["kto", "apo_zero_unpaired"] = "kto"
    """`kto`: an answer is compared with how much the model has moved on other answers. `apo_zero_unpaired`: it is
    compared with the reference model alone (D'Oosterlinck et al. 2024, arXiv 2408.06266), which takes a third less
    time."""


class PreferenceKeys(FeatureKeys):
    """What an experiment may say."""

    dpo: DpoSettings = DpoSettings()
    kto: KtoSettings = later(KtoSettings())


_NO_PROMPT_TUNING = "a few virtual tokens cannot learn it, and the frozen model would be its own reference"
DPO = ObjectiveRules(
    spec="ft_pipeline.preferences.objectives:DPO",
    section="dpo",
    others="compares no answers",
    rows="data/raw/preferences",
    no_prompt_tuning=_NO_PROMPT_TUNING,
    starts_trained=True,
)
KTO = ObjectiveRules(
    spec="ft_pipeline.preferences.objectives:KTO",
    section="kto",
    others="reads no thumbs",
    rows="data/raw/feedback",
    no_prompt_tuning=_NO_PROMPT_TUNING,
    starts_trained=True,
)
