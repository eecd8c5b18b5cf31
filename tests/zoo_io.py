"""Results of models, whatever their structure, as a list of tensors."""

from typing import Any

import torch
from torch.utils import _pytree as pytree


def leaves(result: Any) -> list[torch.Tensor]:
    """All tensors of a result, in order."""
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
