"""The ops of the graph, one file per op or per table of like ops; `ir.op.OPS` lists them."""
