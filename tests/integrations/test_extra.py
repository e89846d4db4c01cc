"""Integrations without what they integrate with."""

from __future__ import annotations

import importlib
import sys

import pytest

from dipod.errors import UserError


def test_without_rsl_rl_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("dipod.integrations.rsl_rl")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rsl_rl", None)
    with pytest.raises(UserError, match=r'pip install "dipod\[rsl_rl\]"'):
        importlib.import_module("dipod.integrations.rsl_rl")
