"""The wheel carries the worked example, so that `ft init --example` works outside a checkout."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

EXAMPLE = (
    *("project.yaml", "workspace.yaml", "dg.toml", "dagster_home/dagster.yaml", "schemas", "experiments", "examples"),
    *("data/README.md", "data/raw", "data/general", "data/probes"),
)
NOT_SHIPPED = shutil.ignore_patterns("store", "dagster_home", "__pycache__")
"""What runs in a small example leave behind."""


class BuildWithExample(build_py):
    """Copies the example's files from the checkout into ft_pipeline/example of the build."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        root, target = Path(__file__).parent, Path(self.build_lib) / "ft_pipeline" / "example"
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left files that are gone by now
        for item in EXAMPLE:
            source = root / item
            (target / item).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target / item, dirs_exist_ok=True, ignore=NOT_SHIPPED)
            else:
                shutil.copyfile(source, target / item)


setup(cmdclass={"build_py": BuildWithExample})
