"""Insert masks: score weights by a criterion, drop whole units of a pattern, spread by a scope.

Three independent ideas, one file each: a criterion (`criteria/`) says what a weight is worth, a
pattern (`patterns.py`) which weights live and die together, a scope (`scopes.py`) how many units
each layer gives up. `sparsify` puts the outcome into the model as parametrizations.
"""

from sparse_compiler.pruning.criteria.magnitude import Magnitude
from sparse_compiler.pruning.insert_masks import sparsify
from sparse_compiler.pruning.masks import Mask
from sparse_compiler.pruning.recipe import Recipe

__all__ = ["Magnitude", "Mask", "Recipe", "sparsify"]
