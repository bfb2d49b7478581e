"""A real FreeRADIUS in a namespace, with a configuration directory of its own; never the system's service."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from .farm import Journal
from .guard import make_directory, remove_directory
from .netns import PATIENCE, Namespace, until

SECRET: Final = "testing123"
RELOADED: Final = 'Module: Reloaded module "files"'
PROGRAM: Final = shutil.which("freeradius") or "/usr/sbin/freeradius"
RECORD: Final = re.compile(r"^(\S.*)\n((?:\t.*\n)*)", re.MULTILINE)
PAIR: Final = re.compile(r"^\t([A-Za-z0-9-]+) = (.*)$", re.MULTILINE)

CONFIG: Final = """
prefix = /usr
libdir = /usr/lib/freeradius
raddbdir = {directory}
confdir = {directory}
logdir = {directory}
run_dir = {directory}
pidfile = {directory}/pid
max_request_time = 10
cleanup_delay = 1
max_requests = 16384
hostname_lookups = no
log {{
    destination = stdout
    auth = no
}}
security {{
    allow_core_dumps = no
    max_attributes = 200
    reject_delay = 0
    status_server = yes
}}
proxy_requests = no
thread pool {{
    start_servers = 2
    max_servers = 8
    min_spare_servers = 1
    max_spare_servers = 4
    max_requests_per_server = 0
}}
client farm {{
    ipaddr = {client}
    secret = {secret}
    require_message_authenticator = yes
}}
modules {{
    pap {{
    }}
    chap {{
    }}
    mschap {{
        use_mppe = {mppe}
    }}
    eap {{
        default_eap_type = mschapv2
        timer_expire = 60
        max_sessions = 4096
        md5 {{
        }}
        mschapv2 {{
            send_error = yes
        }}
        {eap_tls}
    }}
    files {{
        usersfile = {directory}/users
    }}
    detail {{
        filename = {directory}/detail
        permissions = 0600
    }}
    detail requests {{
        filename = {directory}/requests
        permissions = 0600
        suppress {{
            User-Password
        }}
    }}
}}
server default {{
    listen {{
        type = auth
        ipaddr = {address}
        port = {port}
    }}
    listen {{
        type = acct
        ipaddr = {address}
        port = {acct_port}
    }}
    authorize {{
        requests
        chap
        mschap
        eap {{
            ok = return
        }}
        files
        pap
    }}
    authenticate {{
        Auth-Type PAP {{
            pap
        }}
        Auth-Type CHAP {{
            chap
        }}
        Auth-Type MS-CHAP {{
            mschap
        }}
        eap
    }}
    accounting {{
        detail
    }}
    post-auth {{
        {sign}
        Post-Auth-Type REJECT {{
            {sign}
            eap
        }}
        Post-Auth-Type Challenge {{
            {sign}
        }}
    }}
}}
{inner}
"""
# EAP-TLS and PEAP. The fragments are as long as Framed-MTU lets them be.
EAP_TLS: Final = """
        tls-config tls-common {{
            private_key_file = {key}
            certificate_file = {chain}
            ca_file = {authority}
            cipher_list = "DEFAULT"
            tls_min_version = "1.2"
            tls_max_version = "1.3"
            fragment_size = 4000
        }}
        tls {{
            tls = tls-common
        }}
        peap {{
            tls = tls-common
            default_eap_type = mschapv2
            use_tunneled_reply = yes
            virtual_server = inner-tunnel
        }}
"""
INNER: Final = """
server inner-tunnel {
    authorize {
        eap {
            ok = return
        }
        files
    }
    authenticate {
        Auth-Type MS-CHAP {
            mschap
        }
        eap
    }
}
"""
# Debian's 3.2.1 is older than the answer to CVE-2024-3596: it signs a reply only when it is told to.
SIGN: Final = "update reply {\n Message-Authenticator := 0x00\n }"


class TlsFiles(NamedTuple):
    """What EAP-TLS and PEAP need: the server's certificate, and the authority of its clients."""

    chain: Path
    key: Path
    authority: Path


class FreeRadius:
    """One server.

    Attributes:
        users: name, password and reply items ("Attribute = value") of each user; `write` puts them into the file.
    """

    def __init__(
        self,
        place: Namespace,
        users: Mapping[str, tuple[str, Sequence[str]]],
        *,
        address: str = "127.0.0.1",
        client: str = "127.0.0.1",
        port: int = 1812,
        mppe: bool = True,
        sign: bool = True,
        tls: TlsFiles | None = None,
    ) -> None:
        self.place = place
        self.port = port
        self.directory = make_directory("sstpfarm-radius-")
        settings = {
            "directory": self.directory,
            "secret": SECRET,
            "address": address,
            "client": client,
            "port": port,
            "acct_port": port + 1,
            "mppe": "yes" if mppe else "no",
            "sign": SIGN if sign else "",
            "eap_tls": EAP_TLS.format(**tls._asdict()) if tls else "",
            "inner": INNER if tls else "",
        }
        (self.directory / "radiusd.conf").write_text(CONFIG.format(**settings))
        (self.directory / "dictionary").write_text("$INCLUDE /usr/share/freeradius/dictionary\n")
        self._write(users)
        self._signals = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.log: Journal

    def start(self) -> None:
        """Start it and wait until it serves."""
        assert self.process is None
        self.process = self.place.popen(PROGRAM, "-f", "-l", "stdout", "-d", str(self.directory))
        assert self.process.stdout is not None
        self.log = Journal(self.process.stdout)

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"FreeRADIUS ended:\n{self.log.text()}"
            return "Ready to process requests" in self.log.text()

        until(ready, "FreeRADIUS is ready")

    def _write(self, users: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        lines = []
        for name, (password, reply) in users.items():
            lines.append(f'"{name}" Cleartext-Password := "{password}"')
            lines.append(",\n".join(f"\t{item}" for item in reply) + "\n" if reply else "")
        # the default entry of a refused user gives a text
        lines.append('DEFAULT Auth-Type := Reject\n\tReply-Message = "Nobody of that name"\n')
        (self.directory / "users").write_text("\n".join(lines))

    def change_users(self, users: Mapping[str, tuple[str, Sequence[str]]]) -> None:
        """Serve these users from now on."""
        said = self.log.text().count(RELOADED)
        self._write(users)
        asked = float("-inf")

        def reloaded() -> bool:
            nonlocal asked
            assert self.process is not None
            if time.monotonic() > asked + 1:  # a signal is lost soon after another one and after the start
                asked = time.monotonic()
                self._signals += 1
                at = time.time() + 2 * self._signals  # it compares whole seconds
                os.utime(self.directory / "users", (at, at))
                self.process.send_signal(signal.SIGHUP)
            return self.log.text().count(RELOADED) > said

        until(reloaded, "FreeRADIUS has read its users again")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.log.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None

    def records(self, **match: str) -> list[dict[str, str]]:
        """The accounting records of the detail file in their order, those that have these values; texts unquoted."""
        return self._detail("detail", match)

    def requests(self, **match: str) -> list[dict[str, str]]:
        """The Access-Requests that came, in the same way."""
        return self._detail("requests", match)

    def _detail(self, name: str, match: Mapping[str, str]) -> list[dict[str, str]]:
        file = self.directory / name
        if not file.exists():
            return []
        found = []
        for block in RECORD.findall(file.read_text()):
            record = {name: value.strip('"') for name, value in PAIR.findall(block[1])}
            if all(record.get(name.replace("_", "-")) == value for name, value in match.items()):
                found.append(record)
        return found

    def destroy(self) -> None:
        """End it and remove its files."""
        self.stop(signal.SIGKILL)
        remove_directory(self.directory)


@contextmanager
def freeradius(
    place: Namespace,
    users: Mapping[str, tuple[str, Sequence[str]]],
    *,
    address: str = "127.0.0.1",
    client: str = "127.0.0.1",
    port: int = 1812,
    mppe: bool = True,
    sign: bool = True,
    tls: TlsFiles | None = None,
) -> Iterator[FreeRadius]:
    """A server that is ready, for as long as the block runs, at `address` for `client`; EAP-TLS and PEAP need `tls`."""
    missing = [program for program in (PROGRAM, "radclient") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)} (deploy/install-packages test)")
    server = FreeRadius(place, users, address=address, client=client, port=port, mppe=mppe, sign=sign, tls=tls)
    try:
        server.start()
        yield server
    finally:
        server.destroy()


def radclient(
    place: Namespace, target: str, kind: str, pairs: Sequence[str], *, secret: str = SECRET, retries: int = 1
) -> str:
    """What `radclient` says after it sent these "Attribute = value" to a target; its exit code does not count."""
    done = subprocess.run(
        place.argv("radclient", "-x", "-r", str(retries), "-t", "1", target, kind, secret),
        input="\n".join(pairs) + "\n", capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
