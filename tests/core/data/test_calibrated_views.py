import json
import math
from pathlib import Path
from typing import Any

import pytest

from posecore.data.calibrated_views import read_cameras


def view(number: int, **fields: Any) -> dict[str, Any]:
    """A camera turned by `number` tenths about y, with a focal length that says which one it is."""
    sine, cosine = math.sin(number / 10), math.cos(number / 10)
    R = [[cosine, 0.0, sine], [0.0, 1.0, 0.0], [-sine, 0.0, cosine]]
    return {"K": [[800.0 + number, 0.5, 150], [0, 810.0, 200], [0, 0, 1]], "R": R, "t": [number, 0.0, 4.0], **fields}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a JSON file"),
        ("[]", 'expected {"views"'),
        ({"views": []}, 'expected {"views"'),
        ({"views": [3]}, 'expected {"views"'),
        ({"views": [view(0, name="a"), view(1)]}, "only some of the 2 views have name"),
        ({"views": [view(0, image_size=[3, 4]), view(1)]}, "only some of the 2 views have image_size"),
        ({"views": [view(0, name="a"), view(1, name="a")]}, "names of views must differ, got a, a"),
        ({"views": [view(0), view(1, K=[[1, 0], [0, 1]])]}, r"views\[1\]: K must be 3 x 3 finite numbers"),
        ({"views": [view(0, name="a", K=None)]}, r"views\[0\] \(a\): K must be 3 x 3 finite numbers, not None"),
        ({"views": [view(0, K=[[0, 0, 1], [0, 1, 1], [0, 0, 1]])]}, r"K must be \[\[fx, s, cx\].*fx, fy above 0"),
        ({"views": [view(0, K=[[1, 0, 1], [0, 1, 1], [0, 1, 1]])]}, r"K must be \[\[fx, s, cx\]"),
        ({"views": [view(0, R=[[2, 0, 0], [0, 1, 0], [0, 0, 1]])]}, r"views\[0\]: R must be a rotation"),
        ({"views": [view(0, R=[[-1, 0, 0], [0, 1, 0], [0, 0, 1]])]}, r"determinant \+1"),
        ({"views": [view(0, t=[0, float("nan"), 0])]}, r"views\[0\]: t must be 3 finite numbers"),
        ({"views": [view(0, t=["a", 0, 0])]}, r"views\[0\]: t must be 3 finite numbers"),
        ({"views": [view(0, image_size=[3, -4])]}, r"views\[0\]: image_size must be width and height above 0 px"),
    ],
)
def test_camera_files_that_are_none(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "cameras.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=rf"cameras\.json: .*{message}|cameras\.json: {message}"):
        read_cameras(path)


def test_camera_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cameras: there is no file .*none\.json"):
        read_cameras(tmp_path / "none.json")
