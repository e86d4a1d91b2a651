from ft_pipeline_tests.evaluation.conftest import conversations  # noqa: F401
from ft_pipeline_tests.release.conftest import probed, scored_projects, trained, trained_here  # noqa: F401
