"""The map of a sweep: errors of the validation images over temperature and alpha, with two points marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from kd.arms import GREY
from kd.commands.sweep.points import Point, Tried, label, plain
from kd.commands.sweep.results import Sweep
from kd.commands.sweep.text import counted

# Dark blue is good and yellow is bad: told apart with every common colour blindness, and in grey.
COLOURS = colormaps["cividis"]
INK, PAPER = "#010101", "#FEFEFE"  # on coloured ground; not pure black and white, which a dark page turns round
# Each over a wider dark line, so that it stands out from every ground.
LINES: Mapping[str, dict[str, Any]] = {
    "chosen": {"ls": "-", "lw": 3, "ec": "#E69F00"},
    "documented": {"ls": (0, (2.2, 1.4)), "lw": 2.2, "ec": "#FEFEFE"},
}
LEGEND: dict[str, Any] = {
    "loc": "outside lower center",
    "ncols": 2,
    "frameon": False,
    "handlelength": 2.6,
    "handleheight": 1.6,
}
LEVELS = 8  # colours of a search's map, which has no room for numbers


def sweep_map(sweep: Sweep) -> Figure:
    """A heat map of the combinations of values, or the proposed points where they are."""
    return search_map(sweep) if sweep.searched else heat_map(sweep)


def heat_map(sweep: Sweep) -> Figure:
    """Mean errors over temperature and alpha, with their standard deviation over the seeds.

    One map at the chosen point's further settings and one at those of the documented point, if they are others, in the
    same colours. Alpha 1 is the control and has no temperature: one column of equal cells. What was not tried is left
    blank.
    """
    marked = {role: sweep.roles[role] for role in LINES}
    parts = list(dict.fromkeys(its.others for its in marked.values()))
    shown = [each for each in sweep.tried if each.point.others in parts]
    own = {each.point.temperature for each in shown if each.point.temperature is not None}
    temperatures = sorted(own or {sweep.documented.temperature or 1.0})  # controls alone have none
    alphas = sorted({each.point.alpha for each in shown})
    size = (max(7.2, 2.6 + 1.25 * len(alphas)), 1 + len(parts) * (1.5 + 0.72 * len(temperatures)))
    figure = Figure(figsize=size, layout="constrained")
    norm = _scale([each.mean for each in shown if each.finite])
    for axes, others in zip(figure.subplots(len(parts), squeeze=False)[:, 0], parts, strict=True):
        _cells(axes, [each for each in shown if each.point.others == others], temperatures, alphas, norm)
        for role, its in marked.items():
            if its.others == others:
                _frame(axes, its, temperatures, alphas, role)
        mean = "Mean errors (± sd)" if len(sweep.seeds) > 1 else "Errors"
        at = "".join(f"at {name.replace('_', ' ')} {plain(value)}; " for name, value in others)
        _titles(axes, sweep, mean, f"{at}fewer is better")
    handles: list[Any] = [_lines((0, 0), (1, 1), role) for role in marked]
    figure.legend(handles, [f"{role}: {label(its, others=False)}" for role, its in marked.items()], **LEGEND)
    return figure


def _scale(means: Sequence[float]) -> Normalize:
    """From the best to as far beyond the median as that is beyond the best: a bad corner takes no colours."""
    low = min(means)
    return Normalize(low, max(low + 1, min(max(means), low + 2 * (median(means) - low))), clip=True)


def _cells(
    axes: Axes, shown: Sequence[Tried], temperatures: Sequence[float], alphas: Sequence[float], norm: Normalize
) -> None:
    """A cell for each point; for a control one at every temperature."""
    for each in shown:
        for row in _rows(each.point, temperatures):
            _cell(axes, row, alphas.index(each.point.alpha), each, norm)
    names = {1.0: "1\n(control)", 0.0: "0\n(teacher alone)"}
    axes.set_xticks(range(len(alphas)), [names.get(alpha, plain(alpha)) for alpha in alphas])
    axes.set_yticks(range(len(temperatures)), [plain(temperature) for temperature in temperatures])
    axes.set_xlim(-0.5, len(alphas) - 0.5)
    axes.set_ylim(-0.5, len(temperatures) - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _rows(own: Point, temperatures: Sequence[float]) -> Sequence[int]:
    return range(len(temperatures)) if own.temperature is None else [temperatures.index(own.temperature)]


def _cell(axes: Axes, row: int, column: int, tried: Tried, norm: Normalize) -> None:
    if not tried.finite:
        # Not hatched: the report's page takes no patterns in a drawing.
        axes.add_patch(Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, fc="none", ec=GREY, ls=(0, (2, 2)), lw=0.8))
        axes.text(column, row, "not\nfinite", ha="center", va="center", fontsize=9, color=GREY)
        return
    share = float(norm(tried.mean))
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=COLOURS(share), ec=PAPER, lw=1))
    ink = PAPER if share < 0.467 else INK  # where both have a contrast of 4.5 on this ground
    spread = "" if tried.sd is None else f"± {tried.sd:.1f}"
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axes.text(column, row + (0.1 if spread else 0), f"{tried.mean:.1f}", fontsize=11, **style)
    if spread:
        axes.text(column, row - 0.2, spread, fontsize=8, **style)


def _frame(axes: Axes, own: Point, temperatures: Sequence[float], alphas: Sequence[float], role: str) -> None:
    """Around the cells of a role; the chosen one's lies outside, should both be the same."""
    rows, inset = _rows(own, temperatures), 0.035 if role == "chosen" else 0.1
    corner = (alphas.index(own.alpha) - 0.5 + inset, rows[0] - 0.5 + inset)
    for line in _lines(corner, (1 - 2 * inset, len(rows) - 2 * inset), role):
        axes.add_patch(line)


def _lines(corner: tuple[float, float], size: tuple[float, float], role: str) -> tuple[Rectangle, Rectangle]:
    own = LINES[role]
    under = Rectangle(corner, *size, fc="none", zorder=3, gid="under", ec=INK, lw=own["lw"] + 2)
    return under, Rectangle(corner, *size, fc="none", zorder=3, gid=role, **own)


def _titles(axes: Axes, sweep: Sweep, what: str, more: str) -> None:
    axes.set_xlabel("alpha: weight of the labels")
    axes.set_ylabel("temperature")
    judged_by = f"{sweep.images.validation:,} validation {sweep.images.noun}, {counted(len(sweep.seeds), 'seed')}"
    axes.set_title(f"{what} of {judged_by}\n{more}", loc="left", fontsize=11)


def search_map(sweep: Sweep) -> Figure:
    """Every point that was proposed, coloured by its mean errors. Further settings differ from point to point."""
    shown = [each for each in sweep.tried if each.finite and each.point.temperature is not None]
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.subplots()
    norm = _scale([each.mean for each in sweep.tried if each.finite])
    levels = MaxNLocator(LEVELS, integer=True).tick_values(norm.vmin or 0, norm.vmax or 1)
    steps = BoundaryNorm(levels, COLOURS.N, extend="max")
    drawn = axes.scatter(
        [each.point.alpha for each in shown],
        [each.point.temperature or 1 for each in shown],
        c=[each.mean for each in shown],
        norm=steps,
        cmap=COLOURS,
        s=90,
        edgecolors="#000000",  # a page's ink: the best points are as dark as a dark page, the worst as bright as paper
        linewidths=0.8,
    )
    figure.colorbar(drawn, ax=axes, label="mean errors")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    narrow = high < 5 * low  # 1, 2, 5, 10, … could leave it without a number
    axes.yaxis.set_major_locator(MaxNLocator(7) if narrow else LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.04, 1.04)
    _mark_points(figure, axes, sweep)
    _titles(axes, sweep, "Mean errors", f"{len(shown)} proposed points; fewer is better")
    return figure


def _mark_points(figure: Figure, axes: Axes, sweep: Sweep) -> None:
    """A mark for each role; one line for a point on the labels alone, which has no temperature, whatever its roles."""
    handles = []
    for own in sweep.finals:
        roles, told = sweep.roles_of(own), f"{label(own, others=False)}, {sweep.found(own).mean:.1f} errors"
        if own.temperature is None:
            dashes = {"chosen": "-", "documented": "--", "control": ":"}[roles[0]]
            handles.append(axes.axvline(1, color=GREY, ls=dashes, lw=2, label=f"{', '.join(roles)}: {told}"))
            continue
        for role in roles:
            shape: dict[str, Any] = {"marker": "*", "ms": 22} if role == "chosen" else {"marker": "D", "ms": 14}
            style: dict[str, Any] = {"ls": "", "mfc": "none", "mec": "#D55E00", "mew": 2, "label": f"{role}: {told}"}
            handles += axes.plot(own.alpha, own.temperature, **shape, **style)
    figure.legend(handles=handles, **LEGEND | {"ncols": 1, "labelspacing": 0.9})
