"""The DAG as an SVG drawing for the report: a column per stage, a box per step with its seconds."""

from collections.abc import Mapping

from markupsafe import Markup

from flows.dag import STAGES, Dag, Step

COLUMN, WIDTH, ROW, HEIGHT, TOP = 148, 124, 62, 46, 34  # drawing units, about a CSS pixel at full width
LONGEST_NAME = 15  # characters that fit in a box


def draw_dag(steps: Mapping[str, Step], seconds: Mapping[str, float]) -> Markup:
    """Draw the steps; an arrow for every need that no other need implies.

    Args:
        steps: in an order in which they can run; needs outside are left out.
        seconds: of each step, by name; the bar in a box is its share of the longest.
    Returns:
        An <svg> element whose texts are escaped; colours come from the page's style sheet.
    """
    at = _positions(steps)
    stages = [stage for stage in STAGES if any(step.stage == stage for step in steps.values())]
    width = COLUMN * len(stages) - (COLUMN - WIDTH) + 2
    height = TOP + ROW * (max((row for _, row in at.values()), default=0) + 1)
    parts = [
        Markup('<text class="stage" x="{}" y="14">{}</text>').format(1 + COLUMN * i, s) for i, s in enumerate(stages)
    ]
    for name in steps:
        parts += [_edge(at[need], at[name]) for need in direct_needs(steps, name)]
    longest = max(seconds.values(), default=0.0) or 1.0
    parts += [_box(step, at[name], seconds[name], seconds[name] / longest) for name, step in steps.items()]
    label = f"Graph of the {len(steps)} steps; the table below lists the same steps with what each needs."
    return Markup('<svg class="dag" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        width, height, label, Markup("").join(parts)
    )


def direct_needs(steps: Mapping[str, Step], name: str) -> list[str]:
    """Needs of a step that none of its other needs needs itself, in the order of the steps."""
    dag = Dag(steps)
    needs = {need for need in steps[name].needs.values() if need in steps}
    implied = {far for need in needs for far in dag.ancestors([need]) - {need}}
    return [need for need in steps if need in needs - implied]


def _positions(steps: Mapping[str, Step]) -> dict[str, tuple[int, int]]:
    """(column, row) of every step: its stage, and its number in the stage."""
    stages = [stage for stage in STAGES if any(step.stage == stage for step in steps.values())]
    rows: dict[str, int] = {}
    at = {}
    for name, step in steps.items():
        at[name] = (stages.index(step.stage), rows.get(step.stage, 0))
        rows[step.stage] = rows.get(step.stage, 0) + 1
    return at


def _edge(start: tuple[int, int], end: tuple[int, int]) -> Markup:
    x1, y1 = 1 + COLUMN * start[0] + WIDTH, TOP + ROW * start[1] + HEIGHT / 2
    x2, y2 = 1 + COLUMN * end[0], TOP + ROW * end[1] + HEIGHT / 2
    if end[0] == start[0]:  # within a column (a fine-tuning of a fine-tuning): out at the bottom, in at the top
        x1 = x2 = x1 - WIDTH / 2
        y1, y2 = y1 + HEIGHT / 2, y2 - HEIGHT / 2
        return Markup('<path class="edge" d="M{} {}L{} {}"/>').format(x1, y1, x2, y2)
    if end[0] - start[0] > 1 and start[1] == end[1]:  # past a column: below its box
        bend = y1 + ROW / 2
        middle = (x1 + x2) / 2
        return Markup('<path class="edge" d="M{0} {1}C{5} {1} {0} {4} {2} {4}S{6} {3} {7} {3}"/>').format(
            x1, y1, middle, y2, bend, x1 + 12, x2 - 30, x2
        )
    bend = (COLUMN - WIDTH) * 0.9
    return Markup('<path class="edge" d="M{} {}C{} {} {} {} {} {}"/>').format(
        x1, y1, x1 + bend, y1, x2 - bend, y2, x2, y2
    )


def _box(step: Step, at: tuple[int, int], seconds: float, share: float) -> Markup:
    x, y = 1 + COLUMN * at[0], TOP + ROW * at[1]
    label = step.name.removeprefix(f"{step.stage}-")  # the stage stands above the column
    short = label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…"
    return Markup(
        '<g><title>{name}: {seconds:.1f} s</title><rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>'
        '<rect class="share" x="{bx}" y="{by}" width="{bw:.1f}" height="3" rx="1.5"/>'
        '<text x="{tx}" y="{ty}">{short}</text><text class="small" x="{tx}" y="{sy}">{seconds:.1f} s</text></g>'
    ).format(
        name=step.name, seconds=seconds, x=x, y=y, w=WIDTH, h=HEIGHT, bx=x + 8, by=y + HEIGHT - 6,
        bw=max(share * (WIDTH - 16), 2), tx=x + 8, ty=y + 18, sy=y + 33, short=short,
    )  # fmt: skip
