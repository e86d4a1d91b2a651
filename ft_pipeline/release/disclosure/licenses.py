"""Licenses in the form of CycloneDX: a known SPDX identifier, an SPDX expression, or a name."""

from typing import Any


def license_entries(text: str | None) -> list[dict[str, Any]]:
    """Return the `licenses` of a component, for an SPDX identifier or expression in any case, or for any other text.

    Empty if nothing is known.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if not text or not text.strip():
        return []
    try:
        expression = canonicalize_license_expression(text)
    except InvalidLicenseExpression:
        return [{"license": {"name": " ".join(text.split())}}]
    if "LicenseRef-" in expression or " " in expression or expression.endswith("+"):
        return [{"expression": str(expression)}]
    return [{"license": {"id": str(expression)}}]
