"""Which route a request is for: a tree of path components, so that a look-up asks few questions.

Pure. A component of a route's path is a word or `{name}`, which takes any one component that is not
empty; a last `{name:path}` takes the rest, slashes and all. Words win over names, and what leads to
no route of the method is tried otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.routing import Route

PATH_SUFFIX: Final = ":path}"

Found = tuple[Route, list[str]]
"""A route, and what its path's names stand for, in their order."""


@dataclass(slots=True)
class _Place:
    """Where some components have led."""

    routes: dict[str, Route] = field(default_factory=dict)
    words: dict[str, "_Place"] = field(default_factory=dict)
    named: "_Place | None" = None
    rest: dict[str, Route] = field(default_factory=dict)
    """Routes that take what follows, by method."""


class Paths:
    """All routes of an application; of two with the same method and path the first counts."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Place()
        for route in routes:
            for method in route.methods or ():
                self._add(method, route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a request, and the values of its path."""
        found = _walk(self._root, method, path.split("/"), 0)
        if found is None:
            return None
        route, values = found
        return route, dict(zip(route.param_convertors, values, strict=True))

    def _add(self, method: str, route: Route) -> None:
        place = self._root
        for component in route.path.split("/"):
            if component.endswith(PATH_SUFFIX):
                place.rest.setdefault(method, route)
                return
            if component.startswith("{"):
                place.named = place.named or _Place()
                place = place.named
            else:
                place = place.words.setdefault(component, _Place())
        place.routes.setdefault(method, route)


def _walk(place: _Place, method: str, components: Sequence[str], at: int) -> Found | None:
    if at == len(components):
        route = place.routes.get(method)
        return None if route is None else (route, [])
    component = components[at]
    word = place.words.get(component)
    if word is not None and (found := _walk(word, method, components, at + 1)) is not None:
        return found
    if (
        component
        and place.named is not None
        and (found := _walk(place.named, method, components, at + 1)) is not None
    ):
        found[1].insert(0, component)
        return found
    rest = place.rest.get(method)
    return None if rest is None else (rest, ["/".join(components[at:])])
