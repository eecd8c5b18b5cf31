"""Names of layers from what TVM keeps of them: parameters, and otherwise variables.

torch.export writes `p_model_encoder_layer_0_weight` for `model.encoder.layer.0.weight`; where a dot
stood is not to be known again. ONNX files keep their dots.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_PREFIX = re.compile(r"^(?:p|b|c)_(?=\w)")
_ROLE = re.compile(r"_(weight|bias|running_mean|running_var)$")
_ENDING = re.compile(r"[._](?:weight|kernel|bias)$|^(?:weight|kernel)$")


def cleaned(name: str) -> str:
    """`p_fc_weight`, as torch.export names parameters -> `fc.weight`; other names as they are."""
    found = _PREFIX.sub("", name)
    return name if found == name else _ROLE.sub(r".\1", found)


def apart(name: str, others: Iterable[str]) -> str:
    """`name`, without its dots where these would make a module of a parameter, or the reverse."""
    clash = any(o.startswith(f"{name}.") or name.startswith(f"{o}.") for o in others)
    return name.replace(".", "_") if clash else name


def layer_of(param: str) -> str:
    """The layer that a weight belongs to: `fc` of `fc.weight`; the weight itself where unclear."""
    return _ENDING.sub("", param)
