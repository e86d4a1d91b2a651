from ft_pipeline_tests.execution.conftest import _workers_find_the_tests, launcher, store  # noqa: F401
