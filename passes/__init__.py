"""Graph -> Graph, one pass per file, named by its verb; `pipeline.py` holds the order."""
