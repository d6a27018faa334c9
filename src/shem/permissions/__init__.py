"""Who may do what: `decide` (GAP-24). Owns no tables yet; access control lists come later."""

from shem.permissions.decide import NODE, Action, Decision, Resource, decide

__all__ = ["NODE", "Action", "Decision", "Resource", "decide"]
