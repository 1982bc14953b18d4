"""The colours of roles, terms, verdicts and lines, the same in static figures and in interactive charts."""

from memfloor.record import Role
from memfloor.report.breakdown import EXCESS, IDLE

# Okabe and Ito's palette, told apart by every reader.
BLUE, GREEN, PINK, ORANGE, SKY, RED, YELLOW = (
    "#0072B2",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
# Of another palette for eyes that tell few colours apart, Paul Tol's.
OLIVE = "#999933"
GREY, DARK_GREY = "#8A8F98", "#6E7781"
ROLE_COLOURS: dict[Role, str] = {
    "weights": BLUE,
    "dequantization": OLIVE,
    "attention": GREEN,
    "cache": PINK,
    "elementwise": ORANGE,
    "sampling": SKY,
}
FLOOR_COLOUR, IDLE_COLOUR, UNEXPLAINED_COLOUR, STEP_COLOUR = GREY, RED, YELLOW, DARK_GREY
TERM_COLOURS: dict[str, str] = {name: ROLE_COLOURS[role] for role, name, _ in EXCESS} | {IDLE[0]: IDLE_COLOUR}
# What was measured here, what others measured, and a threshold: where the floor is a line and no bar, it is one too.
MEASURED_COLOUR, PUBLISHED_COLOUR, THRESHOLD_COLOUR = BLUE, GREY, RED
BASELINE_COLOUR, CANDIDATE_COLOUR = RED, BLUE
# Grey for what decides nothing.
VERDICT_COLOURS = {"faster": GREEN, "slower": RED, "equivalent": BLUE, "unclear": GREY}
REFUSED_COLOUR = PINK
LINE_COLOURS = (BLUE, GREEN, ORANGE, PINK, SKY, RED)


def verdict_colour(verdict: str) -> str:
    """Return the colour of a verdict, or of its refusal."""
    return VERDICT_COLOURS.get(first_word(verdict), REFUSED_COLOUR)


def first_word(verdict: str) -> str:
    """Return a verdict without the sentence that says why."""
    return verdict.partition(":")[0]
