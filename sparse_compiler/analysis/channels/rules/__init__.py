"""What each op does to channels: one file for a family of ops, found by the registry below."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules

from sparse_compiler.errors import RegistryError
from sparse_compiler.ir.op import Op

from ..facts import ChannelRule

_RULES: dict[type[Op], ChannelRule] = {}
_SAFE = ChannelRule()
_LOADED: set[str] = set()


def channels_of(
    *ops: type[Op],
) -> Callable[[type[ChannelRule]], type[ChannelRule]]:
    """Registers the rule of these ops."""

    def enter(rule: type[ChannelRule]) -> type[ChannelRule]:
        for op in ops:
            if op in _RULES:
                raise RegistryError(f"two channel rules are given for {op.__name__}")
            _RULES[op] = rule()
        return rule

    return enter


def rule_of(op: Op) -> ChannelRule:
    """The channel rule of an op; the safe one, which keeps everything, where none is given."""
    if not _LOADED:
        _LOADED.add(__name__)  # before the imports; some rules may be there already
        for module in iter_modules(__path__):
            import_module(f"{__name__}.{module.name}")
    return _RULES.get(type(op), _SAFE)
