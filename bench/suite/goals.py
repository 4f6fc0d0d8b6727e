"""Goals, and whether a measured figure meets one."""
import dataclasses

MET, NOT_MET = "met", "NOT met"


@dataclasses.dataclass(frozen=True)
class Goal:
    """op "<=" or ">=", and what the figure is: a ratio (×), how many times faster, megabytes."""

    op: str
    bound: float
    unit: str

    def met(self, figure):
        return figure <= self.bound if self.op == "<=" else figure >= self.bound

    def verdict(self, figure):
        return MET if self.met(figure) else NOT_MET

    def __str__(self):
        return f"{'≤' if self.op == '<=' else '≥'} {self.bound:g} {self.unit}"

    def shown(self, figure):
        return f"{figure:.3g} {self.unit}" if figure < 100 else f"{figure:.0f} {self.unit}"

    def figure(self, ours, theirs):
        """The figure of this goal out of two times: of the slower ones by the faster ones, or ours by theirs."""
        return theirs / ours if self.unit == FASTER else ours / theirs


FASTER = "× faster"


def times(bound):
    """At most so many times the peer's time."""
    return Goal("<=", bound, "×")


def faster(bound):
    """At least so many times faster than the peer."""
    return Goal(">=", bound, FASTER)
