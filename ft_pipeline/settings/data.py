"""Settings of the data: splits, masking, semantic duplicates and licenses."""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ft_pipeline.settings.raw_formats import RAW_FORMATS, FormatName
from ft_pipeline.settings.yaml_file import Section, later, rule_error

Share = Annotated[float, Field(ge=0, lt=1)]


class SemanticSettings(Section):
    """Search for training rows that mean the same as a held-out row in other words, with an embedding model."""

    model: str
    """A hub id or a folder of an embedding model with safetensors, such as
    sentence-transformers/all-MiniLM-L6-v2. The `embedded` model is only good to try the option: it compares form more
    than meaning."""
    revision: str | None = None
    """Commit of a hub model."""
    similarity: float = Field(0.8, gt=0, le=1)
    """Cosine similarity from which a row is set aside. Depends on the model: read what is set aside, then adjust it.
    The default is for all-MiniLM-L6-v2."""


MaskedEntity = Literal[
    "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "CRYPTO", "US_SSN", "UK_NHS"
]


class MaskSettings(Section):
    """Personal data that is masked when raw files are read. It needs the extra `masking`."""

    formats: tuple[FormatName, ...] = Field(("traces",), min_length=1)
    """Folders of data/raw whose texts are masked. Raw files themselves are not changed."""
    entities: tuple[MaskedEntity, ...] = Field(
        ("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS"), min_length=1
    )
    """What is masked. Patterns recognize it; names and addresses are not found."""


class DataSettings(Section):
    """How raw rows are assigned to splits."""

    validation_share: Share = 0.1
    """Share of the groups that are held out for early stopping and for the check of the merged model."""
    test_share: Share = 0.15
    """Share of the groups that are only used for scoring."""
    golden_test: Literal["only", "added"] = later("only")
    """With golden test files (`split: test` in a sidecar), `only` their rows are test rows (`test_share` is not
    used), or they are `added` to the test share."""
    group_templates: bool = later(True)
    """Keep rows of one template in one split: prompts that differ only in an order number."""
    max_quarantined: Share = 0.1
    """Largest allowed share of quarantined rows per format folder. Above it, the pipeline stops."""
    mask: MaskSettings | None = None
    """Personal data that is masked in the tables. Null: nothing is masked; warnings name rows that may hold some."""
    semantic_duplicates: SemanticSettings | None = None
    """Set training conversations aside that mean the same as a held-out one. Off by default: it takes an embedding of
    every row."""
    licenses: dict[str, str] = Field(default_factory=dict)
    """Licenses of data, by format or file: `alpaca` or `alpaca/support.jsonl` to an SPDX identifier or a text. Exports
    repeat them. They change no result."""

    @field_validator("licenses")
    @classmethod
    def _check_licenses(cls, licenses: dict[str, str]) -> dict[str, str]:
        for key in licenses:
            if key.partition("/")[0] not in RAW_FORMATS:
                raise ValueError(
                    f"`data.licenses` names {key!r}, which is in no folder of data/raw. Write FORMAT or FORMAT/FILE."
                )
        return licenses

    def config(self) -> dict[str, Any]:
        """Return the settings as a spec of tables has them. `licenses` changes no result.

        `semantic_duplicates` concerns only the conversations, whose spec identifies its model, too. `mask` concerns
        only the tables of its formats.
        """
        return self.model_dump(mode="json", exclude={"semantic_duplicates", "mask", "licenses"})

    def masked(self, data_formats: Iterable[str]) -> dict[str, list[str]]:
        """Return what is masked in the rows of these formats, without formats in which nothing is."""
        mask = self.mask
        return {} if mask is None else {name: list(mask.entities) for name in data_formats if name in mask.formats}

    @model_validator(mode="after")
    def _check_shares(self) -> "DataSettings":
        if (sum_of_shares := self.validation_share + self.test_share) > 0.8:
            raise rule_error(
                "test_share" if "test_share" in self.model_fields_set else "validation_share",
                f"validation_share + test_share is {sum_of_shares:g}, which leaves too few training rows. "
                "Lower the sum to at most 0.8.",
            )
        return self
