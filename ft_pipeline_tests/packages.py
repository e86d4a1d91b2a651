"""Installed packages that a test hides."""

from importlib import metadata

import pytest

from ft_pipeline.store import provenance


def hide_package(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let this package look as if it was not installed."""
    installed = provenance.version

    def version(package: str) -> str:
        if package == name:
            raise metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(provenance, "version", version)
