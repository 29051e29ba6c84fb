"""A bounded queue that is fair among keys: each key's requests in order, keys in turn. Pure; no clock, no waiting."""

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(slots=True)
class _Flow(Generic[Item]):
    """What waits of one key, oldest first."""

    items: deque[tuple[Item, int]]
    size_bytes: int = 0


class FairQueue(Generic[Item]):
    """Holds at most `items_max` items of `bytes_max` together. When it overflows, the key that holds most loses
    its newest, so a key that asks little is not pushed out by one that asks much.
    """

    def __init__(self, items_max: int, bytes_max: int) -> None:
        self._items_max = items_max
        self._bytes_max = bytes_max
        self._flows: OrderedDict[str, _Flow[Item]] = OrderedDict()
        self.count = 0
        self.size_bytes = 0

    def push(self, key_id: str, item: Item, size_bytes: int) -> list[Item]:
        """Returns what had to leave for it, which may be the item itself."""
        flow = self._flows.get(key_id)
        if flow is None:
            flow = self._flows[key_id] = _Flow(deque())
        flow.items.append((item, size_bytes))
        self._grow(flow, 1, size_bytes)
        dropped = []
        while self.count > self._items_max or self.size_bytes > self._bytes_max:
            dropped.append(self._drop_newest(key_id))
        return dropped

    def push_front(self, key_id: str, item: Item, size_bytes: int) -> None:
        """Give an item its place back that was popped a moment ago; it is the next again."""
        flow = self._flows.get(key_id)
        if flow is None:
            flow = self._flows[key_id] = _Flow(deque())
        flow.items.appendleft((item, size_bytes))
        self._grow(flow, 1, size_bytes)
        self._flows.move_to_end(key_id, last=False)

    def drop_newest(self, but: Item) -> Item | None:
        """Take out the newest item of the key that holds most items, but never this one; None when it is alone."""
        flows = self._flows.items()
        others = [(len(f.items), key_id) for key_id, f in flows if f.items[-1][0] is not but]
        if not others:
            return None
        key_id = max(others, key=lambda one: one[0])[1]
        return self._take_newest(key_id)

    def pop(self) -> Item | None:
        """The oldest item of the key whose turn it is; that key goes to the end of the line."""
        if not self._flows:
            return None
        key_id, flow = next(iter(self._flows.items()))
        item, size_bytes = flow.items.popleft()
        self._grow(flow, -1, -size_bytes)
        if flow.items:
            self._flows.move_to_end(key_id)
        else:
            del self._flows[key_id]
        return item

    def remove(self, key_id: str, item: Item) -> bool:
        """Take out an item that no longer waits; False when it is not here."""
        flow = self._flows.get(key_id)
        found = None if flow is None else next((p for p in flow.items if p[0] is item), None)
        if flow is None or found is None:
            return False
        flow.items.remove(found)
        self._grow(flow, -1, -found[1])
        if not flow.items:
            del self._flows[key_id]
        return True

    def _drop_newest(self, newcomer: str) -> Item:
        over_bytes = self.size_bytes > self._bytes_max

        def weight(key_id: str) -> tuple[int, bool]:
            flow = self._flows[key_id]
            return (flow.size_bytes if over_bytes else len(flow.items), key_id == newcomer)

        return self._take_newest(max(self._flows, key=weight))

    def _take_newest(self, key_id: str) -> Item:
        flow = self._flows[key_id]
        item, size_bytes = flow.items.pop()
        self._grow(flow, -1, -size_bytes)
        if not flow.items:
            del self._flows[key_id]
        return item

    def _grow(self, flow: _Flow[Item], items: int, size_bytes: int) -> None:
        flow.size_bytes += size_bytes
        self.count += items
        self.size_bytes += size_bytes
