"""Tiny models of the kinds that people compile, one file per field of use."""
