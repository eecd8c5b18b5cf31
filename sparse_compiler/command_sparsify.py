"""What `sparse-compiler sparsify` does: a model in, the same with zeros in its weights out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from . import terminal
from .commands import Example
from .errors import UnsupportedError
from .files import replacing
from .frontends.foreign import is_foreign
from .frontends.program_layers import module_of_layers, with_weights
from .inspector.coupled import sparsify
from .options import nearest
from .pruning import CRITERIA, Metrics, Recipe, load_recipe, metrics
from .pruning.masks import make_plain
from .pruning.recipe_file import LOSSES
from .sources import Source, is_saved, named, read_source

PROGRAM, TENSORS, PICKLED = ".pt2", ".safetensors", (".pt", ".pth")
WEIGHT_FILES = ("*.safetensors", "*.bin", "*.index.json", "*.h5", "*.msgpack", "*.onnx", "*.gguf")
"""What a copy of a Hugging Face folder leaves out: the dense weights."""


@dataclass(frozen=True)
class Wish:
    """The recipe's file, or its fields; empty ones keep the criterion's default."""

    file: Path | None = None
    criterion: str = ""
    sparsity: float | None = None
    pattern: str = ""
    scope: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    loss: str = ""

    def recipe(self) -> Recipe:
        """Raises UnsupportedError for a criterion or loss that is none, and for both forms."""
        fields = {k: v for k, v in vars(self).items() if k != "file" and v not in ("", (), None)}
        if self.file is not None:
            if fields:
                raise UnsupportedError(
                    f"--{next(iter(fields))} beside --recipe",
                    why="the file says all of the recipe",
                    fix=f"write it into {self.file}",
                )
            return load_recipe(self.file)
        name = str(fields.pop("criterion", "magnitude"))
        if name not in CRITERIA:
            raise UnsupportedError(
                f"no criterion is named {name!r}", fix=nearest(name, tuple(CRITERIA))
            )
        if self.loss:
            if self.loss not in LOSSES:
                raise UnsupportedError(
                    f"no loss is named {self.loss!r}", fix=nearest(self.loss, LOSSES)
                )
            if "loss" not in CRITERIA[name].__dataclass_fields__:
                raise UnsupportedError(f"{name} reads no loss", fix="leave out --loss")
            fields["loss"] = LOSSES[self.loss]
        return CRITERIA[name](**fields)


def sparsify_model(
    model: str, output: Path, wish: Wish, data: str, example: Example, console: Console
) -> dict[str, Any]:
    """Prunes `model` and writes it to `output`; prints its metrics."""
    recipe = wish.recipe()
    if is_saved(model):
        raise UnsupportedError(
            f"{model} is compiled already",
            why="its weights are packed for the kernels",
            fix="give what it was made of",
        )
    if is_foreign(Path(model)):
        raise _without_modules(model)
    write = _writer(model, output)
    err = terminal.console(err=True)
    with err.status("reading the model"):
        source = read_source(model, batch=example.batch, tokens=example.tokens)
        module = _module(source, model)
    batches = _batches(data) if data else _no_data(recipe)
    began = time.perf_counter()
    masked = sparsify(module, recipe, batches, inplace=True, args=source.args, kwargs=source.kwargs)
    seconds = time.perf_counter() - began
    make_plain(masked)
    found = metrics(masked)
    with err.status(f"writing {output}"):
        write(source, masked)
    _print(found, recipe, output, seconds, console)
    return {"path": str(output), "recipe": repr(recipe), "seconds": seconds, **found.json()}


def _print(found: Metrics, recipe: Recipe, output: Path, seconds: float, console: Console) -> None:
    console.out(found.text(), highlight=False)
    console.print(
        f"{recipe.__class__.__name__}: {found.sparsity:.1%} of {found.weights:,} weights are zero "
        f"({seconds:.1f} s); {output}",
        highlight=False,
        soft_wrap=True,
    )


def _module(source: Source, text: str) -> nn.Module:
    """What is pruned: the module, or the layers of a program; of a folder, with its heads."""
    if isinstance(source.model, torch.export.ExportedProgram):
        return module_of_layers(source.model)
    if isinstance(source.model, Path):
        raise _without_modules(text)
    return _with_heads(source.model, Path(text)) if Path(text).is_dir() else source.model


def _without_modules(text: str) -> UnsupportedError:
    return UnsupportedError(
        f"sparsify prunes torch models, and {text} is none",
        why="its layers are operators, without the modules that the criteria look at",
        fix="prune the torch model and export it again, or set its weights to zero with "
        "onnx.numpy_helper",
    )


def _with_heads(model: nn.Module, folder: Path) -> nn.Module:
    """The model of the class that the folder names: nothing of it is lost when it is written."""
    import transformers

    names: Sequence[str] = getattr(model.config, "architectures", None) or ()
    for name in names:
        kind = getattr(transformers, name, None)
        if kind is not None and kind is not type(model):
            whole: nn.Module = kind.from_pretrained(folder, local_files_only=True)
            return whole.eval()
    return model


def _no_data(recipe: Recipe) -> Iterator[object]:
    """Says what to do when somebody begins to read it."""
    raise UnsupportedError(
        f"{type(recipe).__name__} needs calibration data",
        why="it scores weights by what the model does with inputs",
        fix="--data module:function, a function that returns or yields inputs",
    )
    yield


def _batches(text: str) -> Iterable[object]:
    """What the function named `text` returns: an iterable of inputs."""
    found = named(text)()
    if isinstance(found, (torch.Tensor, str, dict)) or not isinstance(found, Iterable):
        raise UnsupportedError(
            f"{text} returned a {type(found).__name__}",
            why="calibration data is an iterable of inputs, one call of the model each",
            fix="return a list, or yield them; for criteria with a loss, pairs (inputs, target)",
        )
    return found


Writer = Callable[[Source, nn.Module], None]


def _writer(model: str, output: Path) -> Writer:
    """How `output` is written, by its ending. Refuses what cannot be, before any work is done."""
    folder = Path(model)
    if output.suffix == PROGRAM:
        return lambda source, masked: _beside(output, lambda p: _save_program(source, masked, p))
    if output.suffix == TENSORS:
        return lambda _, masked: _beside(output, lambda p: _save_tensors(masked, p))
    if output.suffix in PICKLED:
        return lambda _, masked: _beside(output, lambda p: torch.save(masked.state_dict(), p))
    if not folder.is_dir():
        endings = ", ".join((PROGRAM, TENSORS, *PICKLED))
        raise UnsupportedError(
            f"cannot write {model} as {output}",
            why="a folder is written for a model that came as a Hugging Face folder",
            fix=f"name a file that ends in one of {endings}",
        )
    if output.exists() and (not output.is_dir() or output.samefile(folder)):
        raise UnsupportedError(
            f"cannot write to {output}",
            why="it is the model itself" if output.is_dir() else "it is a file",
            fix="name another folder",
        )
    return lambda _, masked: _save_folder(masked, folder, output)


def _beside(path: Path, save: Callable[[Path], object]) -> None:
    """Written under another name and renamed, so that an interrupt leaves what was there."""
    with replacing(path) as beside:
        save(beside)


def _save_program(source: Source, masked: nn.Module, path: Path) -> None:
    program = source.model
    if isinstance(program, torch.export.ExportedProgram):
        values = dict(masked.named_parameters(remove_duplicate=False))
        known = {name: values[name] for name in program.state_dict if name in values}
        program = with_weights(program, known)
    else:
        program = torch.export.export(masked, source.args, source.kwargs)
    torch.export.save(program, path)


def _save_tensors(masked: nn.Module, path: Path) -> None:
    from safetensors.torch import save_file

    seen: set[int] = set()
    tensors = {}
    for name, tensor in masked.state_dict().items():
        shared = tensor.untyped_storage().data_ptr() in seen  # the format knows no tied tensors
        seen.add(tensor.untyped_storage().data_ptr())
        tensors[name] = tensor.clone() if shared else tensor.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})


def _save_folder(masked: Any, folder: Path, output: Path) -> None:
    """The same folder, tokenizer and all, with other weights."""
    shutil.copytree(
        folder, output, ignore=shutil.ignore_patterns(*WEIGHT_FILES), dirs_exist_ok=True
    )
    masked.save_pretrained(output)
