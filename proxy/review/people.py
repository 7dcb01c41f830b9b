"""Users at work: what is new of where they come from and with what, and what they do, counted."""

from __future__ import annotations

from proxy.review.findings import Evidence, shown
from proxy.review.judging import Judge
from proxy.review.noticed import Noticed, keep
from proxy.review.profiles import DAY, MOST_TOKENS, MOST_USERS, Token, User, bounded
from proxy.review.stretches import (
    AT_ONCE,
    BLOCK_GAP,
    GAP,
    MOST_CHANNELS,
    MOST_NAMES,
    MOST_USES,
    Active,
    Block,
    Channel,
    Source,
    Stretch,
    Use,
)
from proxy.review.whence import is_browser, networks, program


class People:
    """All users. Times are Unix seconds."""

    def __init__(self, noticed: Noticed) -> None:
        self._noticed = noticed
        self._limits = noticed.thresholds
        self._learned = noticed.learned
        self._judge = Judge(noticed)
        self._active: dict[str, Active] = {}

    def source(self, user: str, client: str, agent: str, credential: str | None, t: float) -> Source:
        who = self._active.get(user)
        if who is None:
            profile = self._learned.users.get(user)
            if profile is None:
                profile = User(user, first=t, last=t)
                if len(self._learned.users) >= MOST_USERS:
                    self._forget(min(self._learned.users.values(), key=lambda each: each.last).name)
                self._learned.users[user] = profile
            who = self._active[user] = Active(profile, Stretch(t, t))
        narrow, wide = networks(client)
        channel = who.channels.get(credential or "")
        if channel is None:
            channel = Channel()
            bounded(who.channels, credential or "", channel, MOST_CHANNELS)
        mode = 0 if credential is None and is_browser(agent) else 1
        return Source(who, client, agent, credential, mode, narrow, wide, channel)

    def saw(self, source: Source, t: float, hour: int, file: str, number: int, raw: bytes) -> Use:
        """A request that was let in."""
        who, mode = source.who, source.mode
        stretch = who.stretch
        if t - stretch.end > GAP or t - stretch.begin > DAY:
            self._judge.judge(who)
            stretch = who.stretch = Stretch(t, t)
        if t > stretch.end:
            stretch.end = t
        use = source.use
        if use is None or source.stretch is not stretch:
            use = self._begin_use(source, t, Evidence(file, number, raw))
        use.count += 1
        block = who.blocks[mode]
        if block is None or t - block.end > BLOCK_GAP:
            self._judge.judge_block(who, mode)
            block = who.blocks[mode] = Block(t, t, use)
        block.count += 1
        if t > block.end:
            block.end = t
        if hour != who.hours[mode]:
            who.hours[mode] = hour
            who.user.at_work(t, mode)
        channel = source.channel
        if channel.wide != source.wide:
            if t - channel.last < AT_ONCE:
                use.switches += 1
            channel.wide = source.wide
        channel.last = t
        return use

    def did(self, source: Source, name: str, value: float, line: Evidence) -> None:
        """Something that is counted: ``downloads``, ``bytes``, ``deletions``."""
        stretch = source.who.stretch
        stretch.counts[name] = stretch.counts.get(name, 0.0) + value
        keep(stretch.lines.setdefault(name, []), line)

    def read(self, source: Source, experiments: str, line: Evidence) -> None:
        stretch = source.who.stretch
        known = stretch.experiments
        if experiments in known or len(known) >= MOST_NAMES:
            return
        known.update(experiments.split(","))
        keep(stretch.lines.setdefault("experiments", []), line)

    def refused(self, source: Source, operation: str, line: Evidence) -> None:
        """The role forbids it."""
        stretch = source.who.stretch
        stretch.forbidden[operation] = stretch.forbidden.get(operation, 0) + 1
        keep(stretch.lines.setdefault("forbidden", []), line)

    def end(self) -> None:
        """The log is over."""
        for who in self._active.values():
            self._judge.judge(who)
            who.stretch = Stretch(who.stretch.end, who.stretch.end)

    def _forget(self, name: str) -> None:
        who = self._active.pop(name, None)
        if who is not None:
            self._judge.judge(who)
        del self._learned.users[name]

    # ---- what is new ----

    def _begin_use(self, source: Source, t: float, line: Evidence) -> Use:
        user, stretch, house = source.who.user, source.who.stretch, self._learned.house
        network = self._network(user, stretch, source)
        agent = self._agent(user, source.agent)
        seen = source.agent in user.agents or self._upgraded(user, source.agent)
        use = Use(source, network, agent, source.mode == 0 and seen, [line])
        if len(stretch.uses) < MOST_USES:
            stretch.uses.append(use)
        if source.credential is not None:
            self._token(source, use, t, line)
        user.last = t
        user.came_from(source.narrow, source.wide, source.agent, t)
        house.used(user.name, source.narrow, source.wide, source.agent)
        source.use, source.stretch = use, stretch
        return use

    def _network(self, user: User, stretch: Stretch, source: Source) -> float:
        """How surprising it is: not at all where it, or what it is part of, is the user's or the house's."""
        if source.narrow in stretch.novel:
            return stretch.novel[source.narrow]
        if source.narrow in user.narrow or source.wide in user.wide:
            return 0.0
        house = self._learned.house
        known = max(
            house.others(house.narrow, source.narrow, user.name),
            house.others(house.wide, source.wide, user.name),
        )
        if known >= self._limits.shared:
            return 0.0
        roams = user.roams(self._limits.roaming)
        day = int(stretch.begin // DAY)
        if user.days > 1 and day != user.last_new_day:
            user.new_days, user.last_new_day = user.new_days + 1, day
        if user.days < self._limits.user_days:
            return 0.0
        points = 1.0 if roams else 2.0 if user.person else 3.0
        stretch.novel[source.narrow] = points
        return points

    def _upgraded(self, user: User, agent: str) -> bool:
        name, version = program(agent)
        return name in user.programs and list(version) >= user.programs[name]

    def _agent(self, user: User, agent: str) -> float:
        if agent in user.agents or user.days < self._limits.user_days or self._upgraded(user, agent):
            return 0.0
        name, _ = program(agent)
        if name in user.programs:
            return 1.0  # an older version than the one they have
        house = self._learned.house
        others = house.others(house.programs, name, user.name)
        if not user.person or (others < self._limits.shared and not is_browser(agent)):
            return 3.0
        return 1.0 if others >= self._limits.shared else 2.0

    def _token(self, source: Source, use: Use, t: float, line: Evidence) -> None:
        name = str(source.credential)
        token, limits = self._learned.tokens.get(name), self._limits
        if token is None:
            token = Token(t)
        silent = (t - token.last) / DAY
        if silent >= limits.silent_days:
            elsewhere = source.wide not in token.wide or program(source.agent)[0] not in token.programs
            where = f"from {shown(source.client)} with {shown(source.agent, 60)}"
            text = f"token {shown(name, 40)} was used again after {silent:.0f} days, {where}"
            points = 3.0 if elsewhere else 1.0
            text += ", which it was not used with before" if elsewhere else ", as before"
            self._judge.say(
                source.who, "silence", points, t, t, text, [line], source.client if use.network else None
            )
        token.last = t
        token.used(source.wide, program(source.agent)[0])
        bounded(self._learned.tokens, name, token, MOST_TOKENS)
