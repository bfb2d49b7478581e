"""What a reload names as changed and not taken over: keys, not whole tables."""

from __future__ import annotations

from sstpfarm.config.difference import changed_keys, changed_tables
from sstpfarm.config.ppp import Interface
from sstpfarm.config.schema import Farm, Server


def test_keys_of_a_table() -> None:
    before = Server(listen=("192.0.2.1",), max_mtu=1400)
    assert changed_keys("server", before, before) == []
    assert changed_keys("server", before, Server()) == ["server.listen", "server.max-mtu"]
    assert changed_keys("farm", Farm(), Farm(log_format="json")) == ["farm.log-format"]


def test_names_of_tables() -> None:
    before = {"kept": Interface(user="alice"), "gone": Interface(user="bob"), "other": Interface(user="carol")}
    after = {"kept": Interface(user="alice"), "other": Interface(user="dave"), "new one": Interface(user="bob")}
    assert changed_tables("interface", before, after) == ["interface.gone", 'interface."new one"', "interface.other"]
