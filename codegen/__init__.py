"""Laid-out graph -> Program (target-neutral) -> native code.

`lower.py` walks the graph, `lowering/` has a rule for each op, `program.py` and `operands.py` say
what a Program is, `plan.py` where threads wait and share and where buffers lie, `cpu/` prints it.
"""
