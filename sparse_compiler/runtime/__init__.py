"""Runs programs: native segments, the executor between them, weights that change."""
