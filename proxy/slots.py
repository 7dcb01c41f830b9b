"""Places in MLflow: so many in all, so many for one user; those that wait get one by turns of users."""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.operations import Operation

PAGES = 16
"""Places for MLflow's static pages, for each of its worker processes: beside all others, because they need no
database, and are to be seen when it is frozen. The threads that the ready check and they use are those that
PROXY_MLFLOW_CONCURRENCY leaves."""


class Outcome(enum.Enum):
    """How a wait for a place ended."""

    IN = "in"
    LATE = "late"
    """Its time was over."""
    GAVE_WAY = "gave_way"
    """It was the newest of the user with the most that wait, and another user's needed its room."""


class Waiter:
    """One request that waits for a place. `done` is set once; of a place that comes with it, the owner has to
    give it back."""

    __slots__ = ("done", "lane", "line")

    def __init__(self, line: _Line, lane: int) -> None:
        self.line = line
        self.lane = lane
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()


class _Line:
    """Those of one user that wait: a browser's requests and programs' take turns, each kind first come first
    served, so that a person's own sweep does not shut out the person."""

    __slots__ = ("lanes", "turn", "user")

    def __init__(self, user: str) -> None:
        self.user = user
        self.lanes: tuple[OrderedDict[Waiter, None], ...] = (OrderedDict(), OrderedDict())
        self.turn = 0

    def __len__(self) -> int:
        return len(self.lanes[0]) + len(self.lanes[1])

    def first(self) -> Waiter:
        lane = self.turn if self.lanes[self.turn] else 1 - self.turn
        self.turn = 1 - lane
        return self.lanes[lane].popitem(last=False)[0]

    def newest(self) -> Waiter:
        """The newest of the longer lane."""
        lane = 0 if len(self.lanes[0]) > len(self.lanes[1]) else 1
        return self.lanes[lane].popitem()[0]


class Slots:
    """So many requests of one kind may be inside MLflow at once, and `per_user` of them of one user.

    A place that becomes free goes to the next user in turn who has not as many as that. The limit holds when
    nobody else waits, too: a request of MLflow's can't be stopped, so the next user's place has to be free
    before that user comes. Where `within` is given, each place here takes one there as well (Hold.place).
    """

    def __init__(self, number: int, per_user: int | None = None, *, within: Slots | None = None) -> None:
        self.number = number
        self.per_user = max(1, min(number, per_user or number))
        self.within = within
        self.used = 0
        self._places: dict[str, int] = {}
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        """Those with someone waiting, the next in turn first. Where places are free, all of these users have
        as many as they may."""

    def enter(self, user: str) -> bool:
        """Take a place at once; False where that can't be."""
        if self.used >= self.number or self._places.get(user, 0) >= self.per_user:
            return False
        self._take(user)
        return True

    def leave(self, user: str) -> None:
        """Give a place back, to whoever is next."""
        self.used -= 1
        left = self._places[user] - 1
        if left:
            self._places[user] = left
        else:
            del self._places[user]
        self._let_in()

    def line_up(self, user: str, *, browser: bool) -> Waiter:
        """Begin to wait, where `enter` said no."""
        line = self._lines.get(user)
        if line is None:
            line = self._lines[user] = _Line(user)
        waiter = Waiter(line, int(browser))
        line.lanes[waiter.lane][waiter] = None
        return waiter

    def forget(self, waiter: Waiter) -> None:
        """End a wait that nobody waits for any more. A place that it had got meanwhile is given back."""
        if waiter.done.done() and not waiter.done.cancelled():
            if waiter.done.result() is Outcome.IN:
                self.leave(waiter.line.user)
            return
        waiter.done.cancel()
        self._remove(waiter)

    def too_late(self, waiter: Waiter) -> None:
        """End a wait because its time is over."""
        if not waiter.done.done():
            waiter.done.set_result(Outcome.LATE)
            self._remove(waiter)

    def make_room(self, user: str) -> bool:
        """Send away the newest request of the user with the most that wait here, for one of `user`, who has
        at least two fewer. False where there is no such user."""
        longest = max(self._lines.values(), key=len, default=None)
        mine = self._lines.get(user)
        if longest is None or len(longest) < (0 if mine is None else len(mine)) + 2:
            return False
        waiter = longest.newest()
        if not waiter.done.done():  # else its client has left in this very step
            waiter.done.set_result(Outcome.GAVE_WAY)
        return True

    def held_up(self, user: str) -> bool:
        """Whether that user has as many places as one may."""
        return self._places.get(user, 0) >= self.per_user

    def waiting(self) -> Counter[str]:
        """How many wait: ``user`` because theirs has as many places as one may, else ``place``."""
        found = Counter({"place": 0, "user": 0})
        for line in list(self._lines.values()):  # copied in one step: another thread asks (metrics.py)
            found["user" if self.held_up(line.user) else "place"] += len(line)
        return found

    def users_held_up(self) -> int:
        """Users with as many places as one may who have more requests waiting."""
        return sum(self.held_up(user) for user in list(self._lines))

    def _take(self, user: str) -> None:
        self.used += 1
        self._places[user] = self._places.get(user, 0) + 1

    def _let_in(self) -> None:
        while self.used < self.number:
            user = next((user for user in self._lines if not self.held_up(user)), None)
            if user is None:
                return
            line = self._lines[user]
            waiter = line.first()
            if len(line):
                self._lines.move_to_end(user)
            else:
                del self._lines[user]
            if not waiter.done.done():  # else its client has left in this very step
                self._take(user)
                waiter.done.set_result(Outcome.IN)

    def _remove(self, waiter: Waiter) -> None:
        line = waiter.line
        line.lanes[waiter.lane].pop(waiter, None)
        if not len(line) and self._lines.get(line.user) is line:
            del self._lines[line.user]


@dataclass(frozen=True, slots=True)
class Places:
    """All kinds of places in MLflow's threads."""

    flask: Slots
    whole: Slots
    """Downloads that MLflow reads into memory whole; a place among those of `flask` goes with each."""
    pages: Slots

    def of(self, operation: Operation) -> Slots | None:
        """What that operation needs; None for one that MLflow's event loop serves without a thread."""
        if operation.native:
            return None
        if operation.name == "ui":
            return self.pages
        return self.whole if operation.answer == "whole" else self.flask

    def used(self) -> Mapping[str, int]:
        """How many are taken, by kind."""
        return {"flask": self.flask.used, "whole": self.whole.used, "pages": self.pages.used}


def places(concurrency: int, workers: int, whole: int, per_user: int | None) -> Places:
    """Places for so many requests in each of so many processes, `whole` of them all downloads of that kind.

    One user may have `per_user` (None: half of them), and half of those for downloads and for pages.
    """
    number = concurrency * workers
    flask = Slots(number, per_user or (number + 1) // 2)
    pages = PAGES * workers
    return Places(flask, Slots(whole, (whole + 1) // 2, within=flask), Slots(pages, pages // 2))
