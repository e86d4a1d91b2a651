"""A YAML loader for files that somebody else may have written: aliases cannot make billions of values of a few."""

from typing import Any

import yaml

MAX_REPEATED = 100_000
"""Number of values that the aliases of a file may repeat."""
_ENDLESS = 1 << 60
"""Stands for the size of a node that contains itself, or that nobody could write out."""


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader, but a file is a YAMLError if its aliases repeat too many values, or if it is nested too deeply."""

    def get_single_node(self) -> yaml.Node | None:
        """Return the root of the only document; None if there is none."""
        try:
            root: yaml.Node | None = super().get_single_node()
            if root is not None and _count_repeated(root) > MAX_REPEATED:
                problem = "its aliases repeat too many values, or an anchor contains itself: write them out"
                raise yaml.MarkedYAMLError(None, None, problem, root.start_mark)
            return root
        except RecursionError:
            raise yaml.MarkedYAMLError(None, None, "it is nested too deeply: simplify it") from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Return the number. ValueError if it has thousands of digits, in any base: nothing could show it."""
        value = int(super().construct_yaml_int(node))
        str(value)  # raises for what Python itself refuses to read in base 10
        return value


BoundedLoader.add_constructor("tag:yaml.org,2002:int", BoundedLoader.construct_yaml_int)


def load_bounded(text: str) -> Any:
    """Return the content of a YAML text, as yaml.safe_load does. Raises yaml.YAMLError as BoundedLoader does."""
    return yaml.load(text, BoundedLoader)


def _count_repeated(root: yaml.Node) -> int:
    """Return how many nodes there would be more, if every alias was written out."""
    sizes: dict[int, int] = {}

    def size_of(node: yaml.Node) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = _ENDLESS  # if an alias below it names it
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = (child for part in parts for child in (part if isinstance(part, tuple) else (part,)))
            sizes[id(node)] = min(1 + sum(map(size_of, children)), _ENDLESS)
        return sizes[id(node)]

    return size_of(root) - len(sizes)
