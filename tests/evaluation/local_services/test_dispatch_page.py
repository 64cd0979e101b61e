"""The page of an hour that was dispatched: what it counts, and that no route hides another."""

import re
from itertools import pairwise

import pytest

from longcat.evaluation.local_services.comparison import Comparison, Row
from longcat.evaluation.local_services.dispatch_page import render
from longcat.local_services.city import City, Courier, Merchant, Order, Place, Scene
from longcat.local_services.greedy import nearest_free
from longcat.local_services.simulation import simulate

SHOP = Merchant("m1", Place(1, 1), 5)


def page_of(placed, couriers=1, rows=1):
    orders = [
        Order(f"o{n}", "m1", SHOP.place, Place(4, 1), minute, minute, minute + 30) for n, minute in enumerate(placed)
    ]
    staff = tuple(Courier(f"c{n}", Place(0, 1), 700) for n in range(couriers))
    scene = Scene(City(5, 5, (SHOP,)), staff, tuple(orders))
    hour = simulate(scene, nearest_free)
    return render(Comparison(scene, tuple(Row(f"d{n}", hour, 0) for n in range(rows)), None))


@pytest.mark.parametrize(
    ("placed", "couriers", "lead"),
    [
        ([701], 1, "1 order placed at 11:41, 1 courier"),
        ([701, 701], 2, "2 orders placed at 11:41, 2 couriers"),
        ([701, 705], 1, "2 orders placed from 11:41 to 11:45, 1 courier"),
    ],
)
def test_what_there_is_is_counted(placed, couriers, lead):
    assert f'<p class="lead">{lead}</p>' in page_of(placed, couriers)


@pytest.mark.parametrize("couriers", [2, 3, 4, 10, 40])
def test_routes_of_one_street_lie_side_by_side_in_their_street(couriers):
    page = page_of([701] * couriers, couriers)
    routes = re.findall(r'<polyline points="([^"]+)".*? stroke-width="([0-9.]+)"', page)
    starts = sorted(float(points.split()[0].split(",")[1]) for points, _ in routes)
    assert len(routes) == couriers
    width = float(routes[0][1])
    assert all(after - before > width for before, after in pairwise(starts))
    assert max(starts) - min(starts) + width < 20  # a block, so that the next street is another


def test_maps_stand_in_one_row_or_below_one_another():
    page = page_of([701], rows=3)
    assert page.count("<svg") == 3
    assert "grid-template-columns: repeat(3, minmax(0, 1fr))" in page
    assert re.search(r"@media \(max-width: \w+\) { \.maps { grid-template-columns: minmax\(0, 1fr\); } }", page)
