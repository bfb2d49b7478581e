"""Routes, programs, address lists, proxy ARP in a configuration: each fault with the whole message; what auth gets."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from sstpfarm.auth.local import authorize
from sstpfarm.config.load import describe, load
from sstpfarm.config.views import for_auth
from sstpfarm.ipc.messages import FramedRoute
from tests.unit.config_faults import REST, Fault, assert_told

ALICE: Final = REST + '[secret.alice]\npassword = "a"\n'
ROUTES: Final = "secret.alice.routes"
ROUTE: Final = 'allowed: "NETWORK/LENGTH [GATEWAY [METRIC]]"'
COMMAND: Final = "allowed: a list: the absolute path of a program, then its arguments; [] for none"
SETS: Final = (
    "allowed: a list of at most 16 names of nftables sets: a letter or _, then letters, digits, . _ -, "
    'at most 64 characters, not "sstpfarm..."'
)
BEHIND: Final = f"holds addresses that cannot be behind a client; {ROUTE}"

FAULTS: Final[dict[str, Fault]] = {
    "routes that are none": Fault(
        ALICE
        + 'routes = [\n"10.9.0.0/24 via 10.20.0.9",\n"10.9.0.0",\n"10.9.0.0/24 ::1",\n"10.9.0.7/24",\n'
        + '"10.9.0.0/24 10.20.0.9 -1",\n"2001:db8::/32 ff02::1",\n"home/24",\n"10.9.0.0/24 0.0.0.0 1 2"]\n',
        (
            f'10: {ROUTES}[0]: "10.9.0.0/24 via 10.20.0.9" has a gateway that is no address; {ROUTE}',
            f'11: {ROUTES}[1]: "10.9.0.0" has no length behind its network; {ROUTE}',
            f'12: {ROUTES}[2]: "10.9.0.0/24 ::1" has a gateway of the other IP version; {ROUTE}',
            f'13: {ROUTES}[3]: "10.9.0.7/24" does not begin with a network\'s address '
            f"(did you mean 10.9.0.0/24?); {ROUTE}",
            f'14: {ROUTES}[4]: "10.9.0.0/24 10.20.0.9 -1" has a metric that is not 0 to 4294967295; {ROUTE}',
            f'15: {ROUTES}[5]: "2001:db8::/32 ff02::1" has a gateway that is no host\'s address; {ROUTE}',
            f'16: {ROUTES}[6]: "home/24" has no network; {ROUTE}',
            f'17: {ROUTES}[7]: "10.9.0.0/24 0.0.0.0 1 2" is no route; {ROUTE}',
        ),
    ),
    "routes to what cannot be behind a client": Fault(
        ALICE + 'routes = ["0.0.0.0/0", "127.0.0.0/8", "fe80::/64", "128.0.0.0/1"]\n',
        (
            f'9: {ROUTES}[0]: "0.0.0.0/0" is a default route: it would take the server\'s own traffic along; {ROUTE}',
            f'9: {ROUTES}[1]: "127.0.0.0/8" {BEHIND}',
            f'9: {ROUTES}[2]: "fe80::/64" {BEHIND}',
            f'9: {ROUTES}[3]: "128.0.0.0/1" {BEHIND}',
        ),
    ),
    "routes to what others have": Fault(
        '[server]\nlisten = ["192.0.2.1:443"]'
        + REST
        + '[profile.other]\nlocal-address = "172.16.1.1"\n'
        + '[secret.bob]\npassword = "b"\nremote-address = "10.9.7.7"\n'
        + '[secret.alice]\npassword = "a"\nremote-address = "10.8.0.1"\nroutes = ["192.0.2.0/24", "10.20.8.0/24", '
        + '"10.9.7.0/24", "172.16.0.0/12", "10.8.0.0/24", "10.8.0.0/24", "10.7.0.0/16 10.20.0.1"]\n',
        (
            f'16: {ROUTES}[0]: "192.0.2.0/24" holds addresses of server.listen[0]',
            f'16: {ROUTES}[1]: "10.20.8.0/24" holds addresses of pool.main',
            f'16: {ROUTES}[2]: "10.9.7.0/24" holds addresses of secret.bob',
            f'16: {ROUTES}[3]: "172.16.0.0/12" holds addresses of profile.other.local-address',
            f'16: {ROUTES}[5]: "10.8.0.0/24" is listed twice',
            f'16: {ROUTES}[6]: "10.7.0.0/16 10.20.0.1" has our own local-address as its gateway; '
            "allowed: the client's, or 0.0.0.0",
        ),
    ),
    "programs": Fault(
        REST + '[profile.x]\non-up = ["logger", "up"]\non-down = ["/nowhere/down"]\n',
        (
            f'8: profile.x.on-up[0]: "logger" is no absolute path; {COMMAND}',
            "9: profile.x.on-down[0]: /nowhere/down is no file that can be executed",
        ),
    ),
    "a program without a list": Fault(
        REST + '[profile.x]\non-up = "up"\n', (f'8: profile.x.on-up: "up" is not allowed; {COMMAND}',)
    ),
    "address lists": Fault(
        REST + '[profile.x]\naddress-list = [\n"staff",\n"two words",\n]\n[profile.y]\naddress-list = ["sstpfarm-x"]\n',
        (
            f'10: profile.x.address-list[1]: "two words" is not allowed; {SETS}',
            f'13: profile.y.address-list[0]: "sstpfarm-x" is not allowed; {SETS}',
        ),
    ),
    "change-tcp-mss": Fault(
        REST + '[profile.x]\nchange-tcp-mss = "yes"\n',
        ('8: profile.x.change-tcp-mss: "yes" is not allowed; allowed: true or false',),
    ),
    "proxy-arp": Fault(
        '[server]\nproxy-arp = [\n"lan0",\n"lan/0"]\nproxy-arp-mode = "yes"\nscript-timeout-s = 0' + REST,
        (
            '4: server.proxy-arp[1]: "lan/0" is not allowed; allowed: a list of at most 16 names of interfaces',
            '5: server.proxy-arp-mode: "yes" is not allowed; allowed: "neighbour" or "sysctl"',
            "6: server.script-timeout-s: 0 is not allowed; allowed: seconds, more than 0, at most 3600",
        ),
    ),
    "an include that is not there": Fault(
        '[server]\nnftables-include = "rules.nft"' + REST,
        ("2: server.nftables-include: DIR/rules.nft cannot be read: No such file or directory",),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault_is_told_with_file_line_key_and_what_is_right(name: str, tmp_path: Path) -> None:
    assert_told(FAULTS[name], tmp_path)


def test_auth_gets_what_sessions_change(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text(
        ALICE
        + 'routes = ["10.9.0.0/24", "10.8.0.0/24 0.0.0.0 7", "10.7.0.0/24 10.20.0.9", "2001:db8::/32 :: 3"]\n'
        + 'address-list = ["staff", "all", "staff"]\nchange-tcp-mss = false\non-up = ["/bin/true", "up"]\n'
    )
    view = for_auth(load(file))
    account = authorize("alice", view.secrets["alice"], view.profiles["default"])
    assert account.routes == (
        FramedRoute("10.9.0.0/24", "", 0),
        FramedRoute("10.8.0.0/24", "", 7),
        FramedRoute("10.7.0.0/24", "10.20.0.9", 0),
        FramedRoute("2001:db8::/32", "", 3),
    )
    assert (account.address_lists, account.clamp_mss) == (("staff", "all"), False)
    assert (account.on_up, account.on_down) == (("/bin/true", "up"), ())


def test_proxy_arp_without_forwarding_gets_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    for forwarding, lines in (("true", []), ("false", ["server.proxy-arp: has no effect without forwarding = true"])):
        file.write_text(f'[server]\nproxy-arp = ["lan0"]\nforwarding = {forwarding}\n{ALICE}only-one = "no"\n')
        file.chmod(0o600)
        warned = describe(load(file), file).split("\n")[1:]
        assert [line.removeprefix(f"{file}: warning: ") for line in warned] == lines


def test_the_vlan_of_a_port_goes_with_its_bridge(tmp_path: Path) -> None:
    file = tmp_path / "farm.toml"
    file.write_text(
        REST
        + '[profile.lan]\nlocal-address = "10.20.0.1"\nremote-address = "pool:main"\n'
        + 'bridge = "br0"\nbridge-port-vid = 7\n'
        + '[secret.a]\npassword = "a"\nprofile = "lan"\n'
        + '[secret.b]\npassword = "b"\nprofile = "lan"\nbridge-port-vid = 8\n'
        + '[secret.c]\npassword = "c"\nprofile = "lan"\nbridge = ""\n'
    )
    view = for_auth(load(file))
    found = {name: authorize(name, secret, view.profiles["lan"]) for name, secret in view.secrets.items()}
    ports = {name: (account.bridge, account.bridge_port_vid) for name, account in found.items()}
    assert ports == {"a": ("br0", 7), "b": ("br0", 8), "c": ("", 0)}
