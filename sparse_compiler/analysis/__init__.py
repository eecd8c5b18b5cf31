"""Pure functions from weights and graphs to facts: nothing here changes what it looks at.

Zeros of weights (`sparsity`), independent samples (`batch`), costs of copies and sweeps (`cost`).
"""

from sparse_compiler.analysis.sparsity import BlockFill, SparsityFacts, sparsity_facts

__all__ = ["BlockFill", "SparsityFacts", "sparsity_facts"]
