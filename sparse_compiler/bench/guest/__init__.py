"""The half of the harness that runs inside a worker: standard library and numpy only.

A guest environment (DeepSparse's, with its old dependencies) runs these files by path, so
nothing here may import torch or the rest of this package.
"""
