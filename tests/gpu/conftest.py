"""These tests need triton, which is the extra `gpu`: without it they are not collected."""

import os
from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["test_*.py"]
os.environ["SPARSE_COMPILER_CALIBRATE"] = "0"  # choices of the reference machine, whatever this is
