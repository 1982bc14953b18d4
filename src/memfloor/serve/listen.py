"""Where the view is served: a socket, whether others can reach it, and by which names it may be asked for."""

import ipaddress
import socket
from collections.abc import Sequence

import psutil

from memfloor.errors import UsageError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
HIGHEST_PORT = 65535


def open_socket(host: str, port: int) -> socket.socket:
    """Listen on an address; port 0 takes any that is free.

    Raises:
        UsageError: There is no such address here, or it is in use.
    """
    if not 0 <= port <= HIGHEST_PORT:
        raise UsageError(f"port must be from 0 to {HIGHEST_PORT}, not {port}")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name"
        raise UsageError(f"cannot listen on {host}, port {port}: {reason}; choose another --host or --port") from error


def is_loopback(listening: socket.socket) -> bool:
    """Say whether only this machine can reach a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def address_of(listening: socket.socket) -> str:
    """Return the address to open in a browser on this machine."""
    host, port = listening.getsockname()[:2]
    found = ipaddress.ip_address(host)
    if found.is_unspecified:
        host = "127.0.0.1" if found.version == 4 else "::1"
    return f"http://{_bracketed(host)}:{port}/"


def allowed_hosts(listening: socket.socket, more: Sequence[str] = ()) -> list[str]:
    """Return the names that a browser may ask for.

    A page of another site can make its own name lead to this machine and so read what is served here; a request that
    names it is refused.

    Args:
        listening: The socket.
        more: Names under which the machine is known besides its own.
    """
    host = listening.getsockname()[0]
    names = [*LOOPBACK_NAMES, *more, _bracketed(host)]
    if ipaddress.ip_address(host).is_unspecified:
        names += [socket.gethostname(), socket.getfqdn(), *map(_bracketed, _own_addresses())]
    return list(dict.fromkeys(name.lower() for name in names))


def _own_addresses() -> list[str]:
    families = socket.AF_INET, socket.AF_INET6
    every = [address for addresses in psutil.net_if_addrs().values() for address in addresses]
    # That of a link carries the name of its interface behind a %.
    return [each.address.partition("%")[0] for each in every if each.family in families]


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
