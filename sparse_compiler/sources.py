"""Models as the command line names them: a file, a Hugging Face folder, or `module:function`.

A saved model (`sc.export`) is not among them: it is loaded, not traced; see `is_saved`.
"""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .api import load_program
from .errors import OptionError, UnsupportedError, first_line
from .frontends.foreign import is_foreign
from .frontends.foreign_inputs import example_for
from .runtime.artifact import MANIFEST

FORMS = (
    "a .pt2 or .onnx file, a Relax module as .py or .json, a saved model, a Hugging Face folder, "
    "or module:function giving (model, args)"
)


@dataclass(frozen=True)
class Source:
    """model: a module in eval mode, an exported program, or the path of an ONNX or Relax file;
    args, kwargs: example arguments; dynamic_shapes: as `sc.compile` takes it."""

    model: torch.nn.Module | torch.export.ExportedProgram | Path
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    dynamic_shapes: Any = None


def is_saved(text: str) -> bool:
    """True for the path of a file that `sc.export` wrote, as its members tell."""
    path = Path(text)
    if not path.is_file():
        return False
    with suppress(zipfile.BadZipFile, OSError, ValueError), zipfile.ZipFile(path) as archive:
        return MANIFEST in archive.namelist()
    return path.suffix == ".scz"


def read_source(
    text: str, *, batch: int = 1, tokens: int = 128, given: Sequence[str] = ()
) -> Source:
    """The model that `text` names. batch, tokens: of example inputs, for what brings none.

    given: `NAME=VALUE` for axes and numbers of an ONNX or Relax file.

    Raises `UnsupportedError` where there is none, or it cannot be read; `OptionError`.
    """
    path = Path(text)
    foreign = is_foreign(path) and path.is_file()
    if given and not foreign:
        raise OptionError(
            f"{text} has no axes to set",
            why="--set is for ONNX files and Relax modules",
            fix="leave it out",
        )
    if foreign:
        example = example_for(path, given, batch, tokens)
        return Source(path, example.args, dynamic_shapes=example.dynamic_shapes)
    if path.suffix == ".pt2":
        return _program(path)
    if path.is_dir():
        return _hugging_face(path, batch, tokens)
    if ":" in text and not path.exists():
        return _function(text)
    raise UnsupportedError(f"there is no model {text}", fix=f"give {FORMS}")


def _program(path: Path) -> Source:
    program = load_program(path)
    if program.example_inputs is None:
        raise UnsupportedError(
            f"{path} holds no example inputs",
            fix="save the program as torch.export.export made it",
        )
    args, kwargs = program.example_inputs
    return Source(program, tuple(args), dict(kwargs))


def named(text: str) -> Callable[[], Any]:
    """The function that `module:function` names, looked for from the working folder too."""
    module_name, _, name = text.partition(":")
    sys.path.insert(0, os.getcwd())  # as `python -m` has it
    try:
        function: Callable[[], Any] = getattr(importlib.import_module(module_name), name)
        return function
    except (ImportError, AttributeError, ValueError) as error:
        raise UnsupportedError(
            f"cannot find {text}", why=str(error), fix="give the module and function, as a.b:make"
        ) from error
    finally:
        sys.path.remove(os.getcwd())


def _function(text: str) -> Source:
    made = named(text)()
    match made:
        case (torch.nn.Module() as model, tuple(args)):
            return Source(model.eval(), args)
        case (torch.nn.Module() as model, tuple(args), dict(kwargs)):
            return Source(model.eval(), args, kwargs)
    raise UnsupportedError(
        f"{text} returned a {type(made).__name__}",
        fix="return (model, args) or (model, args, kwargs): a module, a tuple, a dict",
    )


def _hugging_face(folder: Path, batch: int, tokens: int) -> Source:
    try:
        import transformers
    except ImportError as error:
        raise UnsupportedError(
            f"{folder} is a folder, which only transformers can read",
            fix="pip install transformers",
        ) from error
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedError(
            f"transformers cannot load {folder}",
            why=first_line(error),
            fix="give a folder that AutoModel.from_pretrained takes",
        ) from error
    model.config.return_dict = True
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return Source(model, (), _example(model, folder, batch, tokens))


def _example(model: Any, folder: Path, batch: int, tokens: int) -> dict[str, Any]:
    """Arguments by name, of the kind that the model says is its main input."""
    config = model.config
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "input_ids":
        tokens = min(tokens, getattr(config, "max_position_embeddings", tokens))
        ids = torch.randint(1, config.vocab_size, (batch, tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.main_input_name == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        channels = getattr(config, "num_channels", 3)
        shape = (batch, channels, height, width)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    raise UnsupportedError(
        f"the model in {folder} takes {model.main_input_name}, for which no example is known",
        fix="write a function that returns (model, args) and give it as module:function",
    )
