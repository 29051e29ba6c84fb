"""How long lists are cut into pages."""

from typing import Annotated

from fastapi import Query

from weighbridge.errors import InvalidError

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 200
TOKEN_CHARACTERS_MAX = 64

PageSize = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX, description="Items of one page at most.")]
PageToken = Annotated[
    str | None,
    Query(
        max_length=TOKEN_CHARACTERS_MAX,
        description="next_page_token of the page before; the other parameters stay the same.",
    ),
]


def bad_token() -> InvalidError:
    return InvalidError(
        "page_token is not one of this list; begin again without it.",
        code="invalid_page_token",
        param="page_token",
    )
