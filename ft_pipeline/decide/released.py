"""What may be released, and what was: plain records. release/champion.py keeps them."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

Kind = Literal["merged", "adapter", "prompt", "classifier"]
MODEL_OF: dict[str, str] = {
    "merged": "merged_model",
    "adapter": "adapter",
    "prompt": "base_model",
    "classifier": "word_model",
}
"""The kind of the artifact whose weights a champion of each kind has."""


class _Read(BaseModel, frozen=True):
    """The types of what is read of the evidence of a champion. Other keys are those of evidence.py."""

    comparison: str | None = None
    gates: dict[str, bool] = {}
    exposure: int = Field(0, ge=0, lt=10**18)
    decided_on: str | None = None


def _checked(evidence: dict[str, Any]) -> dict[str, Any]:
    _Read.model_validate(evidence, strict=True)
    return evidence


Evidence = Annotated[dict[str, Any], AfterValidator(_checked)]
"""The basis of a promotion: the fingerprint of its comparison, and the numbers."""


class Candidate(BaseModel, frozen=True):
    """A row of the comparison that may become champion, with its artifacts."""

    name: str
    """The row's name in the comparison, e.g. `qlora` or the name of a prompt variant."""
    kind: Kind
    """`merged` or `adapter` (tuned weights, also under a prompt variant), `prompt` (the base model under one), or
    `classifier` (no language model)."""
    experiment: str | None
    """The experiment that trained it; for a prompt variant the one whose base model was scored."""
    fingerprint: str
    """Identity of what is released: the merged model's; under a prompt variant, a hash of its parts."""
    fingerprints: dict[str, str] = {}
    """Fingerprints of its parts by role: `base_model`, `adapter`, `merged_model`, `prompt_variant`, or `word_model`
    alone; of a prompt that looks things up also the artifacts `text` and `conversations`, whose passages and examples
    stay as they are."""
    gates: dict[str, bool] = {}
    """Whether each recorded check (`token_audit`, `merge`) passed, read again for this promotion. All must be true."""
    settings_hash: str = ""
    """Hash of the settings that it was made with: of the experiment, whatever its data, or of the prompt variant."""


class ChampionRecord(BaseModel, frozen=True, extra="forbid"):
    """A record of the sequence: the fields of `ft champion --json`, and the fingerprints of the artifacts."""

    sequence: int
    name: str
    kind: Kind
    experiment: str | None
    fingerprint: str
    fingerprints: dict[str, str]
    since: str
    """UTC, ISO 8601: when this record was written."""
    reason: str
    forced: bool
    previous: str | None
    """The name of the champion that a rollback would restore; None for the first champion."""
    previous_sequence: int | None
    """The number of that champion's record."""
    evidence: Evidence
    restores: int | None = None
    """For a rollback: the number of the record that it restores."""
    by_hand: bool = False
    """Whether a person moved the champion (`ft promote`, `ft rollback`), and not the rules of a run."""
    looked_at: str | None = None
    """For a manual move: the decision key of the comparison at that time."""
    passed_over: list[str] = []
    """For a manual move: fingerprints of the other candidates. No run promotes one of them over it."""
    by: str | None = None
    """The operating system's user whose process wrote the record. With a request: who approved it."""
    request: int | None = None
    """Number of the request that this record carries out (`promotion.two_people`)."""
    requested_by: str | None = None
    """The user who made that request."""
    previous_sha256: str | None = None
    """SHA-256 of the file of the record before this one. It no longer matches if that record is edited."""


class Promotion(BaseModel, frozen=True):
    """A decision to release a candidate. Its fields become those of the ChampionRecord."""

    candidate: Candidate
    reason: str
    evidence: Evidence = {}
    forced: bool = False
    by_hand: bool = False
    looked_at: str | None = None
    passed_over: tuple[str, ...] = ()
