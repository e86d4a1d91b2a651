from ft_pipeline_tests.audit.conftest import ft, ft_json, opened, released, released_once, shop

__all__ = ["ft", "ft_json", "opened", "released", "released_once", "shop"]
