"""The same forwarding on aiohttp's server and client: keys, model lookup, least load, the model's name rewritten.

No checks of the body, no limits, no usage: what the framework alone costs.
"""

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from weighbridge.routing.files import read_snapshot
from weighbridge.routing.model import EndpointRoute, KeyTable, ReplicaRoute, RouteTable
from weighbridge.routing.tokens import key_digest, load_pepper
from weighbridge.settings import DataDir

BODY_BYTES_MAX = 16 * 1024 * 1024


@dataclass
class Site:
    pepper: bytes
    keys: frozenset[str]
    endpoints: dict[str, EndpointRoute]
    session: ClientSession
    in_flight: dict[str, int] = field(default_factory=dict)

    async def forward(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key_digest(self.pepper, key).hex() not in self.keys:
            raise web.HTTPUnauthorized
        body = json.loads(await request.read())
        endpoint = self.endpoints.get(body["model"])
        if endpoint is None:
            raise web.HTTPNotFound
        replica = self.least_loaded(endpoint)
        body["model"] = replica.served_name
        self.in_flight[replica.replica_id] = self.in_flight.get(replica.replica_id, 0) + 1
        try:
            return await self.relay(request, endpoint, replica, json.dumps(body).encode())
        finally:
            self.in_flight[replica.replica_id] -= 1

    def least_loaded(self, endpoint: EndpointRoute) -> ReplicaRoute:
        return min(
            endpoint.replicas,
            key=lambda one: (self.in_flight.get(one.replica_id, 0), random.random()),
        )

    async def relay(
        self, request: web.Request, endpoint: EndpointRoute, replica: ReplicaRoute, body: bytes
    ) -> web.StreamResponse:
        served, shown = replica.served_name.encode(), endpoint.endpoint_id.encode()
        async with self.session.post(
            f"{replica.url}{request.path}", data=body, headers={"Content-Type": "application/json"}
        ) as answer:
            kind = answer.headers["Content-Type"]
            if not kind.startswith("text/event-stream"):
                content = (await answer.read()).replace(served, shown)
                return web.Response(
                    status=answer.status, body=content, headers={"Content-Type": kind}
                )
            stream = web.StreamResponse(headers={"Content-Type": kind})
            await stream.prepare(request)
            async for chunk in answer.content.iter_any():
                await stream.write(chunk.replace(served, shown))
            await stream.write_eof()
            return stream


async def app(paths: DataDir) -> web.Application:
    keys = read_snapshot(paths.keys_file, KeyTable)
    routes = read_snapshot(paths.routes_file, RouteTable)
    assert keys is not None
    assert routes is not None
    site = Site(
        load_pepper(paths.secrets),
        frozenset(entry.digest for entry in keys.keys),
        {entry.endpoint_id: entry for entry in routes.endpoints},
        ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None)),
    )
    made = web.Application(client_max_size=BODY_BYTES_MAX)
    made.router.add_post("/v1/chat/completions", site.forward)
    return made


if __name__ == "__main__":
    uvloop.install()
    web.run_app(
        app(DataDir(Path(sys.argv[1]))),
        host="127.0.0.1",
        port=int(sys.argv[2]),
        print=None,
        access_log=None,
    )
