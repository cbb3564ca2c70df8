"""Who is served first: what the scheduler asks of a policy.

A policy keeps the waiting requests in its order and ranks the running ones. It decides nothing else: the
scheduler admits the first in line once there is room for it (nobody overtakes it, so that a large request
does not starve), and when blocks run out the running request of the highest rank gives way. Where a policy is
preemptive, running requests also give way to one that waits and outranks them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from tokenwire_engine.scheduler.fair import FairShare
from tokenwire_engine.scheduler.fcfs import FirstComeFirstServed
from tokenwire_engine.scheduler.priority import Priority
from tokenwire_engine.scheduler.request import Request


class Policy(Protocol):
    """Orders requests. Each is added when it arrives, and again whenever it had to give way."""

    is_preemptive: bool
    """Whether `outranks` is ever true."""

    def add(self, request: Request, ahead: bool) -> None:
        """A request waits: behind those that it is equal to or, as one that waited before, ahead of them."""

    def remove(self, request: Request) -> None:
        """A waiting request was admitted, was set aside, or has ended."""

    def first(self) -> Request | None:
        """The waiting request to admit next."""

    def rank(self, request: Request) -> Any:
        """What to compare running requests by: the highest gives way first. Total: no two are equal."""

    def outranks(self, waiting: Request, running: Request) -> bool:
        """Whether one that runs gives way to one that waits, if that has no room otherwise."""

    def admitted(self, request: Request, num_tokens: int) -> None:
        """A request runs for the first time, with this many known tokens to compute."""

    def generated(self, requests: Iterable[Request]) -> None:
        """Each of these requests got a token."""


def make_policy(name: str) -> Policy:
    """The policy called `fcfs`, `priority` or `fair`.

    Raises:
        KeyError: for another name.
    """
    policies: dict[str, type[Policy]] = {
        "fcfs": FirstComeFirstServed,
        "priority": Priority,
        "fair": FairShare,
    }
    return policies[name]()
