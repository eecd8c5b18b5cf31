"""Measures this compiler against its peers: `sparse-compiler bench`.

One subprocess per engine, rounds interleaved engine by engine, outputs checked before a time
counts. The method is docs/benchmarks.md's second section; `run.py` is where to start reading.
"""
