"""Storage formats of weights, one per file; `base.FORMATS` lists them. Dense is one of them."""
