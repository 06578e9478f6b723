"""Reading a scenario or cluster file: YAML in, a checked value out, or one sentence with file, key, value and line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from partita.controller.config import Scenario, Setup
from partita.controller.entry import shorten
from partita.errors import ConfigError

File = TypeVar("File", bound=Setup)


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2, so that ``1e6`` is a number and not text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def read_scenario(path: Path) -> Scenario:
    """Read and check a scenario file; ConfigError names the first problem and how many more there are."""
    return read_file(Scenario, path)


def parse_scenario(text: str, *, name: str, folder: Path) -> Scenario:
    """Check the text of a scenario; `name` stands for it in errors, files are looked for in `folder`."""
    return parse(Scenario, text, name=name, folder=folder)


def read_file(kind: type[File], path: Path) -> File:
    """Read and check a file of either kind; ConfigError names the first problem and how many more there are."""
    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as problem:
        raise ConfigError(f"cannot be read: {(problem.strerror or str(problem)).lower()}", file=str(path)) from None
    except UnicodeDecodeError as problem:
        raise ConfigError(f"is not text: byte {problem.start} is not UTF-8", file=str(path)) from None
    return parse(kind, text, name=str(path), folder=path.parent)


def read_values(text: str) -> tuple[Any, ...]:
    """Read values between commas, each as it would stand in a scenario file; YAMLError if they are not written so."""
    loader = _Loader(f"[{text}]")
    try:
        return tuple(loader.get_single_data())
    finally:
        loader.dispose()


def parse(kind: type[File], text: str, *, name: str, folder: Path) -> File:
    """Check a text; `name` stands for it in errors, files are looked for in `folder`."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as problem:
        strange = f"character {problem.position} is {chr(problem.character)!r}"
        raise ConfigError(f"is not text: {strange}", file=name) from None
    try:
        root = loader.get_single_node()
        if root is None:
            needed = [f.alias or n for n, f in kind.model_fields.items() if f.is_required()]
            raise ConfigError(f"is empty: it needs {', '.join(needed)}", file=name)
        _refuse_repeated_keys(root, name)
        data = loader.construct_document(root)
    except ValueError as problem:
        raise ConfigError(f"holds a date that there is not: {problem}", file=name) from None
    except (yaml.YAMLError, RecursionError) as problem:
        raise ConfigError(f"is not YAML: {_describe_yaml(problem)}", file=name) from None
    finally:
        loader.dispose()
    try:
        return kind.model_validate(data, context={"folder": folder, "file": name})
    except ValidationError as problem:
        raise _explain(problem, root, name) from None


def _describe_yaml(problem: Exception) -> str:
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        return f"{problem.problem} (line {problem.problem_mark.line + 1})"
    return "nested too deeply" if isinstance(problem, RecursionError) else str(problem).replace("\n", " ")


def _refuse_repeated_keys(root: yaml.Node, name: str) -> None:
    seen, waiting = set[int](), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys = set[str]()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in keys:
                    raise ConfigError(
                        f"the key is given twice (line {key.start_mark.line + 1})", file=name, key=key.value
                    )
                keys.add(str(key.value))
                waiting.append(value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value


def _explain(problem: ValidationError, root: yaml.Node, name: str) -> ConfigError:
    found = sorted((_locate(error, root) for error in problem.errors()), key=lambda at: at[0])
    line, key, message, value = found[0]
    others = len({path for _, path, _, _ in found} - {key})
    tail = f"; and {others} more" if others else ""
    return ConfigError(f"{message} (line {line}){tail}", file=name, key=key or None, value=value)


def _locate(error: ErrorDetails, root: yaml.Node) -> tuple[int, str, str, object]:
    """Return line, key path, message and value of one problem."""
    context: dict[str, Any] = error.get("ctx", {})
    path = [part for part in (*error["loc"], *context.get("path", ())) if not str(part).startswith(("<", "[key]"))]
    line, key = _walk(root, path)
    if error["type"] == "refused":
        return line, key, str(context["text"]), error["input"]
    return line, key, f"{shorten(error['input'])} {error['msg'].removeprefix('Input ')}", error["input"]


def _walk(root: yaml.Node, path: Sequence[object]) -> tuple[int, str]:
    """Follow a path through the document; return the line where it ends and how the path is written."""
    node, line, key = root, root.start_mark.line + 1, ""
    for part in path:
        step = next((child for child in _children(node) if child[0] == str(part)), None)
        if step is None:
            continue
        key += f"[{part}]" if isinstance(node, yaml.SequenceNode) else f".{part}" if key else str(part)
        _, node, line = step
    return line, key


def _children(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value, key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for at, value in enumerate(node.value):
            yield str(at), value, value.start_mark.line + 1
