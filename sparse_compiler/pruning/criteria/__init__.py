"""One criterion per file: a frozen dataclass, a `Recipe`, that says what a weight is worth."""
