"""The colours of roles and of a ledger's terms, the same in static figures and in interactive charts."""

from memfloor.record import Role
from memfloor.report.ledger import EXCESS, IDLE

# Okabe and Ito's palette, told apart by every reader; the floor is grey.
ROLE_COLOURS: dict[Role, str] = {
    "weights": "#0072B2",
    "attention": "#009E73",
    "cache": "#CC79A7",
    "elementwise": "#E69F00",
    "sampling": "#56B4E9",
}
FLOOR_COLOUR, IDLE_COLOUR, UNEXPLAINED_COLOUR, STEP_COLOUR = "#8A8F98", "#D55E00", "#F0E442", "#6E7781"
TERM_COLOURS: dict[str, str] = {name: ROLE_COLOURS[role] for role, name, _ in EXCESS} | {IDLE[0]: IDLE_COLOUR}
