"""A stretch of work that is over, judged against what is usual for that user."""

from __future__ import annotations

from proxy.review.findings import Evidence, Kind, Signal, shown
from proxy.review.noticed import GIGABYTE, Noticed, clock, lasted
from proxy.review.profiles import DAY
from proxy.review.stretches import Active, Stretch
from proxy.review.whence import program

_NIGHT = 0.7
"""How far on in the quiet hours it is night and not evening any more: this share of what is left of them."""


class Judge:
    """Of all users' work."""

    def __init__(self, noticed: Noticed) -> None:
        self._noticed = noticed
        self._limits = noticed.thresholds
        self._learned = noticed.learned

    def say(
        self, who: Active, kind: Kind, points: float, begin: float, end: float, why: str,
        lines: list[Evidence], address: str | None = None,
    ) -> None:  # fmt: skip
        self._noticed.add(
            Signal(kind, points, begin, end, why, list(lines), user=who.user.name, address=address)
        )

    def judge(self, who: Active) -> None:
        stretch = who.stretch
        for mode in (0, 1):
            self.judge_block(who, mode)
            who.blocks[mode] = None
        self._judge_networks(who, stretch)
        self._judge_agents(who, stretch)
        self._judge_counts(who, stretch)
        self._judge_forbidden(who, stretch)
        for each in stretch.uses:  # a token that is in use all the time was used until now
            if each.source.credential is not None and (
                token := self._learned.tokens.get(each.source.credential)
            ):
                token.last = max(token.last, each.source.channel.last)

    def _judge_networks(self, who: Active, stretch: Stretch) -> None:
        for narrow, points in stretch.novel.items():
            uses = [use for use in stretch.uses if use.source.narrow == narrow]
            if not uses:
                continue
            lines = [line for use in uses for line in use.lines]
            first = uses[0].source
            moved = any(use.moved for use in uses)
            agent = 0.0 if moved else max(use.agent for use in uses)
            text = f"{shown(first.client)} is in a network ({narrow}) that was new for this user"
            if agent:
                other = next(use for use in uses if use.agent == agent)
                text += f", with a program that was new as well: {shown(other.source.agent, 90)}"
            elif moved:
                text += ", in the browser that they had before"
            self.say(
                who,
                "new-network",
                points + min(agent, 1),
                stretch.begin,
                stretch.end,
                text,
                lines,
                first.client,
            )
            if moved:  # whoever sits there with all that they have has moved
                for use in uses:
                    use.agent = use.agent if use.agent >= 3 else use.agent / 2
            at_once = [use for use in uses if use.source.credential and use.switches >= self._limits.switches]
            if at_once:
                use = at_once[0]
                beside = [
                    each
                    for each in stretch.uses
                    if each.source.channel is use.source.channel and each not in uses
                ]
                others = ", ".join(shown(each.source.client) for each in beside[:3])
                text = (
                    f"token {shown(use.source.credential, 40)} was used from {shown(use.source.client)} "
                    f"and from {others or 'elsewhere'} by turns, {use.switches} times within minutes"
                )
                lines = [*use.lines, *(line for each in beside[:3] for line in each.lines)]
                points = 0.5 if moved else 3.0
                self.say(
                    who, "two-networks", points, stretch.begin, stretch.end, text, lines, use.source.client
                )

    def _judge_agents(self, who: Active, stretch: Stretch) -> None:
        told: set[str] = set()
        for use in stretch.uses:
            name = program(use.source.agent)[0]
            if use.agent and name not in told:
                told.add(name)
                text = f"{shown(use.source.agent)} was new for this user"
                house = self._learned.house
                others = house.others(house.programs, name, who.user.name) >= self._limits.shared
                text += ", as others use it" if others else ", and hardly anybody uses it"
                # What others use, at a place that is known, is next to nothing.
                points = use.agent / 2 if use.agent <= 1 and not use.network else use.agent
                address = use.source.client if use.network else None
                self.say(who, "new-agent", points, stretch.begin, stretch.end, text, use.lines, address)

    def _judge_counts(self, who: Active, stretch: Stretch) -> None:
        limits, usual, counts = self._limits, who.user.most, stretch.counts
        if stretch.experiments:
            counts["experiments"] = len(stretch.experiments)
        told: tuple[tuple[str, Kind, float, str], ...] = (
            ("downloads", "downloads", limits.downloads, "{:.0f} artifacts were read"),
            ("bytes", "downloads", limits.download_gb * GIGABYTE, "{} GB of artifacts were read"),
            (
                "deletions",
                "deletions",
                limits.deletions,
                "{:.0f} things were deleted, larger ones counted as five",
            ),
            ("experiments", "experiments", limits.experiments, "{:.0f} different experiments were read"),
        )
        for name, kind, least, text in told:
            value, most = counts.get(name, 0.0), usual.get(name, 0.0)
            if value >= least and value >= limits.times * most:
                shown_value = f"{value / GIGABYTE:.0f}" if name == "bytes" else value
                before = most / GIGABYTE if name == "bytes" else most
                why = (
                    text.format(shown_value)
                    + f" in {lasted(stretch.begin, stretch.end)}; at most {before:.0f} before"
                )
                lines = stretch.lines.get(name, []) or stretch.lines.get("downloads", [])
                self.say(who, kind, 3.0, stretch.begin, stretch.end, why, lines)
            if value:
                who.user.did(name, value)

    def _judge_forbidden(self, who: Active, stretch: Stretch) -> None:
        tried, limits = stretch.forbidden, self._limits
        if len(tried) >= limits.forbidden or sum(tried.values()) >= limits.forbidden_requests:
            names = ", ".join(shown(name, 40) for name in list(tried)[:6])
            why = (
                f"{sum(tried.values())} requests that their role forbids, of {len(tried)} operations: {names}"
            )
            self.say(who, "forbidden", 3.0, stretch.begin, stretch.end, why, stretch.lines["forbidden"])

    def judge_block(self, who: Active, mode: int) -> None:
        block, user, limits = who.blocks[mode], who.user, self._limits
        if block is None or not user.person or block.count < limits.hours_requests:
            return
        usual = user.usual_hours(mode, beside=True)
        if user.mode_days[mode] < limits.user_days + 2 or len(usual) < 3:
            return
        hour = block.begin % DAY / 3600
        early = min((each - hour) % 24 for each in usual)
        late = min((hour - each - 1) % 24 for each in usual)
        # People stay on rather than begin in the middle of the night, so that needs less.
        enough = min(limits.late, limits.night) if late >= _NIGHT * early else limits.late
        if int(hour) in usual or early < limits.early or late < enough:
            return
        use = block.use
        points = 3.0 if mode == 0 else 1.5
        if use.network:
            points = 1.0
        doing = "works in a browser" if mode == 0 else "runs programs"
        why = (
            f"{block.count} requests from {clock(block.begin)} UTC on, {early:.0f} hours before and "
            f"{late:.0f} after any hour at which this user usually {doing}"
        )
        self.say(
            who,
            "hours",
            points,
            block.begin,
            block.end,
            why,
            use.lines,
            use.source.client if use.network else None,
        )
