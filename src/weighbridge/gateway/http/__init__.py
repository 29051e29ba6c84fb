"""The inner proxy on aiohttp: the only part of the gateway that knows a web library."""
