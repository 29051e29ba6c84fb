"""The gateway beside other proxies: what a request and an event cost, how late they come, whether memory stays flat."""
