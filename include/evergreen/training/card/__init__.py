"""A model's card: what it is, what it rests on, how good it is, the decision, its limits."""

from evergreen.training.card.facts import CardFacts, Decision, gather_card
from evergreen.training.card.page import render_card, render_essence

__all__ = ["CardFacts", "Decision", "gather_card", "render_card", "render_essence"]
