"""Choosing layouts, idea by idea: candidates, the cut, stages and profit, the rewritten graph."""
