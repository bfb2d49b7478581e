"""The closed table of reasons for which a connection or a session ends.

One reason is chosen, once, for each connection. It gives the log field, the metric label, the SSTP status,
the way the tunnel is taken down, the RADIUS Acct-Terminate-Cause and the client's exit code.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final, NamedTuple


class Teardown(StrEnum):
    """How the SSTP call is taken down (MS-SSTP 3.1.5, PROTOCOL 4.4)."""

    DISCONNECT = "disconnect"  # LCP Terminate, Call Disconnect, TLS close
    ABORT = "abort"  # Call Abort with a status, TLS close
    DROP = "drop"  # nothing is sent on the SSTP layer; TCP is closed


class ExitCode(IntEnum):
    """Exit codes of the `sstpfarm` command (sysexits.h)."""

    OK = 0
    USAGE = 64
    CERTIFICATE = 65
    NETWORK = 69
    INTERNAL = 70
    SYSTEM = 71
    PROTOCOL = 76
    AUTHENTICATION = 77
    CONFIG = 78


class Reason(StrEnum):
    """Why a connection or a session ended; the value is the slug in logs and metrics."""

    # an end in order
    PEER_DISCONNECT = "peer-disconnect"
    PEER_TERMINATED = "peer-terminated"
    USER_REQUEST = "user-request"
    ADMIN_RESET = "admin-reset"
    SHUTDOWN = "shutdown"
    SESSION_TIMEOUT = "session-timeout"
    IDLE_TIMEOUT = "idle-timeout"
    QUOTA = "quota"
    EXPIRED = "expired"
    REPLACED = "replaced"
    NETWORK_CHANGED = "network-changed"
    # the connection or a process was lost
    PEER_ABORT = "peer-abort"
    TRANSPORT_LOST = "transport-lost"
    PEER_DEAD = "peer-dead"
    WORKER_LOST = "worker-lost"
    # before SSTP
    NETWORK_UNREACHABLE = "network-unreachable"
    TLS_NOT_TLS = "tls-not-tls"
    TLS_FAILED = "tls-failed"
    TLS_TIMEOUT = "tls-timeout"
    CERTIFICATE_MISSING = "certificate-missing"
    PROXY_REFUSED = "proxy-refused"
    PROXY_AUTHENTICATION = "proxy-authentication"
    CERTIFICATE_UNTRUSTED = "certificate-untrusted"
    HTTP_BAD_REQUEST = "http-bad-request"
    HTTP_HEAD_TOO_LARGE = "http-head-too-large"
    HTTP_WRONG_PATH = "http-wrong-path"
    HTTP_WRONG_METHOD = "http-wrong-method"
    HTTP_UNAVAILABLE = "http-unavailable"
    HTTP_REFUSED = "http-refused"
    HTTP_TIMEOUT = "http-timeout"
    # SSTP
    BAD_FRAMING = "bad-framing"
    MALFORMED_MESSAGE = "malformed-message"
    UNEXPECTED_MESSAGE = "unexpected-message"
    UNKNOWN_MESSAGE = "unknown-message"
    NAK_LIMIT = "nak-limit"
    CONNECT_REQUEST_TIMEOUT = "connect-request-timeout"
    NEGOTIATION_TIMEOUT = "negotiation-timeout"
    LOGIN_DEADLINE = "login-deadline"
    LOGIN_ENDED = "login-ended"
    CONTROL_FLOOD = "control-flood"
    BINDING_HASH_PROTOCOL = "binding-hash-protocol"
    BINDING_NONCE = "binding-nonce"
    BINDING_CERTIFICATE = "binding-certificate"
    BINDING_MAC = "binding-mac"
    # PPP
    LCP_FAILED = "lcp-failed"
    LOOPED_LINK = "looped-link"
    NCP_FAILED = "ncp-failed"
    AUTH_NO_COMMON_METHOD = "auth-no-common-method"
    AUTH_REFUSED = "auth-refused"
    AUTH_TIMEOUT = "auth-timeout"
    AUTH_UNAVAILABLE = "auth-unavailable"
    SERVER_NOT_AUTHENTIC = "server-not-authentic"
    # resources
    NO_ADDRESS = "no-address"
    SESSION_LIMIT = "session-limit"
    STARTING_LIMIT = "starting-limit"
    SOURCE_LIMIT = "source-limit"
    EARLY_DROP = "early-drop"
    ALREADY_CONNECTED = "already-connected"
    INTERFACE_FAILED = "interface-failed"
    INTERNAL_ERROR = "internal-error"


class Outcome(NamedTuple):
    """What follows from a reason, for every layer that has to say it in its own words."""

    teardown: Teardown
    sstp_status: int  # MS-SSTP 2.2.7 status of the Call Abort or Call Disconnect
    terminate_cause: int  # Acct-Terminate-Cause, RFC 2866 5.10, RFC 3580 2.1
    exit_code: ExitCode  # of `sstpfarm connect`
    text: str  # for people, also the text of our LCP Terminate-Request


_D, _A, _X = Teardown.DISCONNECT, Teardown.ABORT, Teardown.DROP
_C = ExitCode

OUTCOMES: Final[dict[Reason, Outcome]] = {
    Reason.PEER_DISCONNECT: Outcome(_D, 0, 1, _C.OK, "the peer disconnected"),
    Reason.PEER_TERMINATED: Outcome(_D, 0, 1, _C.OK, "the peer terminated the PPP link"),
    Reason.USER_REQUEST: Outcome(_D, 0, 1, _C.OK, "disconnected at the user's request"),
    Reason.ADMIN_RESET: Outcome(_D, 0, 6, _C.OK, "disconnected by the administrator"),
    Reason.SHUTDOWN: Outcome(_D, 0, 11, _C.OK, "the server is shutting down"),
    Reason.SESSION_TIMEOUT: Outcome(_D, 0, 5, _C.OK, "the session's time is over"),
    Reason.IDLE_TIMEOUT: Outcome(_D, 0, 4, _C.OK, "no traffic for too long"),
    Reason.QUOTA: Outcome(_D, 0, 10, _C.OK, "the session's volume is used up"),
    Reason.EXPIRED: Outcome(_D, 0, 10, _C.AUTHENTICATION, "the account has expired"),
    Reason.REPLACED: Outcome(_D, 0, 13, _C.OK, "the user logged in again elsewhere"),
    Reason.NETWORK_CHANGED: Outcome(_X, 0, 2, _C.NETWORK, "the way to the server changed"),
    Reason.PEER_ABORT: Outcome(_A, 0, 17, _C.PROTOCOL, "the peer aborted the call"),
    Reason.TRANSPORT_LOST: Outcome(_X, 0, 2, _C.NETWORK, "the connection was lost"),
    Reason.PEER_DEAD: Outcome(_X, 0, 2, _C.NETWORK, "the peer no longer answers"),
    Reason.WORKER_LOST: Outcome(_X, 0, 9, _C.INTERNAL, "the process that served the session was lost"),
    Reason.NETWORK_UNREACHABLE: Outcome(_X, 0, 2, _C.NETWORK, "the server cannot be reached"),
    Reason.TLS_NOT_TLS: Outcome(_X, 0, 17, _C.PROTOCOL, "the peer does not speak TLS"),
    Reason.TLS_FAILED: Outcome(_X, 0, 17, _C.PROTOCOL, "the TLS handshake failed"),
    Reason.TLS_TIMEOUT: Outcome(_X, 0, 17, _C.NETWORK, "the TLS handshake took too long"),
    Reason.CERTIFICATE_MISSING: Outcome(_X, 0, 17, _C.CERTIFICATE, "the client has no certificate that is trusted"),
    Reason.PROXY_REFUSED: Outcome(_X, 0, 2, _C.NETWORK, "the proxy refused the connection"),
    Reason.PROXY_AUTHENTICATION: Outcome(_X, 0, 2, _C.AUTHENTICATION, "the proxy wants another name or password"),
    Reason.CERTIFICATE_UNTRUSTED: Outcome(_X, 0, 17, _C.CERTIFICATE, "the server's certificate is not trusted"),
    Reason.HTTP_BAD_REQUEST: Outcome(_X, 0, 17, _C.PROTOCOL, "the HTTP head could not be understood"),
    Reason.HTTP_HEAD_TOO_LARGE: Outcome(_X, 0, 17, _C.PROTOCOL, "the HTTP head is too large"),
    Reason.HTTP_WRONG_PATH: Outcome(_X, 0, 17, _C.PROTOCOL, "the HTTP request is for another path"),
    Reason.HTTP_WRONG_METHOD: Outcome(_X, 0, 17, _C.PROTOCOL, "the HTTP request has another method"),
    Reason.HTTP_UNAVAILABLE: Outcome(_X, 0, 15, _C.NETWORK, "the server takes no new sessions now"),
    Reason.HTTP_REFUSED: Outcome(_X, 0, 15, _C.PROTOCOL, "the server refused the HTTP request"),
    Reason.HTTP_TIMEOUT: Outcome(_X, 0, 17, _C.NETWORK, "the HTTP exchange took too long"),
    Reason.BAD_FRAMING: Outcome(_X, 0, 17, _C.PROTOCOL, "the SSTP framing is broken"),
    Reason.MALFORMED_MESSAGE: Outcome(_A, 7, 17, _C.PROTOCOL, "an SSTP message is malformed"),
    Reason.UNEXPECTED_MESSAGE: Outcome(_A, 5, 17, _C.PROTOCOL, "an SSTP message came in the wrong state"),
    Reason.UNKNOWN_MESSAGE: Outcome(_A, 7, 17, _C.PROTOCOL, "an SSTP message of unknown type"),
    Reason.NAK_LIMIT: Outcome(_A, 6, 17, _C.PROTOCOL, "too many Call Connect Naks"),
    Reason.CONNECT_REQUEST_TIMEOUT: Outcome(_A, 8, 17, _C.NETWORK, "no Call Connect Request in time"),
    Reason.NEGOTIATION_TIMEOUT: Outcome(_A, 8, 17, _C.NETWORK, "the negotiation took too long"),
    Reason.LOGIN_DEADLINE: Outcome(_A, 8, 17, _C.NETWORK, "the login took too long"),
    Reason.LOGIN_ENDED: Outcome(_D, 0, 17, _C.NETWORK, "the server ended the login"),
    Reason.CONTROL_FLOOD: Outcome(_D, 0, 17, _C.PROTOCOL, "too many control frames"),
    Reason.BINDING_HASH_PROTOCOL: Outcome(_A, 7, 17, _C.PROTOCOL, "crypto binding: hash protocol not offered"),
    Reason.BINDING_NONCE: Outcome(_A, 7, 17, _C.PROTOCOL, "crypto binding: wrong nonce"),
    Reason.BINDING_CERTIFICATE: Outcome(_A, 7, 17, _C.PROTOCOL, "crypto binding: wrong certificate hash"),
    Reason.BINDING_MAC: Outcome(_A, 7, 17, _C.PROTOCOL, "crypto binding: wrong compound MAC"),
    Reason.LCP_FAILED: Outcome(_D, 0, 17, _C.PROTOCOL, "LCP did not converge"),
    Reason.LOOPED_LINK: Outcome(_D, 0, 17, _C.PROTOCOL, "the link is looped"),
    Reason.NCP_FAILED: Outcome(_D, 0, 17, _C.PROTOCOL, "no network protocol could be opened"),
    Reason.AUTH_NO_COMMON_METHOD: Outcome(_D, 0, 17, _C.AUTHENTICATION, "no common authentication method"),
    # a session that was open ends so only when it is to log in again: 20 is RFC 3580 2.1, Reauthentication Failure
    Reason.AUTH_REFUSED: Outcome(_D, 0, 20, _C.AUTHENTICATION, "authentication refused"),
    Reason.AUTH_TIMEOUT: Outcome(_D, 0, 20, _C.NETWORK, "the authentication took too long"),
    Reason.AUTH_UNAVAILABLE: Outcome(_D, 0, 9, _C.NETWORK, "the authentication service does not answer"),
    Reason.SERVER_NOT_AUTHENTIC: Outcome(_A, 7, 17, _C.AUTHENTICATION, "the server does not know the password"),
    Reason.NO_ADDRESS: Outcome(_D, 0, 15, _C.NETWORK, "no address is free"),
    Reason.SESSION_LIMIT: Outcome(_D, 0, 15, _C.NETWORK, "the session limit is reached"),
    Reason.STARTING_LIMIT: Outcome(_X, 0, 15, _C.NETWORK, "too many connections have not logged in yet"),
    Reason.SOURCE_LIMIT: Outcome(_X, 0, 15, _C.NETWORK, "too many connections of one source have not logged in yet"),
    Reason.EARLY_DROP: Outcome(_X, 0, 15, _C.NETWORK, "few places are left for connections that have not logged in"),
    Reason.ALREADY_CONNECTED: Outcome(_D, 0, 15, _C.AUTHENTICATION, "the user has as many sessions as allowed"),
    Reason.INTERFACE_FAILED: Outcome(_D, 0, 8, _C.SYSTEM, "the tunnel interface could not be made"),
    Reason.INTERNAL_ERROR: Outcome(_X, 0, 9, _C.INTERNAL, "an internal error"),
}
