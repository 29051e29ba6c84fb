"""The operator's listener, in the gateway's parent: /livez, /readyz and /metrics."""

from pathlib import Path

from aiohttp import web

from weighbridge.gateway.metrics.figures import prometheus_text, read_figures


class Probes:
    def __init__(self, run: Path) -> None:
        self._run = run

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/livez":
            return web.Response(text="ok\n")
        workers = read_figures(self._run)
        if request.path == "/readyz":
            if any(figures.ready for figures in workers):
                return web.Response(text="ready\n")
            return web.Response(status=503, text="no worker has loaded its tables yet\n")
        if request.path == "/metrics":
            return web.Response(
                body=prometheus_text(workers).encode(),
                headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
            )
        return web.Response(status=404, content_type="text/plain")
