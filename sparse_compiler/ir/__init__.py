"""The graph: types with layouts, nodes, text that parses back, verifier, interpreter."""
