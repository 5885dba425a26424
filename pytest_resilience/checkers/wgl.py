"""The search for an order of the operations on one register, after Wing & Gong 1993 and Lowe 2017.

An operation can be next if no other one had ended before it began. The search goes depth-first through these orders and remembers
each pair of the operations placed so far and the state, as Porcupine's `checker.go` does. Three rules keep it short:

- A read that fits the state and does not change it is placed at once. All that could follow it otherwise can also follow it then.
- A write with an unknown outcome is placed last of all, and only before an action that is impossible without it.
- The operations placed are a number, below which all are placed, and the bits of those above it.
"""

from __future__ import annotations

from typing import NamedTuple

from .register import Action, Register, State


class Place(NamedTuple):
    """A point of the search.

    Args:
        first: all actions before this one are placed.
        above: the bits of those placed from `first` on.
        maybe: the bits of the unknown writes placed.
        state: the state of the register.
        only_maybe: True if only unknown writes remain to be tried here.
    """

    first: int
    above: int
    maybe: int
    state: State
    only_maybe: bool = False

    @property
    def placed(self) -> int:
        """The number of actions placed, without unknown writes."""
        return self.first + self.above.bit_count()


class Search:
    """One search.

    Args:
        register: the actions.
        budget: the number of steps after which to stop. A step places an action or looks at the choices of a point.

    Attributes:
        steps: the number of steps so far.
        deepest: the point with the most actions placed.
    """

    def __init__(self, register: Register, budget: int) -> None:
        self._actions = register.actions
        self._maybe = register.maybe
        self._budget = budget
        self._seen: set[Place] = set()
        self._stack = [Place(0, 0, 0, register.initial)]
        self.deepest = self._stack[0]
        self.steps = 0

    def run(self) -> bool | None:
        """Return True if there is an order, False if there is none, and None if the budget is spent."""
        while self._stack:
            place: Place | None = self._stack.pop()
            while place is not None:
                if self.steps >= self._budget:
                    return None
                place = self._sequential(place)
                if place.first == len(self._actions):
                    return True
                place = self._choose(place)
        return False

    def _sequential(self, place: Place) -> Place:
        """Place the actions that have no alternative, one after the other."""
        first, above, maybe, state, only_maybe = place
        actions, count = self._actions, len(self._actions)
        while above & 1:
            first, above = first + 1, above >> 1
        began, last = first, min(count, first + self._budget - self.steps)
        while not above and not self._maybe and first < last:
            action = actions[first]
            if first + 1 < count and actions[first + 1].call <= action.limit:
                break
            after = action.on(state)
            if after is None:
                break
            first, state = first + 1, after
        self.steps += first - began
        return Place(first, above, maybe, state, only_maybe)

    def _choose(self, place: Place) -> Place | None:
        """Return the next point, and put the alternatives on the stack. None if there is none."""
        self.steps += 1
        if place in self._seen:
            return None
        self._seen.add(place)
        next_ones, limit = self.next_ones(place)
        if place.only_maybe:
            self._stack += self._with_maybe(place, next_ones, limit)
            return None
        if after := self._with_reads(place, next_ones):
            return after
        if place.placed > self.deepest.placed:
            self.deepest = place
        if self._maybe:
            self._stack.append(place._replace(only_maybe=True))
        self._stack += reversed(self._with_each(place, next_ones))
        return None

    def next_ones(self, place: Place) -> tuple[list[int], float]:
        """Return the actions that can be next, and the moment by which one of them had happened."""
        actions, count = self._actions, len(self._actions)
        index, above, limit = place.first, place.above, float("inf")
        found: list[int] = []
        while index < count and (action := actions[index]).call <= limit:
            if not above & 1:
                found.append(index)
                limit = min(limit, action.limit)
            index, above = index + 1, above >> 1
        return found, limit

    def _with_reads(self, place: Place, next_ones: list[int]) -> Place | None:
        """Return the point after all reads that fit the state and leave it as it is. None if there are no such reads."""
        above = place.above
        for index in next_ones:
            action = self._actions[index]
            if action.reads and action.on(place.state) is place.state:
                above |= 1 << (index - place.first)
        self.steps += len(next_ones)
        return None if above == place.above else place._replace(above=above)

    def _with_each(self, place: Place, next_ones: list[int]) -> list[Place]:
        """Return the points after each action that is possible, the most promising one first."""
        found: list[Place] = []
        for index in sorted(next_ones, key=self._promise):
            after = self._actions[index].on(place.state)
            if after is not None:
                found.append(Place(place.first, place.above | 1 << (index - place.first), place.maybe, after))
        return found

    def _promise(self, index: int) -> tuple[int, float]:
        """Return the key by which to sort actions: versions rise, and what ended first probably happened first."""
        action = self._actions[index]
        return action.state.version or 0, action.limit

    def _with_maybe(self, place: Place, next_ones: list[int], limit: float) -> list[Place]:
        """Return the points after each unknown write that makes something possible."""
        left = [
            (bit, each)
            for bit, each in enumerate(self._maybe)
            if each.call <= limit and not place.maybe >> bit & 1 and each.on(place.state) is not None
        ]
        others = [self._actions[index] for index in next_ones] + [
            each for bit, each in enumerate(self._maybe) if not place.maybe >> bit & 1
        ]
        blocked = [each for each in others if each.on(place.state) is None]
        self.steps += len(others)
        return [
            place._replace(maybe=place.maybe | 1 << bit, state=each.state, only_maybe=False)
            for bit, each in left
            if any(other.on(each.state) is not None for other in blocked)
        ]

    def stuck(self) -> list[Action]:
        """Return the actions that can be next at the deepest point, the first one to end first."""
        next_ones, _ = self.next_ones(self.deepest)
        return sorted((self._actions[index] for index in next_ones), key=lambda each: each.limit)
