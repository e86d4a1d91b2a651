"""Projects that consist of settings only."""

from pathlib import Path

from ft_pipeline.project import Project


def project_of(root: Path, **experiments: str) -> Project:
    """Create a project with these experiments: YAML text by name."""
    (root / "experiments").mkdir()
    (root / "project.yaml").write_text("name: shop\n")
    for name, text in experiments.items():
        (root / "experiments" / f"{name}.yaml").write_text(text)
    return Project(root)
