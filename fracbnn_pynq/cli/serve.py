"""``fracbnn serve``."""

from __future__ import annotations

import errno
import ipaddress
import logging
import re
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import BackendError
from ..extras import install_line
from .options import arithmetic_option, backend_option, board_option, echo, examples, overlay_option, threads_option
from .verifying import check_options, verify_options

if TYPE_CHECKING:
    from ..service.settings import Settings

log = logging.getLogger(__name__)

DEFAULT_ADDRESS = "127.0.0.1:8000"

_LAST_PORT = 65535
_MEBIBYTE = 1 << 20
_ELSEWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737): nobody has it."""
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _refuse_workers(_context: click.Context, _parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--workers is not possible: a board has one owner, and the CPU engine uses all processors from one process "
            "already. For more, run one service on each board behind a load balancer; see docs/service.md"
        )


@click.command(
    epilog=examples(
        "fracbnn serve",
        "fracbnn serve --model cifar10 --model mine=mine.safetensors --port 9000",
        "fracbnn serve --host 0.0.0.0 --token-file token.txt",
        "fracbnn serve --grpc 8001",
    )
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="NAME|FILE|NAME=FILE",
    help="A model to serve, the first one by default. May be repeated. [default: cifar10]",
)
@backend_option
@board_option
@overlay_option
@arithmetic_option
@threads_option
@verify_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any free one.",
)
@click.option(
    "--grpc",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Speak the Open Inference Protocol over gRPC, too, at this port; 0 for any free one.",
)
@click.option("--queue", type=click.IntRange(min=1), default=64, show_default=True, help="Requests held per model.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds a request may wait for its turn.",
)
@click.option("--max-body", type=click.FloatRange(min=0.001), default=32.0, show_default=True, help="MB of a request.")
@click.option(
    "--max-pixels", type=click.IntRange(min=1), default=40_000_000, show_default=True, help="Pixels of a picture."
)
@click.option("--max-batch", type=click.IntRange(min=1), default=256, show_default=True, help="Pictures of a request.")
@click.option("--max-json", type=click.FloatRange(min=0.001), default=8.0, show_default=True, help="MB of JSON.")
@click.option(
    "--max-request-pixels",
    type=click.IntRange(min=1),
    default=160_000_000,
    show_default=True,
    help="Pixels of all pictures of a request.",
)
@click.option(
    "--decode-pixels",
    type=click.IntRange(min=1),
    default=40_000_000,
    show_default=True,
    help="Pixels decoded at once; about 16 bytes of memory each.",
)
@click.option(
    "--max-held", type=click.FloatRange(min=0.001), default=64.0, show_default=True, help="MB of all bodies together."
)
@click.option("--connections", type=click.IntRange(min=1), default=1000, show_default=True, help="Connections at once.")
@click.option(
    "--micro-batch", type=click.IntRange(min=1), default=32, show_default=True, help="Pictures together (cpu)."
)
@click.option(
    "--drain", type=click.FloatRange(min=0), default=0.0, show_default=True, help="Seconds unready before the end."
)
@click.option(
    "--grace", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Seconds for what is in flight."
)
@click.option(
    "--allow-host",
    "allow_hosts",
    multiple=True,
    metavar="NAME",
    help="A name of this service in addresses, besides localhost and this machine's own; '*' for any. May be repeated.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A site whose pages may use this service, such as https://example.org. May be repeated.",
)
@click.option("--camera", metavar="SOURCE", help="Show this camera, video file or URL at /camera; as 'fracbnn camera'.")
@click.option("--camera-width", type=click.IntRange(min=1), help="Ask the camera for this width.")
@click.option("--camera-height", type=click.IntRange(min=1), help="Ask the camera for this height.")
@click.option("--camera-fps", type=click.FloatRange(min=0, min_open=True), help="Ask the camera for this rate.")
@click.option("--camera-fourcc", help="Ask the camera for this encoding, such as MJPG.")
@click.option("--camera-always", is_flag=True, help="Keep the camera open while nobody watches.")
@click.option(
    "--camera-linger",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds until it is closed after the last viewer left.",
)
@click.option("--viewers", type=click.IntRange(min=1), default=8, show_default=True, help="Viewers of the camera.")
@click.option("--token-file", type=_FILE, help="File with the bearer token that clients must send.")
@click.option("--ssl-certfile", type=_FILE, help="Certificate chain, PEM.")
@click.option("--ssl-keyfile", type=_FILE, help="Its private key, PEM.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the log's lines.",
)
@click.option("--workers", type=int, callback=_refuse_workers, expose_value=False, hidden=True)
def command(
    *,
    models: tuple[str, ...],
    host: str,
    port: int,
    max_body: float,
    max_json: float,
    max_held: float,
    allow_hosts: tuple[str, ...],
    grpc: int | None,
    token_file: Path | None,
    ssl_certfile: Path | None,
    ssl_keyfile: Path | None,
    log_format: str,
    **limits: Any,
) -> None:
    """Classify over HTTP (and gRPC): plain uploads and the Open Inference Protocol v2; see /docs of the running
    service."""
    if (ssl_certfile is None) != (ssl_keyfile is None):
        raise click.UsageError("--ssl-certfile and --ssl-keyfile: give both or none")
    check_options(limits["verify"], limits["verify_report"])
    token = _service("settings").read_token(token_file) if token_file else None
    sizes = {"max_body": max_body, "max_json": max_json, "max_held": max_held}
    in_bytes = {name: int(megabytes * _MEBIBYTE) for name, megabytes in sizes.items()}
    if grpc is not None:
        if host.startswith("unix:"):
            raise click.UsageError("--grpc: expected a --host with ports, found a socket in the file system")
        _check_free(host, grpc, "--grpc")
        address = f"[{host}]:{grpc}" if ":" in host else f"{host}:{grpc}"
        limits |= {"grpc": address, "grpc_certfile": ssl_certfile, "grpc_keyfile": ssl_keyfile}
    serve(
        {"models": models, "token": token, "allow_hosts": allow_hosts, **in_bytes, **limits},
        host=host,
        port=port,
        log_format=log_format,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
    )


def serve(values: dict[str, Any], *, host: str, port: int, log_format: str = "text", **options: Any) -> None:
    """Serve until a signal ends it. ``values``: of the settings; ``options``: uvicorn's. Exits with 1 if it cannot."""
    names = (*values.get("allow_hosts", ()), *([] if _is_address(host) else [host]))
    settings: Settings = _service("settings").Settings(**{**values, "allow_hosts": names})
    _service("logs").configure(log_format)
    if settings.token is None and not _only_this_machine(host):
        what = "use this service" if settings.camera is None else "use this service and see what its camera sees"
        log.warning("anybody who reaches %s may %s: --token-file of 'fracbnn serve' limits it", host, what)
    _check_free(host, port)
    app = _service("application").create_app(settings)

    def say_where(actual_port: int) -> None:
        scheme = "https" if options.get("ssl_certfile") else "http"
        echo(f"open {scheme}://{_name_to_open(host)}:{actual_port}/camera to see the camera")

    started = say_where if settings.camera is not None else None
    server = _service("server").Server(app, started_at=started, host=host, port=port, **options)
    server.run()
    if not server.started:
        sys.exit(1)


def _check_free(host: str, port: int, option: str = "--port") -> None:
    """Say in one line that an address cannot be had, before models are loaded. Raises BackendError."""
    if host.startswith("unix:"):
        return
    where = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
                probe.listen(1)  # two may be bound with SO_REUSEADDR, but not listen
    except OSError as error:
        used = error.errno == errno.EADDRINUSE
        raise BackendError(
            f"cannot listen on {where}: {error.strerror or error}",
            advice=f"give another {option}, or end what uses this one" if used else f"give another --host or {option}",
        ) from None


def listening_address(text: str) -> dict[str, Any]:
    """``host`` and ``port`` of ``HOST:PORT``; IPv6 in brackets. Raises click's UsageError."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:\[\]]+):(\d{1,5})", text)
    if found is None or int(found[2]) > _LAST_PORT:
        raise click.UsageError(f"--serve: expected HOST:PORT such as {DEFAULT_ADDRESS}, found {text!r}")
    return {"host": found[1].strip("[]"), "port": int(found[2])}


def _service(module: str) -> Any:
    try:
        return import_module(f"..service.{module}", __package__)
    except ImportError as error:
        raise BackendError(
            f"the service needs more than the base install: {error}",
            advice=f"install it with: {install_line('service')}",
        ) from error


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _only_this_machine(host: str) -> bool:
    if re.fullmatch(r"localhost|unix:.*", host):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name_to_open(host: str) -> str:
    """What to write into a browser for an address to listen on: for all of them, the one that leads out of here."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return f"[{host}]" if address.version == 6 else host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_ELSEWHERE)  # sends nothing, but chooses the interface
        except OSError:
            return socket.gethostname()
        name: str = probe.getsockname()[0]
        return name
