"""Recipes as YAML: the criterion's name and its fields, nothing else, read as plain data.

criterion: wanda
sparsity: 0.7
exclude: ["*.pooler", head]
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from sparse_compiler.errors import UnsupportedError, UserError
from sparse_compiler.pruning.calibration import Loss
from sparse_compiler.pruning.recipe import CRITERIA, Recipe

LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "nll": F.nll_loss,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}
"""What `loss` may name in a file; a function of your own needs a recipe in Python."""

# by annotation, as the dataclasses have it
_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "bool": ((bool,), "true or false"),
    "str": ((str,), "a string"),
    "str | Sequence[str]": ((str, list), "a glob or a list of globs"),
    "Sparsity": ((int, float, dict), "a number, or a mapping from globs to numbers"),
    "Loss | None": ((str,), "one of " + ", ".join(LOSSES)),
}


def load_recipe(source: str | Path) -> Recipe:
    """The recipe in a YAML file, or in a string of YAML (one with a line break or a colon).

    Raises UnsupportedError naming file and line: no such file, not YAML, not a mapping, a criterion
    or field that does not exist, twice the same field, a value of the wrong kind; and what the
    recipe itself refuses.
    """
    text, where = _read(source)
    yaml = _reader()
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            values = dict(_entries(loader, node, where))
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UnsupportedError(
            f"{where}{_line(mark)}: this is no YAML",
            why=str(getattr(error, "problem", None) or error),
            fix="see sparse_compiler/pruning/recipe_file.py for an example",
        ) from error
    return _built(values, where)


def _read(source: str | Path) -> tuple[str, str]:
    if isinstance(source, str) and ("\n" in source or ":" in source.removeprefix("C:")):
        return source, "recipe"
    try:
        return Path(source).read_text(encoding="utf-8"), str(source)
    except (OSError, UnicodeDecodeError) as error:
        raise UnsupportedError(
            f"cannot read a recipe from {source}",
            why=str(error),
            fix="give the path of a YAML file, or YAML as a string",
        ) from error


def _reader() -> Any:
    """PyYAML; imported here, so that recipes in Python need no such package."""
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError as error:
        raise UnsupportedError(
            "a recipe in YAML cannot be read", why="PyYAML is missing", fix="pip install PyYAML"
        ) from error
    return yaml


Entry = tuple[Any, Any]
"""A value and the mark where it stands."""


def _entries(loader: Any, node: Any, where: str) -> Iterator[tuple[str, Entry]]:
    if getattr(node, "id", "") != "mapping":
        raise UnsupportedError(
            f"{where}{_line(getattr(node, 'start_mark', None))}: a recipe is a mapping",
            fix="criterion: magnitude, sparsity: 0.9, each on a line of its own",
        )
    seen: set[str] = set()
    for key, value in node.value:
        name = str(loader.construct_object(key, deep=True))
        if name in seen:
            raise UnsupportedError(f"{where}{_line(key.start_mark)}: {name!r} stands twice")
        seen.add(name)
        yield name, (loader.construct_object(value, deep=True), key.start_mark)


def _built(values: dict[str, Entry], where: str) -> Recipe:
    if "criterion" not in values:
        raise UnsupportedError(
            f"{where}: no criterion", fix=f"criterion: one of {', '.join(CRITERIA)}"
        )
    name, mark = values.pop("criterion")
    if not isinstance(name, str) or name not in CRITERIA:
        raise UnsupportedError(
            f"{where}{_line(mark)}: no criterion is named {name!r}",
            fix=_near(str(name), list(CRITERIA)),
        )
    criterion = CRITERIA[name]
    fields = {f.name: str(f.type) for f in dataclasses.fields(criterion) if f.name != "_"}
    problems = list(_problems(values, fields, where))
    if problems:
        raise UnsupportedError(
            "; ".join(what for what, _ in problems), fix="; ".join(fix for _, fix in problems)
        )
    settings = {key: value for key, (value, _) in values.items()}
    if "loss" in settings:
        settings["loss"] = LOSSES[settings["loss"]]
    try:
        return criterion(**settings)
    except UserError as error:
        raise UnsupportedError(f"{where}: {error.what}", why=error.why, fix=error.fix) from error


def _problems(
    values: dict[str, Entry], fields: dict[str, str], where: str
) -> Iterator[tuple[str, str]]:
    for key, (value, mark) in values.items():
        place = f"{where}{_line(mark)}"
        if key not in fields:
            yield f"{place}: no field is named {key!r}", _near(key, list(fields))
            continue
        types, kind = _TYPES[fields[key]]
        fits = isinstance(value, types) and (bool in types or not isinstance(value, bool))
        if not fits or (key == "loss" and value not in LOSSES):
            yield f"{place}: {key} is {value!r}", f"give {kind}"


def _line(mark: Any) -> str:
    return "" if mark is None else f", line {mark.line + 1}"


def _near(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
