"""The map of a sweep: what decides, on validation, over temperature and alpha; points with a role are marked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from kd.arms import GREY
from kd.commands.sweep.points import Point, TriedPoint, format_point, format_value
from kd.commands.sweep.results import Sweep
from kd.formatting import count_noun
from kd.report.drawings import Drawing
from kd.report.style import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

# Dark blue is good, yellow is bad: distinguishable in greyscale and with all common colour blindness.
COLOURS = "cividis"
INK, PAPER = "#010101", "#FEFEFE"  # on coloured cells; the report inverts pure black and white in dark mode
# Frames of the cells, each drawn over a wider dark line to stand out from any cell colour.
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
LISTED = 20  # best points in the plot of a method that has no map
LEVELS = 8  # colours of a search map, which has no room for numbers


def map_drawing(sweep: Sweep) -> Drawing:
    """Return the drawing of the map, without the test scores and the margin, which it does not show."""
    finals = dict.fromkeys(sweep.finals, ())
    return partial(sweep_map, dataclasses.replace(sweep, finals=finals, final_seeds=(), margin=0.0))


def sweep_map(sweep: Sweep) -> Figure:
    """Plot a heat map of a grid, a scatter plot of the points that a search proposed, or a list for other methods."""
    if sweep.method != "kd":
        return point_list(sweep)
    return search_map(sweep) if sweep.searched else heat_map(sweep)


def name_mean(sweep: Sweep) -> str:
    """Return the name of a point's number in the map: the mean of what decides over the seeds."""
    return "Mean errors" if sweep.decides_by_errors else f"Mean {sweep.quantity.name}"


def point_list(sweep: Sweep) -> Figure:
    """Plot the mean of what decides of the best points, one below the other, and of all points that have a role."""
    trials = [trial for rank, trial in enumerate(sweep.ordered) if rank < LISTED or sweep.roles_of(trial.point)]
    trials = [trial for trial in trials if trial.finite]
    figure = new_figure(8.4, 1.4 + 0.34 * len(trials))
    axes = figure.subplots()
    for row, trial in enumerate(trials):
        roles = sweep.roles_of(trial.point)
        colour = {"chosen": "#D55E00", "documented": "#0072B2"}.get(roles[0] if roles else "", GREY)
        axes.errorbar(trial.mean, row, xerr=trial.sd, fmt="o", ms=8 if roles else 5, color=colour, capsize=3)
    labels = [_name_with_roles(sweep, trial.point) for trial in trials]
    axes.set_yticks(range(len(trials)), labels)
    axes.set_ylim(len(trials) - 0.5, -0.5)
    axes.set_xlabel(_describe_values(sweep).lower())
    images, seeds = f"{sweep.images.validation:,} validation {sweep.images.noun}", count_noun(len(sweep.seeds), "seed")
    title = f"{sweep.method} on {images}, {seeds}\n{len(trials)} of {len(sweep.tried)} points; {_describe_best(sweep)}"
    axes.set_title(title, loc="left", fontsize=11)
    return figure


def _name_with_roles(sweep: Sweep, point: Point) -> str:
    roles = ", ".join(sweep.roles_of(point))
    return f"{roles}: {format_point(point)}" if roles else format_point(point)


def heat_map(sweep: Sweep) -> Figure:
    """Plot the mean of what decides over temperature and alpha, with its standard deviation over the seeds.

    If the chosen and the documented point differ in other varied settings, each gets a map, on a shared colour scale.
    Alpha = 1 is the control, which has no temperature, so all cells of its column are equal. Untried cells are blank.
    """
    marked = {role: sweep.roles[role] for role in LINES}
    maps = _list_maps(list(marked.values()))
    trials = [trial for trial in sweep.tried if any(_is_in_map(trial.point, place) for place in maps)]
    tried_temperatures = {trial.point.temperature for trial in trials if trial.point.temperature is not None}
    # A sweep of controls has no temperatures, but the map needs a row.
    temperatures = sorted(tried_temperatures or {sweep.documented.temperature or 1.0})
    alphas = sorted({trial.point.alpha for trial in trials})
    height = 1 + len(maps) * (1.5 + 0.72 * len(temperatures))
    figure = new_figure(max(7.2, 2.6 + 1.25 * len(alphas)), height)
    norm = _make_norm([trial.mean for trial in trials if trial.finite])
    for axes, place in zip(figure.subplots(len(maps), squeeze=False)[:, 0], maps, strict=True):
        _draw_cells(axes, [trial for trial in trials if _is_in_map(trial.point, place)], temperatures, alphas, norm)
        for role, point in marked.items():
            if _is_in_map(point, place):
                _draw_frame(axes, point, temperatures, alphas, role)
        prefix = "".join(
            f"at {name.replace('_', ' ')} {format_value(value)}; "
            for name, value in (*place.others, *(place.method or ()))
        )
        _set_titles(axes, sweep, _describe_values(sweep), f"{prefix}{_describe_best(sweep)}")
    handles: list[Any] = [_make_frame((0, 0), (1, 1), role) for role in marked]
    figure.legend(handles, [f"{role}: {format_point(point, others=False)}" for role, point in marked.items()], **LEGEND)
    return figure


def _describe_values(sweep: Sweep) -> str:
    """Return the name of the values of a plot that shows their deviation over the seeds too."""
    return f"{name_mean(sweep)} (± sd)" if len(sweep.seeds) > 1 else name_mean(sweep).removeprefix("Mean ").capitalize()


def _describe_best(sweep: Sweep) -> str:
    return f"{'fewer' if sweep.decides_by_errors else 'lower'} is better"


def _list_maps(marked: Sequence[Point]) -> list[Point]:
    """Return a point of each map to draw: points share a map if they differ in temperature and alpha only.

    A control has no further settings of the method, so it gets a map of its own only if no other point is marked.
    """
    places = list(dict.fromkeys(point._replace(temperature=None, alpha=1.0) for point in marked))
    return [place for place in places if place.method or not any(p.method and p.others == place.others for p in places)]


def _is_in_map(point: Point, place: Point) -> bool:
    return point.others == place.others and (point.method == place.method or point.is_control)


def _make_norm(means: Sequence[float]) -> Normalize:
    """Scale colours from the best mean b to b + 2 · (median − b); worse points share the last colour."""
    from matplotlib.colors import Normalize

    low = min(means)
    return Normalize(low, max(low + 1, min(max(means), low + 2 * (median(means) - low))), clip=True)


def _draw_cells(
    axes: Axes, trials: Sequence[TriedPoint], temperatures: Sequence[float], alphas: Sequence[float], norm: Normalize
) -> None:
    """Draw a cell for each point; a control gets a cell at every temperature."""
    for trial in trials:
        for row in _find_rows(trial.point, temperatures):
            _draw_cell(axes, row, alphas.index(trial.point.alpha), trial, norm)
    names = {1.0: "1\n(control)", 0.0: "0\n(teacher alone)"}
    axes.set_xticks(range(len(alphas)), [names.get(alpha, format_value(alpha)) for alpha in alphas])
    axes.set_yticks(range(len(temperatures)), [format_value(temperature) for temperature in temperatures])
    axes.set_xlim(-0.5, len(alphas) - 0.5)
    axes.set_ylim(-0.5, len(temperatures) - 0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _find_rows(point: Point, temperatures: Sequence[float]) -> Sequence[int]:
    return range(len(temperatures)) if point.temperature is None else [temperatures.index(point.temperature)]


def _draw_cell(axes: Axes, row: int, column: int, trial: TriedPoint, norm: Normalize) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    if not trial.finite:
        # No hatching: the report does not allow SVG patterns.
        axes.add_patch(Rectangle((column - 0.44, row - 0.42), 0.88, 0.84, fc="none", ec=GREY, ls=(0, (2, 2)), lw=0.8))
        axes.text(column, row, "not\nfinite", ha="center", va="center", fontsize=9, color=GREY)
        return
    colour_position = float(norm(trial.mean))
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=colormaps[COLOURS](colour_position), ec=PAPER, lw=1))
    ink = PAPER if colour_position < 0.467 else INK  # at 0.467, both have a contrast of 4.5
    spread = "" if trial.sd is None else f"± {trial.sd:,.1f}"
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": ink}
    axes.text(column, row + (0.1 if spread else 0), f"{trial.mean:,.1f}", fontsize=11, **style)
    if spread:
        axes.text(column, row - 0.2, spread, fontsize=8, **style)


def _draw_frame(axes: Axes, point: Point, temperatures: Sequence[float], alphas: Sequence[float], role: str) -> None:
    """Frame the cells of a role; if two roles share a cell, the frame of the chosen point is the outer one."""
    rows, inset = _find_rows(point, temperatures), 0.035 if role == "chosen" else 0.1
    corner = (alphas.index(point.alpha) - 0.5 + inset, rows[0] - 0.5 + inset)
    for line in _make_frame(corner, (1 - 2 * inset, len(rows) - 2 * inset), role):
        axes.add_patch(line)


def _make_frame(corner: tuple[float, float], size: tuple[float, float], role: str) -> tuple[Rectangle, Rectangle]:
    from matplotlib.patches import Rectangle

    style = LINES[role]
    under = Rectangle(corner, *size, fc="none", zorder=3, gid="under", ec=INK, lw=style["lw"] + 2)
    return under, Rectangle(corner, *size, fc="none", zorder=3, gid=role, **style)


def _set_titles(axes: Axes, sweep: Sweep, quantity: str, subtitle: str) -> None:
    axes.set_xlabel("alpha: weight of the labels")
    axes.set_ylabel("temperature")
    images, seeds = f"{sweep.images.validation:,} validation {sweep.images.noun}", count_noun(len(sweep.seeds), "seed")
    axes.set_title(f"{quantity} on {images}, {seeds}\n{subtitle}", loc="left", fontsize=11)


def search_map(sweep: Sweep) -> Figure:
    """Plot every proposed point, coloured by the mean of what decides; other settings may differ too."""
    trials = [trial for trial in sweep.tried if trial.finite and trial.point.temperature is not None]
    figure = new_figure(8.4, 5.6)
    from matplotlib import colormaps
    from matplotlib.colors import BoundaryNorm
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes = figure.subplots()
    norm = _make_norm([trial.mean for trial in sweep.tried if trial.finite])
    levels = MaxNLocator(LEVELS, integer=True).tick_values(norm.vmin or 0, norm.vmax or 1)
    steps = BoundaryNorm(levels, colormaps[COLOURS].N, extend="max")
    scatter = axes.scatter(
        [trial.point.alpha for trial in trials],
        [trial.point.temperature or 1 for trial in trials],
        c=[trial.mean for trial in trials],
        norm=steps,
        cmap=COLOURS,
        s=90,
        edgecolors="#000000",  # inverted in dark mode: the best points are as dark as a dark page
        linewidths=0.8,
    )
    figure.colorbar(scatter, ax=axes, label=name_mean(sweep).lower())
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    is_narrow = high < 5 * low  # ticks at 1, 2, 5, 10, … could all lie outside the range
    axes.yaxis.set_major_locator(MaxNLocator(7) if is_narrow else LogLocator(subs=(1, 2, 5), numticks=20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(-0.04, 1.04)
    _mark_points(figure, axes, sweep)
    _set_titles(axes, sweep, name_mean(sweep), f"{len(trials)} proposed points; {_describe_best(sweep)}")
    return figure


def _mark_points(figure: Figure, axes: Axes, sweep: Sweep) -> None:
    """Mark each role; a control, which has no temperature, is one vertical line for all its roles."""
    handles, unit = [], "errors" if sweep.decides_by_errors else "%"
    for point in sweep.finals:
        roles, mean = sweep.roles_of(point), sweep.find_tried(point).mean
        text = f"{format_point(point, others=False)}, {mean:,.1f} {unit}"
        if point.temperature is None:
            dashes = {"chosen": "-", "documented": "--", "control": ":"}[roles[0]]
            handles.append(axes.axvline(1, color=GREY, ls=dashes, lw=2, label=f"{', '.join(roles)}: {text}"))
            continue
        for role in roles:
            shape: dict[str, Any] = {"marker": "*", "ms": 22} if role == "chosen" else {"marker": "D", "ms": 14}
            style: dict[str, Any] = {"ls": "", "mfc": "none", "mec": "#D55E00", "mew": 2, "label": f"{role}: {text}"}
            handles += axes.plot(point.alpha, point.temperature, **shape, **style)
    figure.legend(handles=handles, **LEGEND | {"ncols": 1, "labelspacing": 0.9})
