"""What the gateway's msgspec classes inherit: each base has the options that its name stands for.

A class statement's own options are lost where its module is compiled (docs/decisions/0008), inherited ones are not;
`frozen` and `eq` are said again at each class, for the type checker.
"""

from msgspec import Struct


class Frozen(Struct, frozen=True, gc=False):
    """A value; it must not be part of a reference cycle, for the collector does not know it."""


class Record(Struct, gc=False):
    """Filled in over time; as `Frozen`, in no cycle."""


class Handle(Struct, frozen=True, eq=False):
    """Equal to nothing but itself, so that it can be a key at little cost."""
