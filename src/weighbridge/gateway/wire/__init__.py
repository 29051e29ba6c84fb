"""HTTP/1.1 on sockets: heads, bodies, connections of callers and to upstreams; nothing of inference in it."""
