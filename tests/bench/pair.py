"""What is measured of ours and of yagna's, and the table of both."""

import statistics
from dataclasses import dataclass, field

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
            line += f"  {median:9.2f}  {mine / median:6.2f}"
        else:
            line += f"  {'':>9}  {'':>6}"
        print(f"{line}   {len(values)}")  # noqa: T201


def show_one(figures: dict[str, float]) -> None:
    """Print figures of ours that yagna has no like of."""
    width = max(map(len, figures))
    print()  # noqa: T201
    for what, value in figures.items():
        print(f"{what:<{width}}  {value:12.{0 if value >= 1000 else 2}f}")  # noqa: T201
