"""What the tests of a gateway share: where it is, how tests are registered, sessions that are checked for what broke."""

import os
import time

from fluxar_client import Failed, connect

TEST_S = 60.0
INVALID_ARGUMENT, DEADLINE, ALREADY, EXHAUSTED, PRECONDITION, UNIMPLEMENTED, UNAVAILABLE, CANCELLED = 3, 4, 6, 8, 9, 12, 14, 1
ABORTED, OUT_OF_RANGE, DATA_LOSS = 10, 11, 15

URLS = {}  # "tcp" | "unix" | "ws" → address
TESTS = []  # (name, coroutine function without arguments)
_topics = 0


def topic():
    """The first token of topics and methods that no other test uses."""
    global _topics
    _topics += 1
    return f"t{os.getpid():x}-{_topics}-{time.time_ns() & 0xFFFFFF:x}"


def test(function):
    """Runs once, over the first transport that is there."""
    TESTS.append((function.__name__, lambda: function(next(iter(URLS.values())))))
    return function


def everywhere(function):
    """Runs over each transport."""
    function.is_everywhere = True
    TESTS.append((function.__name__, function))
    return function


class session:
    """`async with session(url) as a`, or `session(url, 3) as (a, b, c)`: closed at the end, checked for what broke."""

    def __init__(self, *urls, count=None, form="compact", **hello):
        self.urls, self.form, self.hello = urls * (count or 1), form, hello
        self.is_single = len(self.urls) == 1

    async def __aenter__(self):
        self.peers = [await connect(url, self.form, **self.hello) for url in self.urls]
        return self.peers[0] if self.is_single else self.peers

    async def __aexit__(self, kind, *_):
        for peer in self.peers:
            await peer.close()
            if kind is None and peer.broken:
                raise peer.broken


def equal(found, expected, what="value"):
    assert found == expected, f"{what}: {found!r}, expected {expected!r}"


async def fails(code, awaitable):
    try:
        found = await awaitable
    except Failed as error:
        equal(error.code, code, f"code of {error}")
        return error.error
    raise AssertionError(f"no error but {found!r}")


def ids_of(kind, messages):
    return [message.ref for message in messages if message.type == kind]
