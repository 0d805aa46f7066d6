"""``fracbnn bulk``."""

from __future__ import annotations

import contextlib
import logging
import sys
import uuid
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from ..cpus import MOST_THREADS, usable_cpus
from ..errors import BackendError
from ..extras import install_line
from ..modelfile import dump_model, model_digest
from ..models import chosen_model, find_model
from ..selection import default_model, planned_backend
from ..text import printable
from . import INPUT_AT_FAULT
from .options import (
    arithmetic_option,
    backend_option,
    board_option,
    echo,
    echo_json,
    echo_table,
    examples,
    json_option,
    overlay_option,
)

if TYPE_CHECKING:
    from ..bulk.items import Item
    from ..bulk.run import Summary
    from ..bulk.sources import Source

PICTURES = 512
SHOWN = 10
"""Pictures that cannot be read and are named; the others are counted."""
TOP = 5


@click.command(
    epilog=examples(
        "fracbnn bulk archive.tar photos/ --out labels.parquet",
        "fracbnn bulk images.parquet --column image --model imagenet-calibrated --logits --out labels.parquet",
        "fracbnn bulk /data/archive.tar --scheduler tcp://10.0.0.1:8786 --out labels.parquet",
        "fracbnn bulk photos/ --scheduler tcp://10.0.0.1:8786 --send --backend overlay --out labels.parquet",
    )
)
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write, labels.parquet.")
@click.option("--scheduler", metavar="ADDRESS", help="A cluster's scheduler, tcp://HOST:PORT. [default: this machine]")
@click.option("--workers", type=click.IntRange(1, MOST_THREADS), help="Worker processes here. [default: one a core]")
@click.option("--send", is_flag=True, help="Send workers the pictures; else they open them under the same paths.")
@click.option(
    "--column", metavar="NAME", help="A Parquet file's column with pictures or paths. [default: the only one]"
)
@click.option("--logits", is_flag=True, help="Write every picture's logits, too.")
@click.option(
    "--partition",
    type=click.IntRange(1, 100_000),
    default=PICTURES,
    show_default=True,
    help="Pictures of a task, and of a file of the output, at most; large pictures are fewer.",
)
@click.option("--model", help="A model's name (see 'fracbnn models') or file. [default: cifar10]")
@backend_option
@board_option
@overlay_option
@arithmetic_option
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of each worker's CPU engine."
)
@json_option
def command(
    sources: tuple[Path, ...],
    *,
    out: Path,
    scheduler: str | None,
    workers: int | None,
    send: bool,
    column: str | None,
    logits: bool,
    partition: int,
    model: str | None,
    backend: str,
    board: str,
    overlay: str,
    arithmetic: str,
    threads: int,
    as_json: bool,
) -> None:
    """Label an archive of pictures, on all cores or on a cluster (dask.distributed).

    A SOURCE is a folder, a picture, a tar archive (.tar, .tar.gz, .tgz) or a Parquet file with a column of encoded
    pictures or of paths. The output is a folder of Parquet files. A run that was stopped goes on where it was when the
    same command is given again. Exit status 2 if any picture could not be read; its row has the error.
    """
    if scheduler is not None and workers is not None:
        raise click.UsageError("--workers: expected it without --scheduler, whose cluster has its own workers")
    _require()
    # What _require() looks for is needed from here on.
    from ..bulk.cluster import local_cluster, remote_cluster, set_log_level  # noqa: PLC0415
    from ..bulk.dataset import LabelDataset  # noqa: PLC0415
    from ..bulk.run import label_all, prepared  # noqa: PLC0415
    from ..bulk.sources import open_sources  # noqa: PLC0415
    from ..bulk.tasks import Settings  # noqa: PLC0415

    name = str(chosen_model(model, default_model(overlay)))
    loaded = find_model(name)
    here = scheduler is None
    plan, board = planned_backend(
        loaded, backend=backend, board=board, overlay=overlay, arithmetic=arithmetic, model_name=name, here=here
    )
    boards = plan == "overlay"
    verbose = logging.getLogger().isEnabledFor(logging.INFO)
    set_log_level(logging.INFO if verbose else logging.CRITICAL)  # what matters of them is said as errors
    with contextlib.ExitStack() as resources:
        found = open_sources(sources, column)
        dataset = resources.enter_context(LabelDataset(out, loaded.classes, logits=logits))
        settings = Settings(
            key=uuid.uuid4().hex[:12],
            model=dump_model(loaded),
            model_name=name,
            backend=plan,
            board=board,
            overlay=overlay,
            arithmetic=arithmetic,
            threads=threads,
            top=min(TOP, len(loaded.classes)),
            logits=logits,
            seen=() if send or here else tuple((str(each.path), each.identity.get("size")) for each in found),
        )
        cluster = (
            remote_cluster(scheduler)
            if scheduler is not None
            else local_cluster(_local_workers(workers, plan, board), boards=boards, verbose=verbose)
        )
        client = resources.enter_context(cluster)
        computes = resources.enter_context(prepared(client, settings, boards=boards))
        dataset.agree(
            {
                "sources": [each.identity for each in found],
                "model": {"network": loaded.network.name, "digest": model_digest(loaded)},
                "arithmetic": computes.arithmetic,
                "partition": partition,
                "logits": logits,
            }
        )
        with _Progress(found) as progress:
            summary = label_all(
                client,
                found,
                dataset,
                key=settings.key,
                arithmetic=computes.arithmetic,
                most=partition,
                send=send,
                boards=boards,
                note=progress.note,
            )
    about = {"model": name, "backend": computes.backend, "arithmetic": computes.arithmetic}
    _report(out, about, summary, as_json)
    if summary.errors:
        sys.exit(INPUT_AT_FAULT)


def _require() -> None:
    missing = [name for name in ("distributed", "pyarrow") if find_spec(name) is None]
    if missing:
        raise BackendError(
            f"fracbnn bulk: expected the packages of the extra bulk, found no {' and no '.join(missing)}",
            advice=f"install it with: {install_line('bulk')}",
        )
    try:
        import pyarrow  # noqa: F401, PLC0415 - its import may fail
    except ImportError as error:
        raise BackendError(
            f"fracbnn bulk: expected pyarrow to work here, found: {error}",
            advice=f"install one that does: {install_line('bulk')}",
        ) from None


def _local_workers(workers: int | None, plan: str, board: str) -> int:
    if plan != "overlay" or board == "simulated":  # of which each process has its own
        return workers or usable_cpus()
    if workers not in (None, 1):
        raise BackendError(f"--workers: expected 1, as this machine has one board, found {workers}")
    return 1


class _Progress:
    """A bar, and the first pictures that could not be read."""

    def __init__(self, sources: Sequence[Source]) -> None:
        counts = [source.count for source in sources]
        total = None if None in counts else sum(count or 0 for count in counts)
        self._bar = tqdm(total=total, unit=" pictures", disable=None, leave=False)
        self._named = 0

    def note(self, count: int, errors: Sequence[tuple[Item, str]]) -> None:
        """A partition is done."""
        self._bar.update(count)
        for item, text in errors:
            self._named += 1
            if self._named <= SHOWN:
                name = item.name if item.name.startswith(item.source) else f"{item.source}: {item.name}"
                with tqdm.external_write_mode(file=sys.stderr):
                    echo(f"error: {name}: {text}", err=True)

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._named > SHOWN:
            echo(f"error: and {self._named - SHOWN} more pictures that cannot be read", err=True)


def _report(out: Path, about: dict[str, Any], summary: Summary, as_json: bool) -> None:
    rate = summary.done / summary.seconds if summary.done else 0.0
    workers = sorted(summary.workers.items())
    if as_json:
        echo_json(
            {
                "out": str(out),
                **about,
                "pictures": summary.pictures,
                "errors": summary.errors,
                "partitions": summary.partitions,
                "labelled_now": summary.done,
                "seconds": summary.seconds,
                "pictures_per_s": rate,
                "workers": [
                    {
                        "worker": name,
                        "pictures": each.pictures,
                        "pictures_per_s": each.pictures / each.seconds,
                        "engine_share": each.engine_seconds / each.seconds,
                    }
                    for name, each in workers
                ],
            }
        )
        return
    if workers:
        rows = [
            [
                name,
                str(each.pictures),
                f"{each.pictures / each.seconds:.0f}",
                f"{each.engine_seconds / each.seconds:.0%}",
            ]
            for name, each in workers
        ]
        echo_table([["WORKER", "PICTURES", "pictures/s, a thread", "ENGINE'S SHARE"], *rows])
    before = summary.pictures - summary.done
    echo(
        f"{printable(out)}: {summary.pictures} pictures, {summary.errors} of them unreadable; {about['model']}, "
        f"{about['backend']}, {about['arithmetic']} arithmetic; "
        + (f"{before} were there, " if before else "")
        + f"{summary.done} labelled now, {rate:.0f} pictures/s"
    )
