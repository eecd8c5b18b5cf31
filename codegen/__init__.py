"""Laid-out graph -> Program (target-neutral) -> native code."""
