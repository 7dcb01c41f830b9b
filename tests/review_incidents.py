"""What goes wrong in the month: fourteen incidents, one of each kind; the seed varies who, when and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from review_habits import (
    MEGABYTE,
    delete_runs,
    download,
    guess,
    look_through,
    script,
    train,
    try_forbidden,
    visit,
)
from review_month import EXPERIMENTS, Month
from review_world import ABROAD, HOUR, OFFICE, At, User, browser, by_browser, by_token

from proxy.identity import Credential, Role

FORBIDDEN = [
    ("POST", "/api/2.0/mlflow/runs/create"),
    ("POST", "/api/2.0/mlflow/runs/delete"),
    ("POST", "/api/2.0/mlflow/experiments/delete"),
    ("POST", "/api/2.0/mlflow/runs/set-tag"),
    ("DELETE", "/api/2.0/mlflow/registered-models/delete"),
    ("GET", "/ajax-api/3.0/mlflow/gateway/secrets/list"),
    ("POST", "/api/2.0/mlflow/webhooks"),
    ("POST", "/api/2.0/mlflow/experiments/update"),
]


@dataclass(frozen=True)
class Incident:
    """What the review has to find: its kind, whom or what it is about, and when (Unix time)."""

    kind: str
    about: frozenset[str]
    begin: float
    end: float


@dataclass
class Bad:
    """A month with incidents in it."""

    seed: int
    incidents: list[Incident] = field(default_factory=list)

    def build(self) -> Month:
        self.month = month = Month(self.seed)
        self.chance = chance = month.random
        editors = [user for index, user in enumerate(month.people) if index in range(14, 30)]
        self.victims = chance.sample(editors, 8)
        month.kept_free = {user.name for user in self.victims}
        self._server()
        month.build()
        stolen, tool, guessed, leaver, wiper, reader, sleeper, twice = self.victims
        self._new_network(stolen)
        self._new_agent(tool)
        self._refusals()
        self._guessing()
        self._success(guessed)
        self._downloads(leaver)
        self._deletions(wiper)
        self._experiments(reader)
        self._hours(sleeper)
        self._two_networks(twice)
        self._silence(tool)
        self._forbidden(month.people[chance.choice((5, 6, 7, 8))])
        return month

    def _when(self, user: User | None = None, hour: float | None = None, first: int = 10) -> float:
        """On a working day, at that hour of the user's clock, or at some hour of their work."""
        chance, month = self.chance, self.month
        days = [day for day in range(first, 28) if month._weekday(day) < 5]
        zone = 0.0 if user is None else user.zone
        at = chance.uniform(10, 15) if hour is None else hour
        return month.day(chance.choice(days), at - zone)

    def _abroad(self) -> str:
        return self.month.world.within(ABROAD)

    def _usual(self, user: User) -> str:
        return OFFICE[0] if self.month.people.index(user) % 5 != 4 else self.month.home(user)

    def _note(self, kind: str, begin: float, end: float, *about: str | User) -> None:
        names = frozenset(each.name if isinstance(each, User) else each for each in about)
        self.incidents.append(Incident(kind, names, begin, end))

    def _new_network(self, user: User) -> None:
        """A password or a session is used by somebody else, elsewhere, in their own browser."""
        at, address = self._when(user, self.chance.uniform(0, 24)), self._abroad()
        kinds = [
            kind
            for kind in ("firefox/windows", "chrome/android", "edge/mac", "chrome/linux")
            if kind != user.kind
        ]
        agent = browser(self.chance.choice(kinds), self.chance.randrange(120, 139))
        source = by_browser(user, address, agent)
        end = visit(self.month.world, at, source, user.experiments, self.chance.randrange(5, 20))
        self._note("new-network", at, end, user)

    def _new_agent(self, user: User) -> None:
        """A token is used from where its owner works, with a tool that nobody uses here."""
        at = self._when(user)
        agent = self.chance.choice(
            ("rclone/v1.66.0", "Wget/1.24.5", "aria2/1.37.0", "okhttp/4.12.0", "libwww-perl/6.77")
        )
        source = by_token(user, self._usual(user), agent)
        end = script(self.month.world, at, source, user.experiments, self.chance.randrange(10, 60))
        self._note("new-agent", at, end, user)

    def _refusals(self) -> None:
        """Somebody sends passwords from one address."""
        at, address = self.month.day(self.chance.randrange(8, 28), self.chance.uniform(0, 24)), self._abroad()
        agent = self.chance.choice(("curl/8.5.0", "python-requests/2.31.0", browser("chrome/windows", 138)))
        source = At(None, address, agent)
        end = guess(
            self.month.world, at, source, self.chance.randrange(150, 400), self.chance.uniform(0.5, 3)
        )
        self._note("refusals", at, end, address)

    def _guessing(self) -> None:
        """Passwords are tried at many names: on the sign-in page, or from many addresses a few each."""
        chance, world = self.chance, self.month.world
        at = begin = self.month.day(chance.randrange(8, 28), chance.uniform(0, 24))
        if chance.random() < 0.5:
            address = self._abroad()
            source = At(None, address, browser("chrome/windows", 137))
            for user in chance.sample(self.month.people, chance.randrange(8, 20)):
                for _ in range(chance.randrange(1, 3)):
                    at += chance.uniform(20, 120)
                    world.ask(at, source, "POST", "/oauth2/sign_in", status=403, refusal="unauthenticated")
                    world.event(
                        at, "sign_in_refused", source, "refused", user.name, way="password", reason="wrong"
                    )
            self._note("guessing", begin, at, address)
            return
        for _ in range(chance.randrange(20, 60)):
            address = f"{chance.randrange(100, 200)}.{chance.randrange(256)}.{chance.randrange(256)}.9"
            start = begin + chance.uniform(0, 0.8 * HOUR)
            at = max(
                at,
                guess(world, start, At(None, address, "python-requests/2.31.0"), chance.randrange(2, 5), 5),
            )
        self._note("guessing", begin, at, "")

    def _success(self, user: User) -> None:
        """A password is guessed at last; slowly, from abroad, or by somebody in the office."""
        chance, world = self.chance, self.month.world
        at = begin = self._when(user)
        address, agent = self._abroad(), "python-requests/2.31.0"
        if chance.random() < 0.3:
            address, agent = OFFICE[0], "libcurl/8.6"
        at = guess(world, at, At(None, address, agent), chance.randrange(25, 60), 20)
        source = At(user, address, agent, "basic")
        end = script(world, at + 5, source, user.experiments, 10)
        self._note("success-after-failures", begin, end, user)

    def _downloads(self, user: User) -> None:
        """Somebody takes all with them."""
        chance, world = self.chance, self.month.world
        at = begin = self._when(user)
        source = by_token(user, self._usual(user))
        many = chance.random() < 0.6
        for _ in range(chance.randrange(700, 2500) if many else chance.randrange(60, 90)):
            size = chance.randrange(60 * MEGABYTE) if many else chance.randrange(2000, 6000) * MEGABYTE
            at = download(world, at, source, chance.choice(EXPERIMENTS), world.hex(), size)
        self._note("downloads", begin, at, user)

    def _deletions(self, user: User) -> None:
        at = begin = self._when(user)
        if self.chance.random() < 0.4:
            user = self.month.people[self.chance.randrange(2)]
            source = by_browser(user, self._usual(user))
            for _ in range(self.chance.randrange(20, 60)):
                at += self.chance.uniform(1, 10)
                self.month.world.ask(at, source, "POST", "/api/2.0/mlflow/experiments/delete", sent=2)
            self._note("deletions", begin, at, user)
            return
        source = by_token(user, self._usual(user))
        at = delete_runs(self.month.world, at, source, self.chance.randrange(170, 500))
        self._note("deletions", begin, at, user)

    def _experiments(self, user: User) -> None:
        at, source = self._when(user), by_token(user, self._usual(user))
        if self.chance.random() < 0.5:
            source = by_browser(user, self._usual(user))
        which = self.chance.sample(EXPERIMENTS, self.chance.randrange(100, 160))
        end = look_through(self.month.world, at, source, which, self.chance.uniform(1, 12))
        self._note("experiments", at, end, user)

    def _hours(self, user: User) -> None:
        """From the usual place, in the usual browser, in the middle of the night."""
        at = self._when(user, self.chance.uniform(1.5, 3.5))
        source = by_browser(user, self.month.home(user))
        end = visit(self.month.world, at, source, user.experiments, self.chance.randrange(8, 25))
        self._note("hours", at, end, user)

    def _two_networks(self, user: User) -> None:
        """A token is used by its owner and at the same time by somebody elsewhere, with the same client."""
        at, world = self._when(user), self.month.world
        mine = train(world, at, by_token(user, self._usual(user)), "3", 40, 15)
        theirs = at + 60
        source = by_token(user, self._abroad())
        while theirs < mine:
            theirs = script(world, theirs, source, user.experiments, 3) + self.chance.uniform(20, 90)
        self._note("two-networks", at, theirs, user)

    def _silence(self, user: User) -> None:
        """A token from a project that is over is found again."""
        token = Credential(self.month.world.hex(16), "old project")
        for day in range(4):
            at = self.month.day(day, 13)
            train(self.month.world, at, by_token(user, "10.40.3.77", token=token), "2", 6)
        at = self.month.day(self.chance.randrange(25, 29), self.chance.uniform(8, 16))
        address = self.chance.choice((OFFICE[0], self._abroad()))
        source = by_token(user, address, "curl/8.5.0", token=token)
        end = script(self.month.world, at, source, user.experiments, self.chance.randrange(4, 30))
        self._note("silence", at, end, user)

    def _forbidden(self, user: User) -> None:
        assert user.role is Role.VIEWER
        asks = self.chance.sample(FORBIDDEN, self.chance.randrange(5, 9))
        at, here = self._when(user), self._usual(user)
        source = by_browser(user, here) if self.chance.random() < 0.5 else by_token(user, here)
        end = try_forbidden(self.month.world, at, source, asks, self.chance.uniform(2, 60))
        self._note("forbidden", at, end, user)

    def _server(self) -> None:
        """An operation fails often, and another is slow, each for an hour or two of a working day."""
        chance, world = self.chance, self.month.world
        first, second = chance.sample(("search-runs", "log-batch", "get-run"), 2)
        at = self._when(hour=chance.uniform(9, 13))
        end = at + chance.uniform(1.5, 2.5) * HOUR
        world.broken.append((at, end, chance.uniform(0.25, 0.7), first))
        self._note("errors", at, end, first)
        at = self._when(hour=chance.uniform(9, 13))
        end = at + chance.uniform(1.5, 2.5) * HOUR
        world.slow.append((at, end, chance.uniform(10, 25), second))
        self._note("latency", at, end, second)
