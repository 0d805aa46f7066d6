"""``fracbnn camera``: say what a camera or a video shows, as it comes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import click
import numpy as np
from click.core import ParameterSource

from ..camera import Camera, Frame
from ..classifier import Classifier, Prediction
from ..display import LONGEST_GAP_IN_VIDEO_S, LONGEST_GAP_S, Recorder, Window, overlay_lines, with_text
from ..errors import CameraError
from ..files import LineFile
from ..stagetimes import STAGES, Histogram, Statistics
from ..streaming import Delivery, Pipeline
from ..text import to_json
from .options import echo, echo_json, echo_table, engine_options, examples, json_option
from .serve import DEFAULT_ADDRESS, listening_address, serve
from .verifying import check_options, finish, verify_options

STDOUT = "-"
STOPPED_BY_SIGNAL = 128
ORDER = (*STAGES[:3], "reading", "network", *STAGES[3:])
"""Stages as they are reported; reading (resizing) and network are parts of inference."""

SERVED = {
    "address": "",
    "model": "",
    **{name: name for name in ("backend", "board", "overlay", "arithmetic", "threads", "verify", "verify_report")},
    "source": "camera",
    **{name: f"camera_{name}" for name in ("width", "height", "fps", "fourcc")},
}
"""The options that go with --serve, and the service's settings for them."""

Result: TypeAlias = Delivery[Frame, Prediction]


@click.command(
    epilog=examples(
        "fracbnn camera",
        "fracbnn camera --source video.mp4 --fast --jsonl labels.jsonl",
        "fracbnn camera --serve 0.0.0.0:8000",
    )
)
@click.option("--source", default="0", show_default=True, help="A camera's number or device, a video file, or a URL.")
@engine_options
@verify_options
@click.option("--top", type=click.IntRange(min=1), default=1, show_default=True, help="How many labels a frame.")
@click.option("--show", is_flag=True, help="Show the frames with their labels in a window; q or Esc ends.")
@click.option("--record", type=click.Path(path_type=Path), help="Write the frames with their labels: .mp4, .mkv, .avi.")
@click.option(
    "--serve",
    "address",
    is_flag=False,
    flag_value=DEFAULT_ADDRESS,
    metavar="[HOST:PORT]",
    help="Show the frames in browsers, as 'fracbnn serve --camera' does: at "
    f"{DEFAULT_ADDRESS}, or 0.0.0.0:8000 for all who reach this machine.",
)
@click.option("--jsonl", help="Write one JSON object a line for each frame to this file, or - for standard output.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after this time.")
@click.option("--fast", is_flag=True, help="Video files: every frame, as fast as it goes, instead of the video's rate.")
@click.option("--width", type=click.IntRange(min=1), help="Ask a camera for this width.")
@click.option("--height", type=click.IntRange(min=1), help="Ask a camera for this height.")
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Ask a camera for this rate.")
@click.option("--fourcc", help="Ask a camera for this encoding, such as MJPG, which USB cameras need for high rates.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    source: str,
    top: int,
    show: bool,
    record: Path | None,
    address: str | None,
    jsonl: str | None,
    seconds: float | None,
    fast: bool,
    width: int | None,
    height: int | None,
    fps: float | None,
    fourcc: str | None,
    as_json: bool,
    verify_report: Path | None,
    **engine: Any,
) -> None:
    """Say what a camera or a video shows, as it comes.

    A frame that still waits when the next one comes is dropped, so the labels are always of now. A camera that
    disappears is opened again. Ctrl-C and SIGTERM finish the recording and the report, and give exit status 130 and
    143; a second one ends at once. At the end: rates, dropped frames, latency and where the time went, on standard
    output, or on standard error where that has the --jsonl lines.
    """
    check_options(engine["verify"], verify_report)
    if address is not None:
        _serve(context, address)
        return
    for output in (record, jsonl):
        _refuse_overwriting(source, output)
    with ExitStack() as stack:
        classifier = stack.enter_context(Classifier.load(**engine, verify_all=False))
        camera = stack.enter_context(Camera(source, width=width, height=height, fps=fps, fourcc=fourcc, fast=fast))
        lines = _lines(stack, jsonl)
        pipeline = Pipeline(
            camera,
            lambda frame: classifier.classify(frame.image, top, bgr=True),
            drop=camera.live or not fast,
            interrupt=camera.stop,
        )
        classifier.classify(np.zeros((2, 2, 3), np.uint8))  # first use loads modules and allocates
        watch = Watch(pipeline.statistics)
        says = sys.stderr.isatty() or (jsonl is None and not as_json)  # else the labels are in the JSON
        receivers: list[Callable[[Result], None]] = [watch.note]
        if lines is not None:
            receivers.append(partial(_write_line, lines))
        if record is not None or show:
            recorder = _recorder(stack, record, camera)
            window = stack.enter_context(Window(f"fracbnn: {camera.name}")) if show else None
            receivers.append(partial(_view, watch, recorder, window, pipeline.stop))
        signals = stack.enter_context(_stopping(pipeline.stop))
        pipeline.run(
            lambda result: _to_all(receivers, result),
            seconds=seconds,
            tick=watch.echo_line if says else None,
        )
        if says and not watch.said:  # a video may end before the first line is due
            watch.echo_line()
        about: dict[str, Any] = {
            "source": camera.name,
            "stated_fps": camera.fps,
            "outages": camera.outages,
            "network": classifier.network.name,
            "backend": classifier.backend,
            "arithmetic": classifier.arithmetic,
        }
        verified = finish(classifier, verify_report, say=not as_json)
        if verified is not None:
            about["verification"] = verified
    with redirect_stdout(sys.stderr) if jsonl == STDOUT else nullcontext():
        _echo_report({**about, **watch.as_data()}, as_json=as_json)
    if signals:
        sys.exit(STOPPED_BY_SIGNAL + signals[0])


def _serve(context: click.Context, address: str) -> None:
    """The service, with the camera always open. What only this command does cannot be had of it."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name not in SERVED and context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(
                f"--serve: expected nothing else that is done with frames, found {parameter.opts[0]}"
            )
    values = {setting: context.params[name] for name, setting in SERVED.items() if setting}
    models = (context.params["model"],) if context.params["model"] else ()
    serve({**values, "models": models, "camera_always": True}, **listening_address(address))


class Watch:
    """What a person watching the stream wants to know."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics
        self._parts = {"reading": Histogram(), "network": Histogram()}
        self._counts = [0, 0, 0]
        self._since = time.perf_counter()
        self._latest: Result | None = None
        self.said = False

    def note(self, result: Result) -> None:
        """Take in a result."""
        self._latest = result
        self._parts["reading"].add(result.result.timings["read"] / 1e3)
        self._parts["network"].add(result.result.timings["infer"] / 1e3)

    def echo_line(self) -> None:
        """One line about the time since the last: on stderr."""
        counters = self._statistics.captured, self._statistics.classified, self._statistics.delivered
        counts, now = [counter.count for counter in counters], time.perf_counter()
        rates = [(count - before) / (now - self._since) for count, before in zip(counts, self._counts, strict=True)]
        parts = [f"{name} {rate:.1f}/s" for name, rate in zip(("capture", "infer", "deliver"), rates, strict=True)]
        parts.append(f"dropped {self._statistics.dropped}")
        if self._latest is not None and rates[2]:
            prediction = self._latest.result
            parts[:0] = [f"{prediction.label} {prediction.score:.1%}"]
            parts.append(f"latency {(self._latest.inferred - self._latest.captured) * 1e3:.1f} ms")
        echo("  ".join(parts), err=True)
        self._counts, self._since, self.said = counts, now, True

    def lines(self, result: Result) -> list[str]:
        """Text for a frame: labels, and how fast it goes."""
        latency = (result.inferred - result.captured) * 1e3
        return overlay_lines(result.result.top, self._statistics.delivered.rate, latency)

    def as_data(self) -> dict[str, Any]:
        """All that was measured; ``reading`` and ``network`` are parts of ``inference``."""
        data = self._statistics.as_data()
        data["milliseconds"].update({name: times.as_data() for name, times in self._parts.items()})
        return data


def _refuse_overwriting(source: str, output: str | Path | None) -> None:
    if output is not None and os.path.isfile(source) and os.path.exists(output) and os.path.samefile(output, source):
        raise click.UsageError(f"{output}: expected another file than the source, which would be overwritten")


def _lines(stack: ExitStack, name: str | None) -> Callable[[str], None] | None:
    """What writes a line to where --jsonl says."""
    if name is None:
        return None
    return click.echo if name == STDOUT else stack.enter_context(LineFile(Path(name), CameraError)).write


def _recorder(stack: ExitStack, path: Path | None, camera: Camera) -> Recorder | None:
    if path is None:
        return None
    gap = LONGEST_GAP_S if camera.live else LONGEST_GAP_IN_VIDEO_S
    return stack.enter_context(Recorder(path, camera.fps, gap))


def _to_all(receivers: list[Callable[[Result], None]], result: Result) -> None:
    for receive in receivers:
        receive(result)


def _write_line(write: Callable[[str], None], result: Result) -> None:
    frame, prediction = result.frame, result.result
    data = {
        "frame": frame.index,
        "time": round(frame.time, 6),
        **prediction.as_dict(),
        "latency_ms": round((result.inferred - result.captured) * 1e3, 3),
    }
    write(to_json(data))


def _view(
    watch: Watch, recorder: Recorder | None, window: Window | None, stop: Callable[[], None], result: Result
) -> None:
    marked = with_text(result.frame.image, watch.lines(result))
    if recorder is not None:
        recorder.write(marked, result.frame.time)
    if window is not None and not window.show(marked):
        stop()


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM call ``stop``, a second raise KeyboardInterrupt; gives the signals received."""
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        stop()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    try:
        for number in heeded:
            signal.signal(number, handle)
        yield received
    finally:
        for number in heeded:
            signal.signal(number, before[number])


def _echo_report(data: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        echo_json(data)
        return
    echo(
        f"{data['source']}: {data['stated_fps']:g} frames/s stated; {data['network']} on {data['backend']}, "
        f"arithmetic {data['arithmetic']}"
    )
    if data["outages"]:
        echo(f"disappeared {data['outages']} times")
    rates = data["per_second"]
    rows = [[name, str(data[name]), f"{rate:.1f}/s"] for name, rate in rates.items()]
    echo_table([["FRAMES", "", ""], *rows, *([name, str(data[name]), ""] for name in ("dropped", "unfinished"))])
    rows = [
        [
            "  " * (name in ("reading", "network")) + name,
            *(f"{value:.2f}" for value in data["milliseconds"][name].values()),
        ]
        for name in ORDER
    ]
    echo_table([["MILLISECONDS", "mean", "p50", "p99", "max"], *rows])
