"""The project of the tests of releases."""

from ft_pipeline_tests.release.conftest import scored_projects, trained, trained_here

__all__ = ["scored_projects", "trained", "trained_here"]
