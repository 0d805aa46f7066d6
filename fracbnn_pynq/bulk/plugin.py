"""How workers learn the settings of a run: once each, also those that come or are started again later."""

from __future__ import annotations

from typing import Any

from distributed import WorkerPlugin

from .tasks import Settings, offer, withdraw


class SettingsPlugin(WorkerPlugin):  # type: ignore[misc, unused-ignore]  # where dask is not installed
    """Offers settings to a worker's tasks; takes them back, with the engine, when the run or the worker ends."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = f"fracbnn-bulk-{settings.key}"

    def setup(self, worker: Any) -> None:
        """Called by dask on each worker."""
        offer(self.settings)

    def teardown(self, worker: Any) -> None:
        """Called by dask where the plugin is taken away or the worker closes."""
        withdraw(self.settings.key)
