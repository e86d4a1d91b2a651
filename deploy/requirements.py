"""Print the requirements of the package and of the extras that are named."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = (requirement for name in sys.argv[1:] for requirement in project["optional-dependencies"][name])
sys.stdout.write("\n".join([*project["dependencies"], *extras]) + "\n")
