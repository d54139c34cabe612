"""YAML as a user means it: ``5e-4`` is a number, and a key stands once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import yaml

_MOST_VALUES = 20_000
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
    |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


class DuplicateKeyError(yaml.MarkedYAMLError):
    """The same key stands twice in one mapping; ``line`` counts from 1."""

    def __init__(self, key: str, first: yaml.Mark, second: yaml.Mark) -> None:
        super().__init__(problem=f"{key} stands twice (first on line {first.line + 1})", problem_mark=second)
        self.line = second.line + 1


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads YAML 1.2 floats (``5e-4``) and notes duplicate keys at every depth.

    Its values are text, numbers, lists and mappings: a tag that would make anything else of them is refused.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {  # type: ignore[misc]
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:float"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[DuplicateKeyError] = []

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document's tree, and refuse one whose aliases multiply it."""
        root: yaml.Node | None = super().get_single_node()
        if root is not None:
            _check_size(root, {}, set())
        return root

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value; whatever goes wrong says on which line."""
        try:
            return super().construct_object(node, deep=deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception as error:  # !!int of no digits, a 13th month: PyYAML's constructors raise what they like
            reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "it is none"
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"cannot be read as {kind} ({reason})", problem_mark=node.start_mark
            ) from error

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        """Refuse a tag such as ``!!python/object``, with which other readers would run code."""
        problem = (
            f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} is not taken: values are text, numbers, lists"
        )
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, yaml.Mark] = {}
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                first = seen[key_node.value]
                self.duplicates.append(DuplicateKeyError(key_node.value, first, key_node.start_mark))
            seen.setdefault(key_node.value, key_node.start_mark)
        return super().construct_mapping(node, deep=deep)


def _check_size(node: yaml.Node, sizes: dict[int, int], open_nodes: set[int]) -> int:
    """Count the values below a node as often as aliases repeat them, each node looked at once.

    A few lines of aliases of aliases ("billion laughs") stand for more values than fit into any memory.
    """
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in open_nodes:
        raise yaml.MarkedYAMLError(problem="an anchor stands inside itself", problem_mark=node.start_mark)
    if id(node) not in sizes:
        open_nodes.add(id(node))
        below = [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]
        sizes[id(node)] = 1 + sum(_check_size(part, sizes, open_nodes) for part in below)
        open_nodes.discard(id(node))
    if sizes[id(node)] > _MOST_VALUES:
        problem = f"stands for more than {_MOST_VALUES} values (its aliases counted out)"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    return sizes[id(node)]


_Loader.add_constructor(None, _Loader.construct_undefined)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


@dataclass(frozen=True)
class YamlMapping:
    """The top level of a YAML file: values, the 1-based line of every key, and the keys that stand twice."""

    values: dict[str, Any]
    lines: dict[str, int]
    duplicates: tuple[DuplicateKeyError, ...] = ()


def read_value(text: str) -> Any:
    """Read one value as YAML, as given to ``--set key=value`` or to a flag.

    Raises:
        yaml.YAMLError: The text is not YAML, or holds a duplicate key.
    """
    loader = _Loader(text)
    try:
        value = loader.get_single_data()
    finally:
        loader.dispose()
    if loader.duplicates:
        raise loader.duplicates[0]
    return value


def read_mapping(text: str) -> YamlMapping:
    """Read a YAML document whose top level is a mapping.

    Raises:
        yaml.YAMLError: The text is not YAML, or not a mapping. Duplicate keys do not hide what else is wrong: they
            come back beside the values.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return YamlMapping({}, {})
        if not isinstance(root, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="expected lines of `setting: value`", problem_mark=root.start_mark)
        lines = {str(key.value): key.start_mark.line + 1 for key, _ in root.value}
        values = loader.construct_document(root)
        return YamlMapping({str(key): value for key, value in values.items()}, lines, tuple(loader.duplicates))
    finally:
        loader.dispose()
