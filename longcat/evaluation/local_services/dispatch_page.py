"""The page of `longcat dispatch`: who lost how much, and a map of each dispatcher's routes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment

from longcat.evaluation.local_services.comparison import Comparison, Row
from longcat.local_services.city import Place, Scene, clock
from longcat.page import STYLE
from longcat.printable import counted

_COLOURS = (
    "#2f6fde",
    "#d9480f",
    "#2b8a3e",
    "#9c36b5",
    "#b08900",
    "#0b7285",
    "#c2255c",
    "#5f3dc4",
    "#6b4f2a",
    "#495057",
)
_BLOCK = 20
_STREET, _LANE, _LINE = 14, 3.6, 0.8
"""Width of a street and of a courier's lane in it, at most, so that routes of one street lie side by side; the line's part of a lane."""
_WORDS = {
    "model": "The model names the courier; the order's place in the route is the cheapest.",
    "greedy": "The nearest free courier takes the order; if none is free, the one who is first.",
    "exact": "The courier and the place in the route that add least at this moment, by enumeration.",
}
_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Dispatch</title><style>{{ style|safe }}
.maps { display: grid; grid-template-columns: repeat({{ rows|length }}, minmax(0, 1fr)); gap: 1rem; }
@media (max-width: 52rem) { .maps { grid-template-columns: minmax(0, 1fr); } }
figure { display: flex; flex-direction: column; margin: 0; background: #fff; border: 1px solid #e1e5ec; border-radius: .5rem; padding: .75rem; }
figcaption { font-size: .9rem; margin-bottom: .5rem; } figcaption b, figcaption span, figcaption small { display: block; } figcaption small { color: #55607a; }
svg { display: block; width: 100%; height: auto; margin-top: auto; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; padding: 0; margin: .75rem 0; list-style: none; }
.key i { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem; margin-right: .35rem; }
</style></head><body><main>
<h1>Dispatch</h1>
<p class="lead">{{ lead }}</p>
<div class="verdict"><p>{{ verdict }}</p></div>
<table class="stack"><thead><tr><th>dispatcher</th><th class="n">added minutes</th><th class="n">late orders</th><th class="n">minutes late</th><th class="n">cost</th><th class="n">{{ ratio_title }}</th><th class="n">best choices</th></tr></thead>
{% for row in rows %}
<tr{{ ' class="ours"'|safe if loop.first }}><td class="title">{{ row.name }}</td><td class="n" data-label="added minutes">{{ row.driven }}</td><td class="n" data-label="late orders">{{ row.late_orders }}</td><td class="n" data-label="minutes late">{{ row.late }}</td><td class="n" data-label="cost">{{ row.cost }}</td><td class="n" data-label="{{ ratio_title }}">{{ row.ratio }}</td><td class="n" data-label="best choices">{{ row.best }} of {{ orders }}</td></tr>
{% endfor %}
</table>
<p class="note">Added minutes are those that the orders make couriers drive; cost adds the minutes by which orders are late. A choice is among the best if no other courier and no
other place in his route adds less at that moment. The optimum in hindsight knows all orders beforehand, which no dispatcher does.</p>
<h2>Routes</h2>
<ul class="key">
{% for courier in couriers %}<li><i style="background: {{ courier.colour }}"></i>{{ courier.id }}</li>
{% endfor %}
<li>◆ starts</li><li>■ merchants</li><li>● deliveries</li><li style="color: #c92a2a">◯ late</li></ul>
<div class="maps">
{% for row in rows %}
<figure><figcaption><b>{{ row.name }}</b><span>{{ row.driven_minutes }} driven, {{ row.late_orders }} late</span><small>{{ row.words }}</small></figcaption>
<svg viewBox="-20 -20 {{ width + 40 }} {{ height + 40 }}" role="img" aria-label="Routes of dispatcher {{ row.name }}">
<path d="{{ grid }}" stroke="#eef0f4" fill="none"/>
{% for place in merchants %}<rect x="{{ place[0] - 4 }}" y="{{ place[1] - 4 }}" width="8" height="8" fill="#adb5bd"/>
{% endfor %}
{% for route in row.routes %}
<polyline points="{{ route.points }}" fill="none" stroke="{{ route.colour }}" stroke-width="{{ stroke }}" stroke-linejoin="round"/>
{% endfor %}
{% for route in row.routes %}
<path d="M{{ route.start[0] }} {{ route.start[1] - 7 }}l7 7l-7 7l-7-7z" fill="{{ route.colour }}"><title>{{ route.id }} starts</title></path>
{% for stop in route.stops %}
<circle cx="{{ stop.place[0] }}" cy="{{ stop.place[1] }}" r="5" fill="{{ route.colour }}"><title>{{ stop.title }}</title></circle>
{% if stop.late %}<circle cx="{{ stop.place[0] }}" cy="{{ stop.place[1] }}" r="9" fill="none" stroke="#c92a2a" stroke-width="2.5"/>{% endif %}
{% endfor %}{% endfor %}
</svg></figure>
{% endfor %}
</div>
</main></body></html>
"""
)


def render(comparison: Comparison) -> str:
    """Return the page as HTML."""
    scene = comparison.scene
    city = scene.city
    return _PAGE.render(
        style=STYLE,
        verdict=comparison.verdict(),
        orders=len(scene.orders),
        lead=_lead(scene),
        couriers=[{"id": one.id, "colour": _colour(index)} for index, one in enumerate(scene.couriers)],
        ratio_title=ratio_title(comparison),
        stroke=f"{_lane(len(scene.couriers)) * _LINE:g}",
        width=city.width * _BLOCK,
        height=city.height * _BLOCK,
        grid="".join(f"M{x * _BLOCK} 0v{city.height * _BLOCK}" for x in range(city.width + 1))
        + "".join(f"M0 {y * _BLOCK}h{city.width * _BLOCK}" for y in range(city.height + 1)),
        merchants=[_dot(comparison, merchant.place) for merchant in city.merchants],
        rows=[
            {
                "name": row.name,
                "words": _WORDS.get(row.name, ""),
                "driven": row.hour.cost.driven,
                "driven_minutes": counted(row.hour.cost.driven, "minute"),
                "late": row.hour.cost.late,
                "late_orders": len(row.hour.late_orders),
                "cost": row.hour.cost.total,
                "ratio": shown_ratio(comparison, row),
                "best": row.best_decisions,
                "routes": list(_routes(comparison, row)),
            }
            for row in comparison.rows
        ],
    )


def _lead(scene: Scene) -> str:
    first, last = (clock(choose(order.placed for order in scene.orders)) for choose in (min, max))
    when = f"at {first}" if first == last else f"from {first} to {last}"
    return f"{counted(len(scene.orders), 'order')} placed {when}, {counted(len(scene.couriers), 'courier')}"


def ratio_title(comparison: Comparison) -> str:
    """Return what costs are divided by, for the head of a column."""
    return "ratio to optimum" if comparison.hindsight is None or comparison.hindsight.is_proven else "ratio to bound"


def shown_ratio(comparison: Comparison, row: Row) -> str:
    """Return an hour's ratio to the optimum in hindsight as it is shown."""
    ratio = comparison.ratio(row)
    return "not known" if ratio is None else f"{ratio:.2f}"


def _routes(comparison: Comparison, row: Row) -> Iterator[dict[str, Any]]:
    orders = comparison.scene.orders
    couriers = comparison.scene.couriers
    for index, (courier, made) in enumerate(zip(couriers, row.hour.visits, strict=True)):
        shift = _lane(len(couriers)) * (index - (len(couriers) - 1) / 2)
        points = [_dot(comparison, courier.place, shift)]
        for visit in made:
            x, y = _dot(comparison, visit.place, shift)
            points += [(x, points[-1][1]), (x, y)]  # along the streets: first east or west
        yield {
            "id": courier.id,
            "colour": _colour(index),
            "start": points[0],
            "points": " ".join(f"{x:g},{y:g}" for x, y in points),
            "stops": [
                {
                    "place": _dot(comparison, visit.place, shift),
                    "late": visit.stop.order in row.hour.late_orders,
                    "title": f"{orders[visit.stop.order].id}: {clock(visit.minute)}, promised for {clock(orders[visit.stop.order].due)}",
                }
                for visit in made
                if not visit.stop.pickup
            ],
        }


def _lane(couriers: int) -> float:
    return min(_LANE, _STREET / couriers)


def _dot(comparison: Comparison, place: Place, shift: float = 0) -> tuple[float, float]:
    """Return where a place is drawn, in the lane that is shifted so from the middle of the street; north is up."""
    x, y = place.x * _BLOCK, (comparison.scene.city.height - place.y) * _BLOCK
    return round(x + shift, 2), round(y + shift, 2)


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]
