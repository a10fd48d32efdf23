"""The configs that train priors on AMASS build their data sets from files of its layout."""

from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningArgumentParser

from posecore.data.amass import AMASS
from posecore.data.datamodule import PoseDataModule
from posecore.testing import write_amass
from scorehmr.data import ScoreHMRDataModule
from zedo.data import ZeDODataModule

PACKAGES = Path(__file__).parents[1] / "packages"


@pytest.mark.parametrize(
    ("method", "datamodule", "keys"),
    [
        ("zedo", ZeDODataModule, {"joints_rel"}),
        (
            "scorehmr",
            ScoreHMRDataModule,
            {"joints_2d_px", "confidence", "K", "image_size", "global_orient", "body_pose"},
        ),
    ],
)
def test_data_sets_are_built(method: str, datamodule: type[PoseDataModule], keys: set[str], tmp_path: Path) -> None:
    write_amass(tmp_path / "amass")
    parser = LightningArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_lightning_class_args(datamodule, "data")
    for group in ("seed_everything", "model", "trainer"):  # not looked at
        parser.add_argument(f"--{group}", type=object)
    config = PACKAGES / method / method / "configs/data/amass.yaml"
    args = parser.parse_args(["--config", str(config), "--data.root", str(tmp_path), "--data.batch_size", "2"])
    data = parser.instantiate_classes(args).data
    data.setup("fit")
    data.setup("test")
    batch = next(iter(data.train_dataloader()))
    assert keys <= set(batch)
    assert isinstance(data.val_sets["amass"], AMASS)
    assert set(data.test_sets["amass"].samples["clip"]) == {"SSM_synced/20160330_03333/chicken_wings_poses"}
