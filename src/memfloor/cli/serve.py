"""`memfloor serve`: look into a folder of records with a browser."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from memfloor.errors import UsageError

if TYPE_CHECKING:
    import socket

    import uvicorn


def serve(
    folder: Path,
    /,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> None:
    """Serve a read-only web view over the records of a folder: filter, compare, open and download them.

    Args:
        folder: Folder with records; nothing outside of it can be reached.
        host: Address to listen on; one other than this machine's own loopback lets others read the records.
        port: Port to listen on; 0 takes any that is free.
        allow_host: Name under which a browser may ask for it, besides this machine's own; repeatable.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder with records")
    from memfloor.serve.listen import address_of, is_loopback, open_socket

    try:
        with open_socket(host, port) as listening:
            server = _server(folder, listening, allow_host)
            if not is_loopback(listening):
                words = f"{host} can be reached by others, who can read every record of {folder}"
                print(f"memfloor: {words}", file=sys.stderr)
            print(f"memfloor: {folder} at {address_of(listening)} (Ctrl-C ends it)", flush=True)
            server.run(sockets=[listening])
    except KeyboardInterrupt:
        # How a server ends is no interruption of runs.
        return


def _server(folder: Path, listening: "socket.socket", more_hosts: tuple[str, ...]) -> "uvicorn.Server":
    from memfloor.serve.library import Library
    from memfloor.serve.listen import allowed_hosts

    try:
        import uvicorn

        from memfloor.serve.app import create_app
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is not installed; pip install 'memfloor[serve]'") from error
    library = Library(folder)
    library.snapshot()
    app = create_app(library, allowed_hosts(listening, more_hosts))
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
