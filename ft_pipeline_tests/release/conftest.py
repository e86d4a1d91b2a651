import pytest

from ft_pipeline_tests.release.trained import SYSTEM_PROMPT, Trained


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Three experiments, each of another technique, and a comparison; tests leave the store as it is."""
    found = Trained(tmp_path_factory.mktemp("trained") / "shop")
    found.train("lora", "lora", system_prompt=SYSTEM_PROMPT)
    found.train("whole", "full")
    found.train("learned", "prompt_tuning")
    found.compare()
    return found
