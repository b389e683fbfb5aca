"""The DataModule of Lightning: three parts, batches ready for a Trainer."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

import gz3d_zarr
from gz3d_zarr import UsageError

pytest.importorskip("torch")


@pytest.fixture
def module_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The DataModule; over a stand-in of the base class where Lightning is not installed."""
    try:
        import lightning  # noqa: F401
    except ImportError:
        stub = types.ModuleType("lightning")
        stub.LightningDataModule = type("LightningDataModule", (), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "lightning", stub)
    monkeypatch.delitem(sys.modules, "gz3d_zarr.export.lightning", raising=False)
    from gz3d_zarr.export.lightning import GZ3DDataModule

    return GZ3DDataModule


def test_three_parts_in_batches(store: Path, module_class: Any) -> None:
    module = module_class(
        store, batch_size=2, num_workers=0, fractions=(0.5, 0.25, 0.25),
        variables=["image", "zooniverse_subject_id"], crop=32,
    )  # fmt: skip
    seen: list[list[int]] = []
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        batches = list(loader)
        assert len(batches) == len(loader) > 0
        assert batches[0]["image"].shape == (2, 3, 32, 32)
        seen.append([i for batch in batches for i in batch["zooniverse_subject_id"].tolist()])
    ids = gz3d_zarr.open_store(store)["zooniverse_subject_id"].values.tolist()
    together = [i for part in seen for i in part]
    assert len(set(together)) == len(together) >= 17  # training drops an incomplete batch
    assert set(together) <= set(ids)
    train = module.train_dataloader()
    assert [b["zooniverse_subject_id"].tolist() for b in train] != [
        b["zooniverse_subject_id"].tolist() for b in train
    ]
    assert seen[1] == [i for i in ids if i in seen[1]]


def test_fractions_that_are_not_three(store: Path, module_class: Any) -> None:
    with pytest.raises(UsageError, match="expected three: fit, validate, test"):
        module_class(store, fractions=(0.5, 0.5))
    with pytest.raises(UsageError, match="fractions are 5, expected numbers above 0 with the sum"):
        module_class(store, fractions=5)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on workers
def test_a_trainer_fits(store: Path, module_class: Any, tmp_path: Path) -> None:
    import lightning
    import torch

    if not hasattr(lightning, "LightningModule"):
        pytest.skip("lightning is not installed")

    class Model(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 1, 1)
            self.steps = 0

        def training_step(self, batch: Any) -> Any:
            images, masks = batch
            self.steps += 1
            return (self.layer(images / 255) - masks.float()).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    module = module_class(
        store, batch_size=4, num_workers=0, classes=["spiral"], crop=32, target="mask",
        as_tuple=True,
    )  # fmt: skip
    model = Model()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, datamodule=module)
    assert model.steps == 2 * len(module.train_dataloader())
