"""No key of either file takes a value of a kind that it does not know: each is refused with its line and what is right.

What is wrong with values of the right kind is in test_config_faults and its neighbours, key by key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import msgspec
import pytest

from sstpfarm.config.client_load import load_client
from sstpfarm.config.document import allowed_values
from sstpfarm.config.fields import Table
from sstpfarm.config.load import load
from sstpfarm.errors import ConfigError
from tests.unit.test_client_config import TABLES as CLIENT
from tests.unit.test_config_documentation import SECTIONS as SERVER

WRONG: Final = "[[nan]]"  # no key takes that
DATE: Final = "2026-12-31"  # TOML's own, not in quotation marks
TAKE_DATES: Final = {("[secret.NAME]", "expires")}
TABLES_INSIDE: Final = {("[radius]", "coa"), ("[radius]", "server"), ("[radius.coa]", "client")}
KEYS: Final = [
    pytest.param(role, section, field.encode_name, id=f"{role} {section} {field.encode_name}")
    for role, sections in (("server", SERVER), ("client", CLIENT))
    for section, kind in sections.items()
    for field in msgspec.structs.fields(kind)
    if (section, field.encode_name) not in TABLES_INSIDE
]


@pytest.mark.parametrize("value", [WRONG, DATE])
@pytest.mark.parametrize(("role", "section", "key"), KEYS)
def test_a_value_of_another_kind_is_refused(tmp_path: Path, role: str, section: str, key: str, value: str) -> None:
    if value == DATE and (section, key) in TAKE_DATES:
        return  # test_config_auth has it
    kind: type[Table] = (SERVER if role == "server" else CLIENT)[section]
    file = tmp_path / "file.toml"
    file.write_text(f"# one\n# two\n{section.replace('NAME', 'x')}\n{key} = {value}\n")
    with pytest.raises(ConfigError) as caught:
        load(file) if role == "server" else load_client(file)
    said = [line for line in str(caught.value).splitlines() if line.startswith(f"{file}:4: ")]
    named = section.strip("[]").replace("NAME", "x")
    [line] = said
    assert named.partition(".")[0] in line
    assert re.search(rf"[ .]{key}(\[0\])*: ", line)
    assert allowed_values(kind, key) in line
    assert "allowed: " in line
