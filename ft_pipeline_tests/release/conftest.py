import pytest

from ft_pipeline_tests.release.trained import SYSTEM_PROMPT, Trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three experiments with different techniques, and a comparison; tests must not change the store."""
    project = Trained(tmp_path_factory.mktemp("trained") / "shop")
    project.train("lora", "lora", system_prompt=SYSTEM_PROMPT)
    project.train("whole", "full")
    project.train("learned", "prompt_tuning")
    project.compare()
    return project
