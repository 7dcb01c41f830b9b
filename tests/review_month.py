"""A month of a house of 40 users, as nasty as real ones are, for the tests of the review; the seed varies it.

There are vacations, travels, a move, an office that gets another address, DHCP, mobile networks, a VPN, spot
machines with any address of a cloud, new colleagues, new laptops and phones, upgrades, deadlines, forgotten
tabs, tokens that are over, scanners, backups and restarts. None of it is an incident.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Callable

from review_habits import (
    MEGABYTE,
    delete_runs,
    download,
    guess,
    look_through,
    not_let_in,
    script,
    sweep,
    train,
    try_forbidden,
    visit,
)
from review_world import (
    BRANCH,
    CLOUD,
    DAY,
    HOSTED_CI,
    HOTELS,
    HOUR,
    MOBILE,
    OFFICE,
    PROVIDERS,
    VPN,
    At,
    User,
    World,
    browser,
    by_browser,
    by_token,
)

from proxy.identity import Credential, Role

DAYS = 30
NAMES = (
    *(
        "ada",
        "bela",
        "cleo",
        "dora",
        "emil",
        "fritz",
        "gita",
        "hanna",
        "ines",
        "jonas",
        "kira",
        "lars",
        "mona",
    ),
    *(
        "nils",
        "olga",
        "paul",
        "quirin",
        "rosa",
        "selim",
        "tara",
        "umut",
        "vera",
        "wim",
        "xenia",
        "yuki",
        "zoe",
    ),
    *("arda", "bo", "carl", "dana"),
)
KINDS = (
    "chrome/mac",
    "chrome/windows",
    "chrome/linux",
    "firefox/linux",
    "firefox/mac",
    "edge/windows",
    "safari/mac",
)
EXPERIMENTS = [str(number) for number in range(1, 161)]
SCANNERS = (
    "zgrab/0.x",
    "Mozilla/5.0 (compatible; CensysInspect/1.1)",
    "python-requests/2.31",
    "l9explore/1.2",
)
PATHS = (
    "/.env",
    "/wp-login.php",
    "/.git/config",
    "/actuator/health",
    "/api/v1/pods",
    "/owa/",
    "/boaform/admin",
)


class Month:
    """Everything that is usual; `world` holds its lines."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        start = calendar.timegm((2026, 1, 1 + chance.randrange(200), 0, 0, 0))
        self.world = World(seed * 7 + 1, start)
        self.random, self.start = self.world.random, start
        self.office = list(OFFICE)
        self.people = [self._person(number, name) for number, name in enumerate(NAMES)]
        self.programs = self._programs()
        self.users = [*self.people, *self.programs]
        self.kept_free: set[str] = set()
        """Whom the accidents below leave alone, because an incident is theirs."""

    def day(self, number: int, hour: float = 0.0) -> float:
        return self.start + number * DAY + hour * HOUR

    def _token(self, name: str) -> Credential:
        return Credential(self.world.hex(16), name)

    def _person(self, number: int, name: str) -> User:
        chance = self.random
        provider = chance.choice(PROVIDERS)
        role = Role.ADMIN if number < 2 else Role.VIEWER if number in (5, 6, 7, 8) else Role.EDITOR
        user = User(
            f"{name}@example.org",
            role,
            zone=chance.choice((1, 1, 1, 1, 2, 0, 5.5, -5)),
            begins=chance.gauss(8.8, 0.9),
            works=chance.gauss(8.3, 0.7),
            home=self.world.within(provider),
            provider=provider,
            carrier=chance.choice(MOBILE),
            token=self._token("laptop"),
            kind=chance.choice(KINDS),
            version=138,
            client=chance.choice(("mlflow-python-client/3.17.2", "mlflow-python-client/3.16.0")),
            experiments=chance.sample(EXPERIMENTS, chance.randrange(3, 14)),
            password=chance.random() < 0.2,
        )
        if number in (9, 10):  # night owls
            user.begins, user.works = 15.5, 9.0
        if number in (11, 12, 13):  # dual stack, with another prefix of the provider's every few days
            user.home = self._v6()
        return user

    def _v6(self) -> str:
        chance = self.random
        return f"2003:e{chance.randrange(4)}:{chance.getrandbits(16):x}:{chance.getrandbits(16):x}::"

    def _programs(self) -> list[User]:
        names = (
            "ci-nightly ci-hosted batch-scoring dashboard monitor retrain cleanup monthly-report etl canary"
        )
        found = []
        for name in names.split():
            user = User(f"service:{name}", Role.EDITOR, 0, token=self._token(name))
            user.home = f"10.40.{self.random.randrange(8)}.{self.random.randrange(2, 250)}"
            found.append(user)
        return found

    # ---- where from ----

    def home(self, user: User) -> str:
        """The address at home today; privacy extensions give another one each time (RFC 8981)."""
        return f"{user.home}{self.random.getrandbits(16):x}" if user.home.endswith("::") else user.home

    def whence(self, user: User, index: int, day: int) -> str:
        """Where somebody works today: everybody has their ways."""
        chance = self.random
        office = index % 5 != 4  # the others are remote
        branch = index % 7 == 3
        if branch and chance.random() < 0.6:
            return BRANCH[0]
        if office and chance.random() < 0.6:
            return chance.choice(self.office)
        if index % 4 == 1 and chance.random() < 0.7:
            return chance.choice(VPN)
        if index % 6 == 2 and chance.random() < 0.4:
            return self.world.within(user.carrier)
        if index % 10 == 3 and chance.random() < 0.12:
            return self.world.within(HOTELS)  # a café, a library, a train
        return self.home(user)

    def node(self, user: User, index: int) -> Callable[[], At]:
        """A machine of the cluster, or any of a cloud's, for those who work there."""

        def cloud() -> At:
            return by_token(user, self.world.within(CLOUD), "mlflow-python-client/3.17.2")

        def cluster() -> At:
            address = f"10.40.{self.random.randrange(16)}.{self.random.randrange(2, 250)}"
            return by_token(user, address, "mlflow-python-client/3.17.2")

        return cloud if index % 9 == 0 else cluster

    # ---- the days ----

    def build(self) -> None:
        """All of the month."""
        chance = self.random
        self._plans()
        for day in range(DAYS):
            if day == self.office_moves:
                self.office = ["203.0.114.77"]
            for index, user in enumerate(self.people):
                self._changes(user, day)
                if self._works(user, index, day):
                    self._workday(user, index, day)
            self._night(day)
            self._noise(day)
            for _ in range(chance.randrange(3)):
                self._accident(day)
            if day == self.tries_a_tool:
                user = self.people[chance.choice((3, 4, 9, 10))]
                agent = chance.choice(("PostmanRuntime/7.43.0", "HTTPie/3.2.4", "node-fetch/3.3.2"))
                if not any(begin <= self.day(day, 12) < end for begin, end in user.away):
                    source = by_token(user, self.home(user), agent)
                    script(self.world, self.day(day, 16 - user.zone), source, user.experiments, 4)

    def _plans(self) -> None:
        chance, world = self.random, self.world
        free = [index for index in range(14, 30) if self.people[index].name not in self.kept_free]
        chance.shuffle(free)
        self.new = {free.pop(): chance.randrange(9, 19) for _ in range(2)}
        for index, first in self.new.items():
            self.people[index].away.append((0, self.day(first)))
        for _ in range(6):
            begin, length = chance.randrange(2, 26), chance.randrange(4, 17)
            who = self.people[free.pop()] if free else self.people[9]
            who.away.append((self.day(begin), self.day(begin + length)))
        self.travels = {}
        for index in chance.sample(range(2, 14), 2):
            if self.people[index].name not in self.kept_free:
                begin = chance.randrange(8, 25)
                shift = chance.choice((0, 0, 0, -6))
                where = f"{chance.choice(HOTELS)}.{chance.randrange(256)}"
                self.travels[index] = (begin, begin + chance.randrange(2, 5), shift, where)
        self.upgrade = {index: chance.randrange(8, 20) for index in range(len(self.people))}
        self.client_upgrade = {index: chance.randrange(6, 28) for index in chance.sample(range(30), 10)}
        self.laptop = {index: chance.randrange(9, 28) for index in chance.sample(range(30), 2)}
        self.deadline = {index: chance.randrange(8, 24) for index in chance.sample(range(30), 3)}
        self.moves = {chance.randrange(30): chance.randrange(9, 25)}
        self.tries_a_tool = chance.randrange(8, 48)
        self.office_moves = chance.randrange(10, 40)
        self.phone = dict.fromkeys((2, 15), 0) | {chance.randrange(16, 30): chance.randrange(8, 25)}
        self.to_cloud = {chance.randrange(20, 26): chance.randrange(10, 22)}
        self.sessions_end = self.day(chance.randrange(8, 28), 7)
        for day in range(DAYS):
            world.slow.append((self.day(day, 1), self.day(day, 2), 2.2, ""))  # the backup
            if self._weekday(day) == 0:
                world.slow.append((self.day(day, 7.5), self.day(day, 9.5), 1.4, ""))
        self.restarts = [self.day(day, chance.uniform(8, 18)) for day in range(chance.randrange(5), DAYS, 7)]

    def _weekday(self, day: int) -> int:
        return int(self.day(day) // DAY + 3) % 7

    def _works(self, user: User, index: int, day: int) -> bool:
        noon = self.day(day, 12)
        if any(begin <= noon < end for begin, end in user.away):
            return False
        if index in self.travels and self.travels[index][0] <= day < self.travels[index][1]:
            return True
        if self._weekday(day) >= 5:
            return self.random.random() < (0.35 if index % 8 == 0 else 0.04)
        if index % 11 == 6 and self._weekday(day) in (0, 4):  # part time
            return False
        return self.random.random() < 0.93

    def _changes(self, user: User, day: int) -> None:
        """What is another with a person today: the address at home, the version of a program."""
        chance = self.random
        index = self.people.index(user)
        often = (1.0, 0.03, 0.1, 0.02, 0.3)[PROVIDERS.index(tuple(user.provider))]
        if chance.random() < often:
            if user.home.endswith("::"):
                user.home = self._v6()
            elif chance.random() < 0.5:
                user.home = f"{user.home.rsplit('.', 1)[0]}.{chance.randrange(1, 255)}"
            else:
                user.home = self.world.within(user.provider)
        if day == self.moves.get(index):
            user.provider = chance.choice(PROVIDERS)
            user.home = self.world.within(user.provider)
        if day == self.upgrade[index]:
            user.version += 1
        if day == self.client_upgrade.get(index):
            user.client = "mlflow-python-client/3.18.0"
        if day == self.laptop.get(index):
            user.kind = chance.choice(KINDS)
            user.token = self._token("new laptop")
            if ":" not in user.home:
                user.home = f"{user.home.rsplit('.', 1)[0]}.{chance.randrange(1, 255)}"

    def _workday(self, user: User, index: int, day: int) -> None:
        chance, world = self.random, self.world
        begin = self.day(day, user.begins - user.zone + chance.gauss(0, 0.5))
        end = begin + HOUR * max(3, user.works + chance.gauss(0, 0.8))
        away = self.travels.get(index)
        here = self.whence(user, index, day)
        if away is not None and away[0] <= day < away[1]:
            begin, end = begin - away[2] * HOUR, end - away[2] * HOUR
            here = f"{away[3]}.{chance.randrange(1, 255)}"
        if day in range(self.deadline.get(index, 99), self.deadline.get(index, 99) + 4):
            end += chance.uniform(1, 4.5) * HOUR
        if day == self.new.get(index):
            not_let_in(world, begin - 600, by_token(user, here), chance.randrange(4, 13), 30)
        elif chance.random() < 0.06:
            self._mistypes(user, begin - 60, here)
        at = begin
        while at < end:
            at = self._task(user, index, at, here)
            at += chance.expovariate(1 / HOUR)
            if chance.random() < 0.15 and here == self.home(user):
                here = chance.choice(VPN) if index % 4 == 1 else here  # the VPN comes up in the middle
        if index % 3 == 0 and chance.random() < 0.3:  # a look from home in the evening
            visit(
                world,
                end + chance.uniform(0.5, 2.5) * HOUR,
                by_browser(user, self.home(user)),
                user.experiments,
                4,
            )
        if index in self.phone and day >= self.phone[index] and chance.random() < 0.35:
            phone = browser("safari/iphone" if index % 2 else "chrome/android", 138)
            at = begin - chance.uniform(0.2, 1) * HOUR
            visit(world, at, by_browser(user, world.within(user.carrier), phone), user.experiments, 2)

    def _task(self, user: User, index: int, at: float, here: str) -> float:
        chance, world = self.random, self.world
        kind = chance.random()
        if kind < 0.5 or user.role is Role.VIEWER:
            if user.role is Role.VIEWER and chance.random() < 0.03:  # the button was there
                asks = [
                    ("POST", "/ajax-api/2.0/mlflow/runs/delete"),
                    ("POST", "/ajax-api/2.0/mlflow/runs/set-tag"),
                ]
                try_forbidden(world, at, by_browser(user, here), asks[: chance.randrange(1, 3)], 4)
            if self.sessions_end <= at < self.sessions_end + DAY and not user.password:
                not_let_in(world, at - 4, by_browser(user, here), chance.randrange(1, 5), 0.3)
            return visit(world, at, by_browser(user, here), user.experiments, chance.randrange(2, 9))
        laptop = by_token(user, here)
        if kind < 0.7:
            return train(world, at, laptop, chance.choice(user.experiments), chance.randrange(5, 25))
        if kind < 0.93 or index % 3:
            agent = (
                "python-requests/2.32.3"
                if index % 5 == 0
                else "curl/8.5.0"
                if index % 6 == 0
                else user.client
            )
            return script(world, at, by_token(user, here, agent), user.experiments, chance.randrange(3, 15))
        node = self.node(user, index)
        if index in self.to_cloud and at >= self.day(self.to_cloud[index]):
            node = self.node(user, 0)
        sweep(
            world,
            at,
            node,
            chance.choice(user.experiments),
            chance.randrange(15, 80),
            chance.randrange(4, 13),
        )
        return at + 20 * 60

    def _mistypes(self, user: User, at: float, here: str) -> None:
        source = by_browser(user, here)
        if user.password:
            guess(self.world, at, source, self.random.randrange(1, 4), 8)
            return
        for _ in range(self.random.randrange(1, 4)):
            at += 9
            self.world.event(
                at, "sign_in_refused", source, "refused", user.name, way="password", reason="unauthenticated"
            )
        self.world.event(at + 10, "sign_in", source, user=user.name, way="password")

    def _night(self, day: int) -> None:
        """What programs do, by the clock."""
        chance, world = self.random, self.world
        ci, hosted, scoring, dashboard, monitor, retrain, cleanup, report, etl, canary = self.programs
        later = "mlflow-python-client/3.18.0" if day >= 17 else "mlflow-python-client/3.17.2"
        for _ in range(6):
            train(world, self.day(day, 1 + chance.uniform(0, 2)), by_token(ci, ci.home, later), "5", 10, 5)
        weekday = self._weekday(day) < 5
        for _ in range(chance.randrange(5, 14) if weekday else 2):
            at = self.day(day, chance.gauss(13, 4))
            runner = At(
                hosted, world.within(HOSTED_CI), "mlflow-python-client/3.17.2", "jwt", None, hosted.token
            )
            train(world, at, runner, "6", 4, 5)
        at = self.day(day, 3.2)
        for _ in range(40):
            at = download(world, at, by_token(scoring, scoring.home), "7", "ab" * 16, 300 * MEGABYTE)
        for hour in range(0, 24, 3):
            look_through(
                world, self.day(day, hour + 0.5), by_token(dashboard, dashboard.home), EXPERIMENTS[::2], 1
            )
        at = self.day(day)
        while at < self.day(day + 1):
            world.ask(
                at, by_token(monitor, monitor.home, "Go-http-client/2.0"), "GET", "/api/2.0/mlflow/runs/get"
            )
            at += 600
        if self._weekday(day) in (1, 4):
            sweep(world, self.day(day, 18), self.node(retrain, 9), "8", 40, 8)
        if self._weekday(day) == 6:
            delete_runs(world, self.day(day, 4), by_token(cleanup, cleanup.home), chance.randrange(60, 140))
        if day in (0, 28):
            script(world, self.day(day, 5), by_token(report, report.home), EXPERIMENTS[:9], 30)
        if weekday:
            script(
                world,
                self.day(day, 6),
                by_token(etl, etl.home, "python-requests/2.32.3"),
                EXPERIMENTS[:5],
                12,
            )
        for hour in range(0, 24, 6):
            train(world, self.day(day, hour + 0.2), by_token(canary, canary.home), "9", 2, 1)

    def _noise(self, day: int) -> None:
        """What comes by itself: scanners, and restarts."""
        chance, world = self.random, self.world
        for _ in range(chance.randrange(1, 6)):
            address, agent = (
                world.within(("45.83", "185.142", "162.142", "71.6", "167.94")),
                chance.choice(SCANNERS),
            )
            at = self.day(day, chance.uniform(0, 24))
            for _ in range(chance.choice((1, 3, 8, 40, 150))):
                at += chance.expovariate(3)
                path = chance.choice(PATHS)
                world.ask(at, At(None, address, agent), "GET", path, status=401, refusal="unauthenticated")
        for at in self.restarts:
            if self.day(day) <= at < self.day(day + 1):
                for user in chance.sample(self.people, 8):
                    source = by_browser(user, self.office[0])
                    if any(begin <= at < end for begin, end in user.away) or user.name in self.kept_free:
                        continue
                    for _ in range(chance.randrange(1, 4)):
                        path = "/ajax-api/2.0/mlflow/runs/search"
                        when = at + chance.uniform(0, 40)
                        world.ask(when, source, "POST", path, status=503, refusal="not_ready")

    def _accident(self, day: int) -> None:
        """One thing that happens now and then, to somebody."""
        chance, world = self.random, self.world
        index = chance.randrange(30)
        user = self.people[index]
        noon = self.day(day, user.begins - user.zone + 4)
        busy = any(begin <= noon < end for begin, end in user.away) or self._weekday(day) >= 5
        if user.name in self.kept_free or busy or index in self.travels:
            return
        here = self.office[0] if index % 5 != 4 else self.home(user)
        what = chance.randrange(9)
        if what == 0:  # a tab that was left open after its session was over, all night
            path = "/ajax-api/2.0/mlflow/runs/search"
            not_let_in(world, noon + 8 * HOUR, by_browser(user, here), chance.randrange(200, 1200), 30, path)
        elif what == 1:  # a job whose token is over
            source = by_token(user, f"10.40.{chance.randrange(16)}.9")
            not_let_in(world, noon, source, chance.randrange(20, 90), 300)
        elif what == 2 and user.role > Role.VIEWER:
            delete_runs(world, noon, by_browser(user, here), chance.randrange(8, 40))
        elif what == 3:  # a large model in one piece
            download(
                world,
                noon,
                by_token(user, here),
                "11",
                world.hex(),
                chance.randrange(5_000, 40_000) * MEGABYTE,
            )
        elif what == 4:
            look_through(
                world, noon, by_browser(user, here), chance.sample(EXPERIMENTS, chance.randrange(15, 42)), 30
            )
        elif what == 5 and user.role is Role.VIEWER:
            asks = [("POST", "/api/2.0/mlflow/runs/create")] * chance.randrange(2, 14)
            try_forbidden(world, noon, by_token(user, here), asks, 60)
        elif what == 6:
            script(world, noon, by_token(user, here, "curl/8.5.0"), user.experiments, 3)
        elif what == 7 and user.role > Role.VIEWER:  # a whole sweep's files are compared
            for _ in range(chance.randrange(60, 160)):
                noon = download(
                    world, noon, by_token(user, here), "12", world.hex(), chance.randrange(90_000_000)
                )
        elif what == 8 and user.role is Role.EDITOR:
            asks = [("POST", "/ajax-api/2.0/mlflow/experiments/delete")] * 2
            try_forbidden(world, noon, by_browser(user, here), asks, 6)
