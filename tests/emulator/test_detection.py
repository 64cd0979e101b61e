"""torch_npu's operators of object detection against plain formulas and its documented examples."""

import math

import pytest
import torch

from tests.emulator.same import DEVICE, assert_same, run

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("npu", "seed")]


def overlap(a, b):
    """IoU, union, hull and squared distance over squared diagonal of two boxes of center and size."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a, b
    sides = [
        torch.min(p + s / 2, q + r / 2) - torch.max(p - s / 2, q - r / 2)
        for p, s, q, r in ((ax, aw, bx, bw), (ay, ah, by, bh))
    ]
    hull = [
        torch.max(p + s / 2, q + r / 2) - torch.min(p - s / 2, q - r / 2)
        for p, s, q, r in ((ax, aw, bx, bw), (ay, ah, by, bh))
    ]
    inter = sides[0].clamp_min(0) * sides[1].clamp_min(0)
    union = aw * ah + bw * bh - inter
    return inter / union, union, hull[0] * hull[1], ((ax - bx) ** 2 + (ay - by) ** 2) / (hull[0] ** 2 + hull[1] ** 2)


def giou(a, b):
    share, union, hull, _ = overlap(a, b)
    return (share - (hull - union) / hull)[:, None]


def diou(a, b):
    share, _, _, distance = overlap(a, b)
    return (share - distance)[None]


def ciou(a, b):
    share, _, _, distance = overlap(a, b)
    shape = 4 / math.pi**2 * ((b[2] / b[3]).atan() - (a[2] / a[3]).atan()) ** 2
    return (share - distance - (shape / (1 - share + shape)).detach() * shape)[None]


@pytest.mark.parametrize("plain", [giou, diou, ciou])
def test_losses_of_boxes(npu, plain):
    operator = getattr(npu, f"npu_{plain.__name__}")
    boxes = [torch.rand(4, 8) * 3 + 0.5 for _ in range(2)]
    assert_same(lambda a, b: operator(a, b, trans=True, is_cross=False), plain, *boxes, tolerance=1e-4)
    crossed = operator(*(t.to(DEVICE) for t in boxes), trans=True, is_cross=True).cpu()
    of_pair = plain(boxes[0][:, 2:3], boxes[1][:, 5:6])[0, 0]
    torch.testing.assert_close(crossed[2, 5] if plain is giou else crossed[5, 2], of_pair, atol=1e-4, rtol=1e-4)


def test_overlaps():
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]])
    truth = torch.tensor([[0.0, 0, 10, 20], [10, 10, 20, 20], [30, 30, 40, 40]])
    for operator in ("npu_iou", "npu_ptiou"):
        expected = torch.tensor([[0.5, 0], [0, 1], [0, 0]])
        torch.testing.assert_close(run(operator, boxes, truth), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(run(operator, boxes, truth, 1), expected, atol=1e-4, rtol=0)


EXAMPLES = [
    ("npu_bounding_box_encode", ([[1.0, 2, 3, 4], [3, 4, 5, 6]], [[5.0, 6, 7, 8], [7, 8, 9, 10]]),
     (0, 0, 0, 0, 0.1, 0.1, 0.2, 0.2), [[13.3281, 13.3281, 0, 0], [13.3281, 13.3281, 0, 0]]),
    ("npu_bounding_box_decode", ([[1.0, 2, 3, 4], [3, 4, 5, 6]], [[5.0, 6, 7, 8], [7, 8, 9, 6]]),
     (0, 0, 0, 0, 1, 1, 1, 1, (10, 10), 0.1), [[2.5, 6.5, 9, 9], [9, 9, 9, 9]]),
    ("npu_rotated_box_encode", ([[[30.69], [32.6], [45.94], [59.88], [-44.53]]], [[[30.44], [18.72], [33.22], [45.56], [8.5]]],
                                [1.0] * 5), (), [[[-0.4253], [-0.5166], [-1.7021], [-0.0162], [1.1328]]]),
    ("npu_rotated_box_decode", ([[[4.137], [33.72], [29.4], [54.06], [41.28]]], [[[0.0244], [-1.992], [0.2109], [0.315], [-37.25]]],
                                [1.0] * 5), (), [[[1.7861], [-10.5781], [33.0], [17.2969], [-88.4375]]]),
    ("npu_roi_align", ([[[[float(6 * r + c + 1) for c in range(6)] for r in range(6)]]], [[0, -2.0, -2.0, 22.0, 22.0]]),
     (0.25, 3, 3, 2, 0), [[[[4.5, 6.5, 8.5], [16.5, 18.5, 20.5], [28.5, 30.5, 32.5]]]]),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "tensors", "others", "expected"), EXAMPLES, ids=[case[0] for case in EXAMPLES])
def test_documented_examples(operator, tensors, others, expected):
    found = run(operator, *map(torch.tensor, tensors), *others)
    torch.testing.assert_close(found, torch.tensor(expected).float(), atol=0.02, rtol=1e-3)


def test_encoding_is_undone_by_decoding():
    anchors = torch.tensor([[2.0, 3, 12, 9]])
    truth = torch.tensor([[4.0, 3, 10, 12]])
    numbers = (0.1, 0, 0, 0.2, 0.5, 1, 2, 1)
    deltas = run("npu_bounding_box_encode", anchors, truth, *numbers)
    torch.testing.assert_close(
        run("npu_bounding_box_decode", anchors, deltas, *numbers, (50, 50), 0.01), truth, atol=0.02, rtol=0
    )


def test_suppression():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 10, 9]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.1])
    kept, number = run("npu_nms_v4", boxes, scores, 3, torch.tensor(0.5), torch.tensor(0.2), True)
    assert (kept.tolist(), number.item()) == ([1, 2, 0], 2)
    mask = run("npu_nms_with_mask", torch.cat([boxes, scores[:, None]], 1), 0.5)[2]
    assert mask.tolist() == [1, 0, 1, 0]
    chosen, values, kinds, numbers = run("npu_batch_nms", boxes[None, :, None], scores[None, :, None], 0.2, 0.5, 4, 3)
    assert torch.equal(chosen[0], torch.stack([boxes[1], boxes[2], torch.zeros(4)]))
    assert (values[0].tolist(), kinds.sum().item(), numbers.tolist()) == (pytest.approx([0.9, 0.8, 0]), 0, [2])


def test_rotated_boxes():
    square = torch.tensor([[[0.0, 0, 2, 2, 0]]])
    turned = torch.tensor([[[0.0, 0, 2, 2, 45], [1, 0, 2, 2, 180], [9, 9, 1, 1, 30]]])
    octagon = 8 * (math.sqrt(2) - 1)
    areas = torch.tensor([[[octagon, 2.0, 0]]])
    torch.testing.assert_close(run("npu_rotated_overlaps", square, turned), areas)
    torch.testing.assert_close(run("npu_rotated_iou", square, turned), areas / (8 - areas - torch.tensor([0.0, 0, 3])))
    kept, number = run("npu_nms_rotated", torch.cat([square, turned], 1)[0], torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.5)
    assert (kept.tolist(), number.tolist()) == ([0, 2, 3], [3])
    mirrored = square[0] * torch.tensor([1, 1, -1, 1, 1])  # of a width that is none: it overlaps nothing
    kept, _ = run(
        "npu_nms_rotated", torch.cat([square[0], mirrored, mirrored, square[0]]), torch.arange(4.0, 0, -1), 0.5
    )
    assert kept.tolist() == [0, 1, 2]
    corners = torch.tensor([[0.0, 0, 2, 2, 0], [2, 0, 0, 2, 0], [0, 0, 2, 2, 0]])
    kept, _ = run("npu_nms_rotated", corners, torch.tensor([0.9, 0.8, 0.7]), 0.5, mode=1)
    assert kept.tolist() == [0, 1]


def test_pooling_by_position(npu):
    rois = torch.tensor([[[0.0], [0], [0], [7], [7]]])

    def plain(x):
        maps = x.reshape(2, 2, 2, 8, 8)
        halves = (slice(0, 4), slice(4, 8))
        return torch.stack(
            [maps[:, i, j, a, b].mean((1, 2)) for i, a in enumerate(halves) for j, b in enumerate(halves)], 1
        ).reshape(1, 2, 2, 2)

    assert_same(lambda x: npu.npu_ps_roi_pooling(x, rois.to(DEVICE), 1.0, 2, 2), plain, torch.randn(1, 8, 8, 8))


def test_a_region_that_has_no_pixel_is_of_no_image(npu):
    x = torch.randn(2, 8, 1, 1, device=DEVICE, requires_grad=True)
    outside = torch.tensor([[[1.0], [2], [3], [4], [5]], [[6.0], [7], [8], [9], [10]]], device=DEVICE)
    result = npu.npu_ps_roi_pooling(x, outside, 0.5, 2, 2)
    result.sum().backward()
    assert (result.shape, result.abs().max().item(), x.grad.abs().max().item()) == ((2, 2, 2, 2), 0, 0)
    with pytest.raises(IndexError, match="npu_ps_roi_pooling: index 6 is out of bounds"):
        npu.npu_ps_roi_pooling(x, outside * torch.tensor([1.0, 0, 0, 0, 0], device=DEVICE)[:, None], 0.5, 2, 2)


def test_cells_of_anchors():
    flags = run("npu_anchor_response_flags", torch.tensor([[0.0, 0, 2, 2], [6, 2, 8, 4]]), [2, 4], [2, 2], 2)
    assert flags.reshape(2, 4, 2)[..., 0].tolist() == [[1, 0, 0, 0], [0, 0, 0, 1]]
