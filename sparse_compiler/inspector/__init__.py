"""Reports: what became of each layer, and why (`report.py`); where the time goes (`profile.py`)."""
