"""One engine per file; the registry imports them all."""
