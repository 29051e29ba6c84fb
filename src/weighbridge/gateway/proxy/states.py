"""The states of an inference request, and which may follow which."""

from enum import IntEnum
from typing import Final


class State(IntEnum):
    ACCEPTED = 0
    """The caller is known; the body is not read yet."""
    WAITING = 1
    """It stands in the endpoint's line, or is held until a replica is ready."""
    ASKED = 2
    """A replica has the request; nothing has come back."""
    WHOLE = 3
    """Its answer is being read to the end."""
    REFUSAL = 4
    """So is its refusal."""
    PROVING = 5
    """Its stream has begun; nothing of it has reached the caller, so another replica may still be asked (G3)."""
    STREAMING = 6
    DONE = 7


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.ACCEPTED: frozenset({State.WAITING, State.ASKED, State.DONE}),
    State.WAITING: frozenset({State.ASKED, State.DONE}),
    State.ASKED: frozenset(
        {
            State.WAITING,
            State.ASKED,
            State.WHOLE,
            State.REFUSAL,
            State.PROVING,
            State.DONE,
        }
    ),
    State.WHOLE: frozenset({State.WAITING, State.ASKED, State.DONE}),
    State.REFUSAL: frozenset({State.WAITING, State.ASKED, State.DONE}),
    State.PROVING: frozenset({State.WAITING, State.ASKED, State.STREAMING, State.DONE}),
    State.STREAMING: frozenset({State.DONE}),
    State.DONE: frozenset(),
}
