"""Operators of object detection: overlaps and losses of boxes, their encoding, suppression, and pooling of regions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from longcat.emulator.reference import check, gradients, operator_of, reference

_EPSILON = 1e-10
_OVERLAP_EPSILON = 1e-3
"""What `npu_iou` and `npu_ptiou` add to the areas, as torch_npu documents it (contrib.function.npu_iou)."""


def _corners(boxes: Tensor, trans: bool) -> list[Tensor]:
    """Return left, top, right and bottom of boxes `[4, n]`, which are corners, or with `trans` center and size."""
    a, b, c, d = boxes.float()
    return [a - c / 2, b - d / 2, a + c / 2, b + d / 2] if trans else [a, b, c, d]


def _pairs(boxes: Tensor, truth: Tensor, trans: bool, is_cross: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return corners of boxes and of truth that broadcast: one to one, or `[truth, boxes]` with `is_cross`."""
    first, second = _corners(boxes, trans), _corners(truth, trans)
    return first, [t[:, None] for t in second] if is_cross else second


def _overlap(first: list[Tensor], second: list[Tensor], mode: int) -> tuple[Tensor, Tensor]:
    """Return intersection over union, or over the second box with mode 1, and that area."""
    width = (torch.minimum(first[2], second[2]) - torch.maximum(first[0], second[0])).clamp_min(0)
    height = (torch.minimum(first[3], second[3]) - torch.maximum(first[1], second[1])).clamp_min(0)
    inter = width * height
    of_second = _area(second)
    area = of_second + _EPSILON if mode == 1 else _area(first) + of_second - inter + _EPSILON
    return inter / area, area


def _area(box: list[Tensor]) -> Tensor:
    return (box[2] - box[0]) * (box[3] - box[1])


def _hull(first: list[Tensor], second: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return width and height of the smallest box round both."""
    width = torch.maximum(first[2], second[2]) - torch.minimum(first[0], second[0])
    return width, torch.maximum(first[3], second[3]) - torch.minimum(first[1], second[1])


def _distance(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Return the squared distance of the centers over the squared diagonal of the hull."""
    width, height = _hull(first, second)
    x = (second[0] + second[2] - first[0] - first[2]) / 2
    y = (second[1] + second[3] - first[1] - first[3]) / 2
    return (x**2 + y**2) / (width**2 + height**2 + _EPSILON)


def _angles(first: list[Tensor], second: list[Tensor]) -> Tensor:
    """Return the difference of the angles of the diagonals, second minus first."""
    one, other = ((box[2] - box[0]) / (box[3] - box[1] + _EPSILON) for box in (first, second))
    return torch.atan(other) - torch.atan(one)


def _shaped(result: Tensor, is_cross: bool) -> Tensor:
    return result if is_cross else result[None]


def _checked(operator: str, boxes: Tensor, truth: Tensor, is_cross: bool, mode: int) -> None:
    check(boxes.dim() == truth.dim() == 2 and len(boxes) == len(truth) == 4, operator, "boxes have shape (4, n)")
    check(is_cross or boxes.shape == truth.shape, operator, "without is_cross there are as many boxes as gtboxes")
    check(mode in (0, 1), operator, f"mode is 0 or 1, found {mode}")
    check(boxes.dtype in (torch.float16, torch.float32), operator, f"boxes are float16 or float32, found {boxes.dtype}")


@reference("npu_giou")
def giou(boxes: Tensor, truth: Tensor, trans: bool = False, is_cross: bool = False, mode: int = 0) -> Tensor:
    """Compute the generalised IoU of boxes `[4, n]` and truth `[4, m]`: `[n, m]` with `is_cross`, else `[n, 1]`."""
    _checked("npu_giou", boxes, truth, is_cross, mode)
    first, second = _pairs(boxes, truth, trans, is_cross)
    overlap, union = _overlap(first, second, mode)
    width, height = _hull(first, second)
    hull = width * height + _EPSILON
    return _shaped(overlap - (hull - union) / hull, is_cross).mT.to(boxes.dtype)


@reference("npu_diou")
def diou(boxes: Tensor, truth: Tensor, trans: bool = False, is_cross: bool = False, mode: int = 0) -> Tensor:
    """Compute IoU minus the distance of the centers: `[m, n]` with `is_cross`, else `[1, n]`; arguments as `giou`."""
    _checked("npu_diou", boxes, truth, is_cross, mode)
    first, second = _pairs(boxes, truth, trans, is_cross)
    return _shaped(_overlap(first, second, mode)[0] - _distance(first, second), is_cross).to(boxes.dtype)


@reference("_npu_ciou")
def ciou_kept(
    boxes: Tensor,
    truth: Tensor,
    trans: bool = False,
    is_cross: bool = True,
    mode: int = 0,
    atan_sub_flag: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute DIoU minus a penalty for another aspect ratio (arXiv:1911.08287), and the angles' difference.

    The weight of the penalty is a constant for the gradient, as in the paper.
    """
    _checked("npu_ciou", boxes, truth, is_cross, mode)
    first, second = _pairs(boxes, truth, trans, is_cross)
    overlap, _ = _overlap(first, second, mode)
    angle = _angles(first, second)
    penalty = 4 / math.pi**2 * angle**2
    weight = (penalty / (1 + _EPSILON - overlap + penalty)).detach()
    result = overlap - _distance(first, second) - weight * penalty
    return _shaped(result, is_cross).to(boxes.dtype), _shaped(angle, is_cross).to(boxes.dtype)


@reference("npu_ciou", differentiable=True)
def ciou(
    boxes: Tensor,
    truth: Tensor,
    trans: bool = False,
    is_cross: bool = True,
    mode: int = 0,
    atan_sub_flag: bool = False,
) -> Tensor:
    """Compute `ciou_kept` without the angles. Composed: torch_npu has the gradient of `_npu_ciou` only."""
    result: Tensor = operator_of("_npu_ciou")(boxes, truth, trans, is_cross, mode, atan_sub_flag)[0]
    return result


def _loss_backward(
    name: str,
    function: Callable[..., Tensor],
    gradient: Tensor,
    boxes: Tensor,
    truth: Tensor,
    options: tuple[bool, bool, int],
) -> tuple[Tensor | None, Tensor | None]:
    trans, is_cross, mode = options
    check(trans and not is_cross and mode == 0, name, "the gradient needs trans=True, is_cross=False and mode=0")
    found = gradients(lambda b, t: function(b, t, trans, is_cross, mode), [boxes, truth], gradient)
    return found[0], found[1]


@reference("npu_giou_backward")
def giou_backward(
    gradient: Tensor, boxes: Tensor, truth: Tensor, trans: bool = False, is_cross: bool = False, mode: int = 0
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of boxes and truth."""
    gradient = gradient.reshape(-1, 1)
    return _loss_backward("npu_giou", giou, gradient, boxes, truth, (trans, is_cross, mode))


@reference("npu_diou_backward")
def diou_backward(
    gradient: Tensor, boxes: Tensor, truth: Tensor, trans: bool = False, is_cross: bool = False, mode: int = 0
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of boxes and truth."""
    return _loss_backward("npu_diou", diou, gradient.reshape(1, -1), boxes, truth, (trans, is_cross, mode))


@reference("npu_ciou_backward")
def ciou_backward(
    gradient: Tensor,
    boxes: Tensor,
    truth: Tensor,
    atan_sub: Tensor | None,
    trans: bool = False,
    is_cross: bool = True,
    mode: int = 0,
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of boxes and truth."""

    def value(*arguments: Any) -> Tensor:
        return ciou_kept(*arguments)[0]

    return _loss_backward("npu_ciou", value, gradient.reshape(1, -1), boxes, truth, (trans, is_cross, mode))


@reference("npu_iou")
def iou(boxes: Tensor, truth: Tensor, mode: int = 0) -> Tensor:
    """Compute IoU, or the intersection over truth with mode 1, of corners `[n, 4]` and `[m, 4]`: `[m, n]`."""
    inter, area = _table(boxes, truth, mode)
    return ((inter + _OVERLAP_EPSILON) / (area + _OVERLAP_EPSILON)).to(boxes.dtype)


@reference("npu_ptiou")
def ptiou(boxes: Tensor, truth: Tensor, mode: int = 0) -> Tensor:
    """Compute `iou` with an epsilon in the denominator only."""
    inter, area = _table(boxes, truth, mode)
    return (inter / (area + _OVERLAP_EPSILON)).to(boxes.dtype)


def _table(boxes: Tensor, truth: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    check(boxes.dim() == truth.dim() == 2, "npu_iou", "boxes have shape (n, 4)")
    check(boxes.shape[1] == truth.shape[1] == 4, "npu_iou", "boxes have shape (n, 4)")
    check(mode in (0, 1), "npu_iou", f"mode is 0 or 1, found {mode}")
    first, second = _pairs(boxes.mT, truth.mT, False, True)
    overlap, area = _overlap(first, second, mode)
    return overlap * area, area


@reference("npu_bounding_box_encode")
def bounding_box_encode(anchors: Tensor, truth: Tensor, *numbers: float) -> Tensor:
    """Return shift and log scale `[n, 4]` from anchors to truth, minus 4 means, divided by 4 deviations.

    Corners are pixels: a box from 1 to 3 is 3 wide. A device computes this in half precision, so it is rounded here.
    """
    (x, y, width, height), (to_x, to_y, to_width, to_height) = _pixel_centers(anchors), _pixel_centers(truth)
    epsilon = 1e-7
    shift = [(to_x - x) / (width + epsilon), (to_y - y) / (height + epsilon)]
    scale = [(to_width.abs() / (width + epsilon).abs()).log(), (to_height.abs() / (height + epsilon).abs()).log()]
    deltas = torch.stack(shift + scale, -1).half().float()
    return ((deltas - torch.tensor(numbers[:4])) / torch.tensor(numbers[4:])).half().to(anchors.dtype)


@reference("npu_bounding_box_decode")
def bounding_box_decode(rois: Tensor, deltas: Tensor, *numbers: float) -> Tensor:
    """Apply shift and log scale `[n, 4]`, times 4 deviations plus 4 means, to corners of pixels, within an image.

    The last numbers are height and width of the image and the most that log scales are clipped to, as a ratio.
    """
    max_shape, ratio = torch.Size(numbers[8]), float(numbers[9])  # type: ignore[arg-type]
    change = deltas.float() * torch.tensor(numbers[4:8]) + torch.tensor(numbers[:4])
    x, y, width, height = _pixel_centers(rois)
    bound = abs(math.log(ratio))
    x, y = x + width * change[:, 0], y + height * change[:, 1]
    width, height = width * change[:, 2].clamp(-bound, bound).exp(), height * change[:, 3].clamp(-bound, bound).exp()
    corners = [x - width / 2 + 0.5, y - height / 2 + 0.5, x + width / 2 - 0.5, y + height / 2 - 0.5]
    limits = [max_shape[1] - 1, max_shape[0] - 1] * 2 if len(max_shape) == 2 else [math.inf] * 4
    return torch.stack([c.clamp(0, most) for c, most in zip(corners, limits, strict=True)], -1).to(rois.dtype)


def _pixel_centers(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return center and size of boxes `[n, 4]` whose corners are pixels that belong to them."""
    left, top, right, bottom = boxes.float().unbind(-1)
    return (left + right) / 2, (top + bottom) / 2, right - left + 1, bottom - top + 1


def _centers(boxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    left, top, right, bottom = boxes.float().unbind(-1)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


@reference("npu_yolo_boxes_encode")
def yolo_boxes_encode(anchors: Tensor, truth: Tensor, stride: Tensor, performance_mode: bool = False) -> Tensor:
    """Return the target of each anchor: the truth's center in its grid cell, within 0 and 1, and log scales."""
    operator, epsilon = "npu_yolo_boxes_encode", 1e-6
    check(anchors.shape == truth.shape and anchors.shape[-1] == 4, operator, "boxes have shape (n, 4)")
    check(stride.dtype == torch.int32 and len(stride) == len(anchors), operator, "stride is int32, one a box")
    check(len(anchors) <= 20480, operator, f"there are at most 20480 boxes, found {len(anchors)}")
    (x, y, width, height), (to_x, to_y, to_width, to_height) = _centers(anchors), _centers(truth)
    center = [((to - at) / stride + 0.5).clamp(epsilon, 1 - epsilon) for to, at in ((to_x, x), (to_y, y))]
    size = [(to / of).clamp_min(epsilon).log() for to, of in ((to_width, width), (to_height, height))]
    return torch.stack(center + size, -1).to(anchors.dtype)


@reference("npu_anchor_response_flags")
def anchor_response_flags(truth: Tensor, featmap_size: list[int], stride: list[int], num_base_anchors: int) -> Tensor:
    """Return uint8 1 for each anchor of the cells of a feature map that hold the center of a box `[n, 4]`."""
    rows, columns = featmap_size
    left, top, right, bottom = truth.float().unbind(-1)
    column = ((left + right) / 2 / stride[0]).floor().long().clamp(0, columns - 1)
    row = ((top + bottom) / 2 / stride[1]).floor().long().clamp(0, rows - 1)
    flags = torch.zeros(rows * columns, dtype=torch.uint8)
    flags[row * columns + column] = 1
    return flags.repeat_interleave(num_base_anchors)


@reference("npu_grid_assign_positive")
def grid_assign_positive(
    assigned: Tensor,
    overlaps: Tensor,
    flags: Tensor,
    max_overlaps: Tensor,
    argmax_overlaps: Tensor,
    gt_max_overlaps: Tensor,
    gt_argmax_overlaps: Tensor,
    num_gts: int,
    pos_iou_thr: float,
    min_pos_iou: float,
    gt_max_assign_all: bool,
) -> Tensor:
    """Assign boxes to truths, counted from 1: where their best overlap is large, then each truth's best boxes.

    Args:
        assigned: `[boxes]`, what stays where nothing is assigned.
        overlaps: `[truths, boxes]`.
        flags: uint8 `[boxes]`, which of them may be assigned.
        max_overlaps: `[boxes]`.
        argmax_overlaps: int32 `[boxes]`.
        gt_max_overlaps: `[truths]`.
        gt_argmax_overlaps: int32 `[truths]`.
        num_gts: truths that count.
        pos_iou_thr: overlap from which on a box is assigned.
        min_pos_iou: overlap from which on a truth's best boxes are.
        gt_max_assign_all: all boxes with a truth's best overlap, not only the first.
    """
    result, allowed = assigned.clone(), flags.bool()
    positive = (max_overlaps > pos_iou_thr) & allowed
    result[positive] = (argmax_overlaps[positive] + 1).to(result.dtype)
    for truth in range(min(num_gts, len(gt_max_overlaps))):
        if not gt_max_overlaps[truth] > min_pos_iou:
            continue
        if gt_max_assign_all:
            result[(overlaps[truth] == gt_max_overlaps[truth]) & allowed] = truth + 1
        elif allowed[gt_argmax_overlaps[truth].long()]:
            result[gt_argmax_overlaps[truth].long()] = truth + 1
    return result


def _suppress(overlaps: Callable[[int], Tensor], order: list[int], threshold: float, most: int) -> list[int]:
    """Keep boxes in order that overlap none that was kept by more than a threshold; `overlaps` are of one with all."""
    kept: list[int] = []
    gone = torch.zeros(max(order, default=-1) + 1, dtype=torch.bool)
    for box in order:
        if len(kept) == most:
            break
        if not gone[box]:
            kept.append(box)
            gone |= overlaps(box)[: len(gone)] > threshold
    return kept


def _upright(boxes: Tensor) -> Callable[[int], Tensor]:
    """Return the IoU of one of the corners `[n, 4]` with all; corners may come in either order."""
    low, high = torch.minimum(boxes[:, :2], boxes[:, 2:]).float(), torch.maximum(boxes[:, :2], boxes[:, 2:]).float()
    corners = [low[:, 0], low[:, 1], high[:, 0], high[:, 1]]
    return lambda box: _overlap([c[box] for c in corners], corners, 0)[0]


def _ranked(scores: Tensor, threshold: float) -> list[int]:
    order = scores.float().argsort(descending=True, stable=True)
    return order[scores.float()[order] > threshold].tolist()


@reference("npu_nms_v4")
def nms(
    boxes: Tensor,
    scores: Tensor,
    max_output_size: float,
    iou_threshold: Tensor,
    scores_threshold: Tensor,
    pad_to_max_output_size: bool = False,
) -> tuple[Tensor, Tensor]:
    """Choose boxes `[n, 4]` by score that do not overlap; returns int32 indices, padded with 0, and their number."""
    most = int(max_output_size)
    check(boxes.dim() == 2 and boxes.shape[1] == 4, "npu_nms_v4", "boxes have shape (n, 4)")
    order = _ranked(scores, float(scores_threshold))
    kept = _suppress(_upright(boxes), order, float(iou_threshold), most)
    padding = [0] * (most - len(kept)) if pad_to_max_output_size else []
    return torch.tensor(kept + padding, dtype=torch.int32), torch.tensor(len(kept), dtype=torch.int32)


@reference("npu_nms_with_mask")
def nms_with_mask(x: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes with scores `[n, 5]`, int32 indices, and a uint8 mask of those that overlap no earlier one."""
    check(x.dim() == 2 and x.shape[1] in (5, 8), "npu_nms_with_mask", "input has shape (n, 5) or (n, 8)")
    mask = torch.zeros(len(x), dtype=torch.uint8)
    mask[_suppress(_upright(x[:, :4]), list(range(len(x))), float(iou_threshold), len(x))] = 1
    return x[:, :5].clone(), torch.arange(len(x), dtype=torch.int32), mask


@reference("npu_batch_nms")
def batch_nms(
    boxes: Tensor,
    scores: Tensor,
    score_threshold: float,
    iou_threshold: float,
    max_size_per_class: int,
    max_total_size: int,
    change_coordinate_frame: bool = False,
    transpose_box: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Choose boxes of each class by score that do not overlap, and the best of all classes.

    Args:
        boxes: `[batch, boxes, 1 or classes, 4]`.
        scores: `[batch, boxes, classes]`.
        score_threshold: scores from which on a box counts.
        iou_threshold: overlap from which on only the better box counts.
        max_size_per_class: boxes of a class.
        max_total_size: boxes of an image.
        change_coordinate_frame: not emulated.
        transpose_box: not emulated.

    Returns:
        Boxes `[batch, total, 4]`, scores and classes `[batch, total]`, filled up with zeros; int32 `[batch]` how many.
    """
    if change_coordinate_frame or transpose_box:
        raise NotImplementedError("npu_batch_nms: change_coordinate_frame and transpose_box are not emulated")
    check(boxes.dim() == 4 and scores.dim() == 3, "npu_batch_nms", "boxes have 4 dimensions and scores 3")
    batch, _, classes = scores.shape
    chosen = boxes.new_zeros(batch, max_total_size, 4)
    values, names = boxes.new_zeros(batch, max_total_size), boxes.new_zeros(batch, max_total_size)
    numbers = torch.zeros(batch, dtype=torch.int32)
    for image in range(batch):
        found: list[tuple[float, int, int]] = []
        for kind in range(classes):
            of_kind = boxes[image, :, kind if boxes.shape[2] > 1 else 0]
            order = _ranked(scores[image, :, kind], score_threshold)
            kept = _suppress(_upright(of_kind), order, iou_threshold, max_size_per_class)
            found += [(float(scores[image, box, kind]), kind, box) for box in kept]
        found = sorted(found, key=lambda entry: -entry[0])[:max_total_size]
        numbers[image] = len(found)
        for place, (score, kind, box) in enumerate(found):
            chosen[image, place] = boxes[image, box, kind if boxes.shape[2] > 1 else 0]
            values[image, place], names[image, place] = score, kind
    return chosen, values, names, numbers


@reference("npu_nms_rotated")
def nms_rotated(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    scores_threshold: float = 0.0,
    max_output_size: int = -1,
    mode: int = 0,
) -> tuple[Tensor, Tensor]:
    """Choose rotated boxes by score that do not overlap; returns int32 indices and, as `[1]`, their number.

    A box whose width or height is negative overlaps none.

    Args:
        boxes: `[n, 5]`: center, size and degrees (mode 0), or corners and degrees the other way round (mode 1).
        scores: `[n]`.
        iou_threshold: overlap from which on only the better box counts.
        scores_threshold: scores from which on a box counts.
        max_output_size: most boxes; -1 for all.
        mode: see above.
    """
    check(boxes.dim() == 2 and boxes.shape[1] == 5, "npu_nms_rotated", "dets have shape (n, 5)")
    check(mode in (0, 1), "npu_nms_rotated", f"mode is 0 or 1, found {mode}")
    outlines = [_outline(box, mode == 1, -1 if mode == 1 else 1) for box in boxes.double().tolist()]
    wide = boxes.double()
    width, height = (wide[:, 2] - wide[:, 0], wide[:, 3] - wide[:, 1]) if mode == 1 else (wide[:, 2], wide[:, 3])
    areas = width * height

    def overlaps(box: int) -> Tensor:
        inter = torch.tensor([_polygon_area(_clip(outlines[box], other)) for other in outlines], dtype=torch.float64)
        share = inter / (areas[box] + areas - inter).clamp_min(_EPSILON)
        return share.where((areas[box] > 0) & (areas > 0), 0.0)

    order = _ranked(scores, scores_threshold)
    kept = _suppress(overlaps, order, iou_threshold, len(order) if max_output_size < 0 else max_output_size)
    return torch.tensor(kept, dtype=torch.int32), torch.tensor([len(kept)], dtype=torch.int32)


Point = tuple[float, float]


def _outline(box: list[float], corners: bool, sense: int = 1) -> list[Point]:
    """Return the 4 corners of a rotated box; `sense` is the sense of its angle in degrees."""
    a, b, c, d, angle = box
    x, y, width, height = ((a + c) / 2, (b + d) / 2, c - a, d - b) if corners else (a, b, c, d)
    cosine, sine = math.cos(math.radians(sense * angle)) / 2, math.sin(math.radians(sense * angle)) / 2
    around = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return [(x + i * width * cosine - j * height * sine, y + i * width * sine + j * height * cosine) for i, j in around]


def _polygon_area(outline: list[Point]) -> float:
    following = outline[1:] + outline[:1]
    return abs(sum(x * y2 - x2 * y for (x, y), (x2, y2) in zip(outline, following, strict=True))) / 2


def _clip(outline: list[Point], other: list[Point]) -> list[Point]:
    """Return the outline of what two convex outlines of one sense share (Sutherland and Hodgman)."""
    for (x, y), (x2, y2) in zip(other, other[1:] + other[:1], strict=True):
        side = [(x2 - x) * (q - y) - (y2 - y) * (p - x) for p, q in outline]
        clipped: list[Point] = []
        for i, (p, q) in enumerate(outline):
            p2, q2 = outline[(i + 1) % len(outline)]
            s, s2 = side[i], side[(i + 1) % len(outline)]
            if s >= 0:
                clipped.append((p, q))
            if (s > 0 > s2) or (s < 0 < s2):
                share = s / (s - s2)
                clipped.append((p + share * (p2 - p), q + share * (q2 - q)))
        outline = clipped
    return outline


@reference("npu_rotated_overlaps")
def rotated_overlaps(boxes: Tensor, queries: Tensor, trans: bool = False) -> Tensor:
    """Return the areas that rotated boxes `[batch, n, 5]` and `[batch, k, 5]` share: `[batch, n, k]`.

    A box is its center, size and degrees, or with `trans` its corners and degrees.
    """
    return _rotated("npu_rotated_overlaps", boxes, queries, trans, True, lambda inter, one, other: inter)


@reference("npu_rotated_iou")
def rotated_iou(
    boxes: Tensor,
    queries: Tensor,
    trans: bool = False,
    mode: int = 0,
    is_cross: bool = True,
    v_threshold: float = 0.0,
    e_threshold: float = 0.0,
) -> Tensor:
    """Return the shares that rotated boxes overlap by: of their union, or of the first with mode 1.

    The result is `[batch, n, k]` with `is_cross`, else `[batch, n]`. The thresholds, by which a device's kernel counts
    points that nearly touch, do nothing here.
    """
    operator = "npu_rotated_iou"
    check(mode in (0, 1), operator, f"mode is 0 or 1, found {mode}")

    def share(inter: float, one: float, other: float) -> float:
        area = one if mode == 1 else one + other - inter
        return inter / area if area > 0 else 0.0

    return _rotated(operator, boxes, queries, trans, is_cross, share)


def _rotated(
    operator: str,
    boxes: Tensor,
    queries: Tensor,
    trans: bool,
    is_cross: bool,
    measure: Callable[[float, float, float], float],
) -> Tensor:
    check(boxes.dim() == queries.dim() == 3, operator, "boxes have shape (batch, n, 5)")
    check(boxes.shape[-1] == queries.shape[-1] == 5, operator, "boxes have shape (batch, n, 5)")
    check(boxes.shape[0] == queries.shape[0], operator, "boxes and query_boxes have one batch")
    rows = []
    for first, second in zip(boxes.double().tolist(), queries.double().tolist(), strict=True):
        one, other = ([_outline(box, trans) for box in group] for group in (first, second))
        pairs = [(a, b) for a in one for b in other] if is_cross else list(zip(one, other, strict=True))
        rows.append([measure(_polygon_area(_clip(a, b)), _polygon_area(a), _polygon_area(b)) for a, b in pairs])
    shape = (*boxes.shape[:2], queries.shape[1]) if is_cross else boxes.shape[:2]
    return torch.tensor(rows, dtype=torch.float64).reshape(shape).to(boxes.dtype)


@reference("npu_rotated_box_encode")
def rotated_box_encode(anchors: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Return shift, log scale and difference of tangents `[batch, 5, n]` from anchors to truth, times weights.

    A box is its corners and degrees.
    """
    x, y, width, height, angle = _rotated_centers(anchors)
    to_x, to_y, to_width, to_height, to_angle = _rotated_centers(truth)
    parts = [
        (to_x - x) / width, (to_y - y) / height, (to_width / width).log(), (to_height / height).log(),
        to_angle.deg2rad().tan() - angle.deg2rad().tan(),
    ]  # fmt: skip
    return (torch.stack(parts, 1) * weight.float()[:, None]).to(anchors.dtype)


@reference("npu_rotated_box_decode")
def rotated_box_decode(anchors: Tensor, deltas: Tensor, weight: Tensor) -> Tensor:
    """Return corners and degrees `[batch, 5, n]` of anchors that are changed as `rotated_box_encode` says."""
    x, y, width, height, angle = _rotated_centers(anchors)
    dx, dy, dw, dh, da = (deltas.float() / weight.float()[:, None]).unbind(1)
    x, y, width, height = x + dx * width, y + dy * height, width * dw.exp(), height * dh.exp()
    turned = (angle.deg2rad().tan() + da).atan().rad2deg()
    parts = [x - width / 2, y - height / 2, x + width / 2, y + height / 2, turned]
    return torch.stack(parts, 1).to(anchors.dtype)


def _rotated_centers(boxes: Tensor) -> list[Tensor]:
    left, top, right, bottom, angle = boxes.float().unbind(1)
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top, angle]


@reference("npu_roi_align")
def roi_align(
    x: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sample_num: int,
    roi_end_mode: int,
) -> Tensor:
    """Average samples of each bin of regions, by bilinear interpolation (Mask R-CNN, arXiv:1703.06870).

    Args:
        x: `[batch, channels, height, width]`.
        rois: `[regions, 5]`: image, left, top, right, bottom.
        spatial_scale: of the regions' coordinates.
        pooled_height: bins of a region.
        pooled_width: likewise.
        sample_num: samples of a bin in each direction; 0 for as many as it has pixels.
        roi_end_mode: 1 adds a pixel to right and bottom.
    """
    if roi_end_mode not in (0, 1):
        raise NotImplementedError(f"npu_roi_align: roi_end_mode {roi_end_mode} is not emulated")
    check(x.dim() == 4, "npu_roi_align", f"features have 4 dimensions, found {x.dim()}")
    check(rois.dim() == 2 and rois.shape[1] == 5, "npu_roi_align", "rois have shape (n, 5)")
    results = []
    for image, left, top, right, bottom in rois.tolist():
        start_x, start_y = left * spatial_scale, top * spatial_scale
        width = (right + roi_end_mode) * spatial_scale - start_x
        height = (bottom + roi_end_mode) * spatial_scale - start_y
        least = 1.0 - roi_end_mode
        rows = _samples(start_y, max(height, least), pooled_height, sample_num)
        columns = _samples(start_x, max(width, least), pooled_width, sample_num)
        values = _interpolate(x[int(image)].float(), rows.flatten(), columns.flatten())
        bins = values.reshape(-1, *rows.shape, *columns.shape)
        results.append(bins.mean((2, 4)))
    return torch.stack(results).to(x.dtype) if results else x.new_zeros(0, x.shape[1], pooled_height, pooled_width)


@reference("npu_roi_alignbk")
def roi_align_backward(
    gradient: Tensor,
    rois: Tensor,
    shape: list[int],
    pooled_width: int,
    pooled_height: int,
    spatial_scale: float,
    sample_num: int,
    roi_end_mode: int | None = None,
) -> Tensor | None:
    """Return the gradient of x, of this shape."""
    options = spatial_scale, pooled_height, pooled_width, sample_num, 1 if roi_end_mode is None else roi_end_mode
    return gradients(lambda x: roi_align(x, rois, *options), [gradient.new_zeros(shape)], gradient)[0]


def _samples(start: float, length: float, bins: int, number: int) -> Tensor:
    """Return where samples are, `[bins, samples]`."""
    each = number if number > 0 else max(math.ceil(length / bins), 1)
    return start + (torch.arange(bins * each) + 0.5).reshape(bins, each) * (length / (bins * each))


def _interpolate(image: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Interpolate `[channels, height, width]` at a grid; a pixel outside of the image is its edge, further out 0."""
    values = image
    for dim, places in ((1, rows), (2, columns)):
        size = values.shape[dim]
        outside = (places < -1) | (places > size)
        inside = places.clamp(0, size - 1)
        low = inside.floor().long()
        share = inside - low
        share = torch.where(outside, 0.0, share)
        shape = [1, 1, 1]
        shape[dim] = len(places)
        near = values.index_select(dim, low) * torch.where(outside, 0.0, 1 - share).reshape(shape)
        values = near + values.index_select(dim, (low + 1).clamp_max(size - 1)) * share.reshape(shape)
    return values


@reference("npu_ps_roi_pooling")
def ps_roi_pooling(x: Tensor, rois: Tensor, spatial_scale: float, group_size: int, output_dim: int) -> Tensor:
    """Average each bin of regions over its own channel (R-FCN, arXiv:1605.06409).

    Args:
        x: `[batch, output_dim * group_size**2, height, width]`.
        rois: `[batch, 5, regions]`: image, left, top, right, bottom.
        spatial_scale: of the regions' coordinates.
        group_size: bins of a region in each direction.
        output_dim: channels of the result `[batch * regions, output_dim, group_size, group_size]`.
    """
    operator = "npu_ps_roi_pooling"
    check(x.dim() == 4 and rois.dim() == 3 and rois.shape[1] == 5, operator, "rois have shape (batch, 5, n)")
    check(0 < group_size < 128 and output_dim > 0, operator, "group_size is within 1 and 127 and output_dim positive")
    height, width = x.shape[2:]
    grouped = x.float().reshape(len(x), output_dim, group_size, group_size, height, width)
    results = []
    for image, *box in rois.mT.reshape(-1, 5).double().tolist():
        left, top, right, bottom = (
            round(box[0]) * spatial_scale, round(box[1]) * spatial_scale,
            round(box[2] + 1) * spatial_scale, round(box[3] + 1) * spatial_scale,
        )  # fmt: skip
        rows = _bins(top, max(bottom - top, 0.1), group_size, height)
        columns = _bins(left, max(right - left, 0.1), group_size, width)
        for i, (y, y2) in enumerate(rows):
            for j, (x1, x2) in enumerate(columns):
                pixels = (y2 - y) * (x2 - x1) if y < y2 and x1 < x2 else 0  # a bin without them reads no image
                part = grouped[int(image) if pixels else 0, :, i, j, y:y2, x1:x2]
                results.append(part.sum((1, 2)) / max(pixels, 1))
    shape = rois.shape[0] * rois.shape[2], group_size, group_size, output_dim
    return torch.stack(results).reshape(shape).permute(0, 3, 1, 2).to(x.dtype)


@reference("npu_ps_roi_pooling_backward")
def ps_roi_pooling_backward(
    gradient: Tensor, rois: Tensor, spatial_scale: float, group_size: int, output_dim: int, input_size: list[int]
) -> Tensor | None:
    """Return the gradient of x, whose height and width are `input_size`."""
    shape = rois.shape[0], output_dim * group_size**2, *input_size[-2:]
    options = rois, spatial_scale, group_size, output_dim
    return gradients(lambda x: ps_roi_pooling(x, *options), [gradient.new_zeros(shape)], gradient)[0]


def _bins(start: float, length: float, number: int, size: int) -> list[tuple[int, int]]:
    """Return first and last pixel of each bin, within the image."""
    size_of_bin = length / number
    edges = [(math.floor(start + i * size_of_bin), math.ceil(start + (i + 1) * size_of_bin)) for i in range(number)]
    return [(min(max(first, 0), size), min(max(last, 0), size)) for first, last in edges]
