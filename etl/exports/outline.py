"""The outline of a mask as one polygon."""

from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def outline(mask: npt.NDArray[np.uint8]) -> Points:
    """One closed polygon (n, 2) of x, y around a mask (rows, columns); pixel (r, c) covers c … c + 1 and r … r + 1.

    The outline runs half-way between the centres of the pixels inside and outside: its bounds are the mask's box, and
    exactly the centres of the mask's pixels are inside, by the even-odd and by the winding rule. Parts and holes are
    joined by lines that are walked there and back, so that one polygon holds them all.
    """
    from skimage.measure import find_contours

    found: Any = find_contours
    loops = [corners(loop[:, ::-1]) for loop in found(np.pad(mask, 1), 0.5, fully_connected="high")]
    joined: list[Any] = []
    for loop in loops:
        joined += [loop, loops[0][-1:]]
    return np.concatenate(joined[:-1]) - 0.5


def corners(loop: Points) -> Points:
    """A closed loop without the points on the straight between their neighbours."""
    step = np.diff(loop, axis=0)
    turn = step * np.roll(step, 1, axis=0)[:, ::-1] @ [1, -1]
    kept = loop[:-1][turn != 0]
    return np.concatenate([kept, kept[:1]])
