"""The CPU target: kernels as C++ headers, a printer of thin units that call them, a builder.

The headers hold to the conventions of docs/add_a_kernel.md; `source.py` prints a unit, with
`arguments.py` and `expressions.py` for its calls, `build.py` compiles and caches it.
"""
