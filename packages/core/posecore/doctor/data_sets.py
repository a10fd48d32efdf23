"""Which files tell that a data set is there: the names that the loaders of `posecore.data` look for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSet:
    """A data set on disk.

    Attributes:
        name: Of its module in `posecore.data`, or of what makes it.
        folders: Where below the data folder it may lie; the data folder itself is looked at first.
        files: Patterns that must all be found; ``|`` separates those of which one is enough.
        enables: What it is for.
        get: Where to get it.
    """

    name: str
    folders: tuple[str, ...]
    files: tuple[str, ...]
    enables: str
    get: str

    def find(self, root: Path, file: str) -> Path | None:
        """The first path that one of ``files`` finds."""
        for folder in ("", *self.folders):
            for pattern in file.split("|"):
                if (path := next((root / folder).glob(pattern), None)) is not None:
                    return path
        return None


DATA_SETS = (
    DataSet(
        "cmu_mocap",
        ("cmu_mocap",),
        ("*/*.bvh",),
        "training and tests on free motion capture",
        "mocap.cs.cmu.edu, the BVH conversion by B. Hahne (cgspeed)",
    ),
    DataSet(
        "open_images",
        ("open_images",),
        ("*/*-of-*.h5",),
        "training on pictures without licensed data (a sample of 64 is shipped)",
        "python tools/prepare_open_images.py",
    ),
    DataSet(
        "amass",
        ("amass", "AMASS"),
        ("*/*/*_poses.npz|*/*/*_stageii.npz",),
        "training priors of poses and bodies",
        "register at amass.is.tue.mpg.de",
    ),
    DataSet(
        "human36m",
        ("human36m", "h36m"),
        ("data_3d_h36m.npz", "camera-parameters.json"),
        "the papers' tables on Human3.6M keypoints",
        "register at vision.imar.ro/human3.6m, then VideoPose3D's DATASETS.md",
    ),
    DataSet(
        "human36m_archive",
        ("human36m", "h36m"),
        ("S*/MyPoseFeatures/D3_Positions",),
        "Human3.6M with its videos",
        "register at vision.imar.ro/human3.6m",
    ),
    DataSet(
        "humaneva",
        ("humaneva", "humaneva15"),
        ("data_3d_humaneva15.npz", "data_2d_humaneva15_gt.npz"),
        "DiffuPose's table on HumanEva-I",
        "register at humaneva.is.tue.mpg.de, then VideoPose3D's DATASETS.md",
    ),
    DataSet(
        "mpi_inf_3dhp",
        ("mpi_inf_3dhp", "3dhp"),
        ("S*/Seq*/annot.mat", "TS*/annot_data.mat|mpi_inf_3dhp_test_set/TS*/annot_data.mat"),
        "tests across data sets, and its pictures",
        "register at vcai.mpi-inf.mpg.de/3dhp-dataset",
    ),
    DataSet(
        "threedpw",
        ("3dpw", "3DPW"),
        ("sequenceFiles/*/*.pkl",),
        "tables on 3DPW, in the wild",
        "accept its licence at virtualhumans.mpi-inf.mpg.de/3DPW",
    ),
    DataSet(
        "emdb",
        ("emdb", "EMDB"),
        ("P*/*/*_data.pkl",),
        "ScoreHMR's table on EMDB",
        "fill in the form at emdb.ait.ethz.ch",
    ),
    DataSet(
        "freihand",
        ("freihand",),
        ("training_K.json|evaluation_K.json",),
        "meshes of hands with HMDiff",
        "lmb.informatik.uni-freiburg.de/projects/freihand",
    ),
    DataSet(
        "coco", ("coco", "COCO"), ("annotations/person_keypoints_*.json",), "training on pictures", "cocodataset.org"
    ),
    DataSet("mpii", ("mpii", "MPII"), ("annot/*.json",), "training on pictures", "human-pose.mpi-inf.mpg.de"),
    DataSet(
        "eft",
        (),
        ("eft_fit/*.json|eft/*.json",),
        "bodies for COCO's and MPII's pictures",
        "facebookresearch/eft on GitHub, scripts/download_eft.sh",
    ),
    DataSet(
        "muco",
        ("MuCo/data", "MuCo", "muco", "data"),
        ("MuCo-3DHP.json",),
        "training on composed pictures",
        "register at vcai.mpi-inf.mpg.de/3dhp-dataset, then mks0601's 3DMPPE_POSENET_RELEASE on GitHub",
    ),
    DataSet(
        "mannequin",
        ("mannequin",),
        ("mannequin.pkl",),
        "ScoreHMR's table of several views",
        "google.github.io/mannequinchallenge, annotations in the README of ScoreHMR's release",
    ),
    DataSet(
        "ski_pose",
        ("Ski-PosePTZ-CameraDataset-png", "ski_pose", "skipose", "ski"),
        ("test/labels.h5|ski_test.h5",),
        "ZeDO's table on skiers",
        "ask at www.epfl.ch/labs/cvlab/data/ski-poseptz-dataset",
    ),
    DataSet(
        "up3d",
        ("up-3d", "UP-3D", "up3d"),
        ("trainval.txt",),
        "training on pictures with bodies",
        "files.is.tuebingen.mpg.de/classner/up",
    ),
    DataSet(
        "zedo_files",
        ("h36m", "human36m", "3dhp", "mpi_inf_3dhp", "3dpw"),
        ("h36m_test.pkl", "mpii3d_test.pkl", "pw3d_test.npz"),
        "ZeDO's tables on its own files",
        "README of ZeDO's release (GitHub: ipl-uw/ZeDO-Release); the data sets' licences apply",
    ),
    DataSet(
        "spin_npz",
        (),
        ("spin_npz/*.npz",),
        "training Diff-HMR and HMDiff as in the papers",
        "README of SPIN (GitHub: nkolot/SPIN); the data sets' licences apply",
    ),
    DataSet(
        "prepared",
        (),
        ("prepared/*/*/index.json",),
        "reading the sets above quickly",
        "python tools/prepare_<data set>.py",
    ),
)
