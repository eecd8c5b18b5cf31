"""Runs programs: native segments, the executor between them, weights that change.

What depends on shapes is worked out once for each set of them: a call only enters a library.
"""
