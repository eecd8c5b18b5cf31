"""Insert masks: score weights by a criterion, drop whole units of a pattern, spread by a scope.

Three independent ideas, one file each: a criterion (`criteria/`) says what a weight is worth, a
pattern (`patterns.py`) which weights live and die together, a scope (`scopes.py`) how many units
each layer gives up. `sparsify` puts the outcome into the model as parametrizations.
"""

from sparse_compiler.pruning.calibration import Call
from sparse_compiler.pruning.criteria.batch_norm_scale import BatchNormScale
from sparse_compiler.pruning.criteria.magnitude import Magnitude
from sparse_compiler.pruning.criteria.movement import Movement
from sparse_compiler.pruning.criteria.random import Random
from sparse_compiler.pruning.criteria.second_order import SecondOrder
from sparse_compiler.pruning.criteria.taylor import Taylor
from sparse_compiler.pruning.criteria.wanda import Wanda
from sparse_compiler.pruning.criteria.wood_fisher import WoodFisher
from sparse_compiler.pruning.insert_masks import insert_masks, sparsify
from sparse_compiler.pruning.masks import Mask
from sparse_compiler.pruning.metrics import Metrics, metrics, parameter_slack
from sparse_compiler.pruning.recipe import CRITERIA, Recipe
from sparse_compiler.pruning.recipe_file import load_recipe

__all__ = [
    "CRITERIA",
    "BatchNormScale",
    "Call",
    "Magnitude",
    "Mask",
    "Metrics",
    "Movement",
    "Random",
    "Recipe",
    "SecondOrder",
    "Taylor",
    "Wanda",
    "WoodFisher",
    "insert_masks",
    "load_recipe",
    "metrics",
    "parameter_slack",
    "sparsify",
]
