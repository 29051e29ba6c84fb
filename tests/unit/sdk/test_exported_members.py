"""What the package offers is what it says it offers."""

import inspect

from weighbridge import sdk
from weighbridge.sdk import errors


def test_exported_members_are_sorted_and_exist():
    assert sdk.__all__ == sorted(sdk.__all__)
    assert all(hasattr(sdk, name) for name in sdk.__all__)


def test_every_error_is_exported():
    tree = {
        name
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.ClientError)
    }
    assert tree <= set(sdk.__all__)


def test_every_error_is_drawn_in_the_tree():
    drawn = errors.__doc__
    for name, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.ClientError):
            assert name in drawn
