"""What is measured of ours and of yagna's, and the table of both."""

import statistics
from dataclasses import dataclass, field

import psutil

Figures = dict[str, list[float]]


@dataclass
class Pair:
    """Two nodes of one kind: REST address and app key of each, and what was measured."""

    name: str
    requestor: tuple[str, str]
    provider: tuple[str, str]
    figures: Figures = field(default_factory=dict)

    def note(self, what: str, value: float) -> None:
        self.figures.setdefault(what, []).append(value)


def note_memory(pair: Pair, processes: list[psutil.Process], what: str) -> None:
    """Note what processes have in memory: all, their share of what is common, their own."""
    found = [process.memory_full_info() for process in processes]
    for name, kind in (("resident", "rss"), ("its share", "pss"), ("its own", "uss")):
        sizes = [getattr(info, kind) / (1 << 20) for info in found]
        pair.note(f"{what}, memory, {name} [MiB]", statistics.median(sizes))


def show(ours: Figures, theirs: Figures | None) -> None:
    """Print medians, and the ratio where yagna has the figure, too."""
    width = max(map(len, ours))
    print(f"\n{'median of n':<{width}}  {'shem':>9}  {'yagna':>9}  {'ratio':>6}   n")  # noqa: T201
    for what, values in sorted(ours.items()):
        mine = statistics.median(values)
        other = theirs.get(what) if theirs else None
        line = f"{what:<{width}}  {mine:9.2f}"
        if other:
            median = statistics.median(other)
            line += f"  {median:9.2f}  {mine / median if median else 1:6.2f}"
        else:
            line += f"  {'':>9}  {'':>6}"
        print(f"{line}   {len(values)}")  # noqa: T201


def show_one(figures: dict[str, float]) -> None:
    """Print figures of ours that yagna has no like of."""
    width = max(map(len, figures))
    print()  # noqa: T201
    for what, value in figures.items():
        print(f"{what:<{width}}  {value:12.{0 if value >= 1000 else 2}f}")  # noqa: T201
