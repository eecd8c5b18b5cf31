"""Models -> graphs: `export` and `dynamo` trace, `importer` walks, `aten*` have the rules."""
