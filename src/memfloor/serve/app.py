"""The routes: every one answers GET and HEAD alone, and looks up what it is asked for in the snapshot of the folder."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from memfloor.errors import UsageError
from memfloor.report.summary import CellSummary
from memfloor.report.verdicts import DEFAULT_MARGIN
from memfloor.serve import one, pages
from memfloor.serve.downloads import lines_of, zip_of
from memfloor.serve.folder import Entry, Folder
from memfloor.serve.library import Library, Snapshot
from memfloor.serve.selection import Selection, choices_in

SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A store grows while it is served.
    "Cache-Control": "no-store",
}
# The report says for itself what may run in it: its charts need their own inlined script.
REPORT_POLICY = {"Content-Security-Policy": "frame-ancestors 'none'"}
METHODS = ["GET", "HEAD"]
router = APIRouter()


def create_app(library: Library, hosts: Sequence[str]) -> FastAPI:
    """Return the application.

    Args:
        library: What is served.
        hosts: Names under which it may be asked for; a request under another one is refused.
    """
    # No documentation of an interface: its pages load scripts from elsewhere.
    app = FastAPI(title="memfloor", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.library = library
    app.include_router(router)
    app.middleware("http")(_secured)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_exception_handler(UsageError, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_exception_handler(StarletteHTTPException, _refused)
    return app


def _snapshot(request: Request) -> Snapshot:
    library: Library = request.app.state.library
    return library.snapshot()


Now = Annotated[Snapshot, Depends(_snapshot)]


def _selection(
    snapshot: Now,
    folder: str = "",
    device: str = "",
    model: str = "",
    runtime: str = "",
    weights: str = "",
    context: str = "",
    kind: str = "",
) -> Selection:
    chosen = Selection(folder, device, model, runtime, weights, context, kind)
    chosen.check(choices_in(snapshot))
    return chosen


Chosen = Annotated[Selection, Depends(_selection)]
Margin = Annotated[float, Query(gt=0, lt=1)]


@router.api_route("/", methods=METHODS, response_class=HTMLResponse)
def folders(snapshot: Now, chosen: Chosen) -> str:
    """Show all folders."""
    return pages.folders_page(snapshot, chosen)


@router.api_route("/cells", methods=METHODS, response_class=HTMLResponse)
def cells(snapshot: Now, chosen: Chosen, order: str = pages.ORDERS[0]) -> str:
    """Show the cells that were chosen."""
    return pages.cells_page(snapshot, chosen, order)


@router.api_route("/cells/{cell_id}", methods=METHODS, response_class=HTMLResponse)
def cell(snapshot: Now, cell_id: str) -> str:
    """Show one cell."""
    folder, _ = _cell(snapshot, cell_id)
    return one.cell_page(snapshot, folder, cell_id)


@router.api_route("/records", methods=METHODS, response_class=HTMLResponse)
def records(snapshot: Now, chosen: Chosen, page: int = 1) -> str:
    """Show the records that were chosen."""
    return pages.records_page(snapshot, chosen, page)


@router.api_route("/records/{record_id}", methods=METHODS, response_class=HTMLResponse)
def record(snapshot: Now, record_id: str) -> str:
    """Show one record."""
    return one.record_page(snapshot, _entry(snapshot, record_id))


@router.api_route("/records/{record_id}/raw", methods=METHODS)
def raw(snapshot: Now, record_id: str) -> Response:
    """Give a record as it lies on disk."""
    return Response(snapshot.read_bytes(_entry(snapshot, record_id)), media_type="application/json")


@router.api_route("/records/{record_id}/file", methods=METHODS)
def file(snapshot: Now, record_id: str) -> Response:
    """Give a record as a file."""
    entry = _entry(snapshot, record_id)
    headers = _attached(entry.name.rpartition("/")[2])
    return Response(snapshot.read_bytes(entry), media_type="application/json", headers=headers)


@router.api_route("/compare/cells", methods=METHODS, response_class=HTMLResponse)
def compare_cells(snapshot: Now, before: str = "", after: str = "", margin: Margin = DEFAULT_MARGIN) -> str:
    """Show what lies between two cells."""
    _check_pair("cell", before, after)
    return one.cells_compared_page(snapshot, _cell(snapshot, before), _cell(snapshot, after), margin)


@router.api_route("/compare/folders", methods=METHODS, response_class=HTMLResponse)
def compare_folders(snapshot: Now, before: str = "", after: str = "", margin: Margin = DEFAULT_MARGIN) -> str:
    """Show what has changed between two folders."""
    _check_pair("folder", before, after)
    for name in (before, after):
        Selection(folder=name).check(choices_in(snapshot))
    return one.folders_compared_page(snapshot, before, after, margin)


@router.api_route("/report", methods=METHODS)
def report(snapshot: Now, folder: str = ".") -> Response:
    """Show the report of a folder."""
    if folder != ".":
        Selection(folder=folder).check(choices_in(snapshot))
    return HTMLResponse(one.report_page(snapshot, folder), headers=REPORT_POLICY)


@router.api_route("/download.zip", methods=METHODS)
def download_zip(snapshot: Now, chosen: Chosen) -> Response:
    """Give the records that were chosen as a zip."""
    chunks = zip_of(chosen.entries(snapshot), snapshot)
    return StreamingResponse(chunks, media_type="application/zip", headers=_attached("records.zip"))


@router.api_route("/download.jsonl", methods=METHODS)
def download_lines(snapshot: Now, chosen: Chosen) -> Response:
    """Give the records that were chosen as lines of JSON."""
    lines = lines_of(chosen.entries(snapshot), snapshot)
    return StreamingResponse(lines, media_type="application/jsonl", headers=_attached("records.jsonl"))


@router.api_route("/problems", methods=METHODS, response_class=HTMLResponse)
def problems(snapshot: Now) -> str:
    """Show the files that were left out."""
    return pages.problems_page(snapshot)


def _entry(snapshot: Snapshot, record_id: str) -> Entry:
    if record_id not in snapshot.entries:
        raise HTTPException(404, f"there is no record {record_id!r} below this folder")
    return snapshot.entries[record_id]


def _cell(snapshot: Snapshot, cell_id: str) -> tuple[Folder, CellSummary]:
    for folder in snapshot.folders.values():
        if cell_id in folder.cells:
            return folder, folder.cells[cell_id]
    raise HTTPException(404, f"there is no cell {cell_id!r} below this folder")


def _check_pair(what: str, before: str, after: str) -> None:
    if not before or not after:
        raise UsageError(f"choose one {what} in the column before and one in the column after")


def _attached(name: str) -> Mapping[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}


async def _secured(request: Request, proceed: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await proceed(request)
    for name, value in SECURITY.items():
        response.headers.setdefault(name, value)
    return response


def _refused(request: Request, error: Exception) -> Response:
    status, headers = 400, None
    if isinstance(error, StarletteHTTPException):
        status, headers = error.status_code, error.headers
    page = pages.error_page(_snapshot(request), _words(error))
    return HTMLResponse(page, status, headers=headers)


def _words(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        problem: dict[str, Any] = dict(error.errors()[0])
        return f"{problem['loc'][-1]}: {problem['msg']}"
    if isinstance(error, StarletteHTTPException):
        return error.detail
    return str(error)
