"""Channels of a graph: which are constant, which are read, and which must go together."""
