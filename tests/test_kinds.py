"""Annotation kinds: which pixels get which raw label."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
from PIL import Image
from program import DATA

from etl import kinds
from etl.errors import ItemError, UsageError
from etl.kinds import Grid, Layer, fill_outline, integral, name_colors, name_values
from etl.manifests.manifest import Rule


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip("no test data here")
    return DATA / name


def rule(kind: str, **settings: Any) -> Rule:
    mask = "{case}_{label}.png" if kind == "file_per_label" else "{case}_mask.png"
    return Rule(image="{case}.png", mask=mask, kind=kind, **settings)


def png(path: Path, array: Any) -> Path:
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def read_layers(masks: Any, labels: dict[str, str]) -> Any:
    """The layers of masks; these kinds need to know nothing of the image."""
    return kinds.read_layers(masks, labels, Grid("image.png", (1, 1)))


def pixels(layers: list[Layer], name: str) -> list[list[int]]:
    found = np.zeros(layers[0].array.shape, int)
    for layer in layers:
        for value, raw in layer.names.items():
            found |= (layer.array == value) & (raw == name)
    return found.tolist()


def test_label_map_reads_values_and_keeps_what_is_undefined(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", [[0, 1, 2], [3, 2, 9]])
    (layer,) = read_layers([(rule("label_map"), path, None)], {"1": "liver", "2": "spleen", "3": "liver"})
    assert layer.array.tolist() == [[0, 1, 2], [1, 2, 9]]
    assert layer.names == {1: "liver", 2: "spleen"}


def test_instances_and_all_together() -> None:
    array = np.array([[0, 1, 2, 12]], np.uint8)
    (layer,) = name_values(array, {"1-10": "tooth", "12": "jaw"})
    assert layer.names == {1: "tooth", 2: "tooth", 3: "tooth", 4: "tooth", 5: "tooth", 6: "tooth", 7: "tooth",
                           8: "tooth", 9: "tooth", 10: "tooth", 12: "jaw"}  # fmt: skip
    (layer,) = name_values(array, {">0": "mouth"})
    assert (layer.array.tolist(), layer.names) == ([[0, 1, 1, 1]], {1: "mouth"})
    layers = name_values(array, {"12": "jaw", ">0": "mouth"})
    assert pixels(layers, "jaw") == [[0, 0, 0, 1]]
    assert pixels(layers, "mouth") == [[0, 1, 1, 1]]
    assert not np.setdiff1d(layers[0].array, [0, 12]).size
    with pytest.raises(UsageError, match="'1-3'"):
        name_values(array, {"2": "jaw", "1-3": "tooth"})


def test_a_named_zero_is_no_background() -> None:
    layers = name_values(np.array([[0, 128, 255]], np.uint8), {"0": "cup", "128": "disc", "255": "rest"})
    assert pixels(layers, "cup") == [[1, 0, 0]]
    assert pixels(layers, "disc") == [[0, 1, 0]]
    assert (layers[0].array != 0).all()


def test_float_labels_are_rounded_or_refused() -> None:
    assert integral(np.array([0, 0.9999, 2.0005])).tolist() == [0, 1, 2]
    assert integral(np.array([70000.0])).dtype == np.int32
    for bad in (0.5, np.nan):
        with pytest.raises(ItemError, match="unreadable"):
            integral(np.array([0, bad]))


def test_label_map_of_a_volume_keeps_its_grid(tmp_path: Path) -> None:
    path, affine = tmp_path / "a.nii.gz", np.diag([-1.0, 2, 3, 1])
    nib.save(nib.Nifti1Image(np.ones((2, 3, 4), np.float32), affine), path)
    (layer,) = read_layers([(rule("label_map"), path, None)], {"1": "liver"})
    assert layer.array.dtype.kind == "u"
    assert layer.array.shape == (2, 3, 4)
    assert np.array_equal(layer.affine, affine)


@pytest.mark.parametrize(("threshold", "expected"), [(None, [[0, 1, 1]]), (100, [[0, 0, 1]])])
def test_binary_threshold(tmp_path: Path, threshold: float | None, expected: list[list[int]]) -> None:
    path = png(tmp_path / "a.png", [[0, 1, 200]])
    layers = read_layers([(rule("binary", threshold=threshold), path, None)], {"1": "polyp"})
    assert pixels(layers, "polyp") == expected


def test_binary_colour_and_palette(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", [[[0, 0, 0], [0, 0, 1]]])
    assert pixels(read_layers([(rule("binary"), path, None)], {"1": "x"}), "x") == [[0, 1]]
    image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save(path)
    assert pixels(read_layers([(rule("binary"), path, None)], {"1": "x"}), "x") == [[1, 0]]


def test_file_per_label_unites_and_may_overlap(tmp_path: Path) -> None:
    files = {"a": ("liver", [[1, 0, 0]]), "b": ("tumor", [[1, 1, 0]]), "c": ("liver", [[0, 1, 0]]),
             "d": ("odd", [[0, 0, 1]])}  # fmt: skip
    one = rule("file_per_label")
    masks = [(one, png(tmp_path / f"{stem}.png", rows), label) for stem, (label, rows) in files.items()]
    layers = read_layers(masks, {"liver": "Liver", "tumor": "Tumor"})
    assert pixels(layers, "Liver") == [[1, 1, 0]]
    assert pixels(layers, "Tumor") == [[1, 1, 0]]
    assert [text for layer in layers for text in layer.undefined.values()] == ["odd"]
    assert len(layers) == 2


def test_colours_within_tolerance() -> None:
    colors = np.array([[[0, 0, 0], [255, 0, 0], [250, 0, 0], [0, 255, 0]]], np.uint8)
    labels = {"#FF0000": "disc"}
    layer = name_colors(colors, labels)
    assert layer.names == {1: "disc"}
    assert layer.array.tolist() == [[0, 1, 3, 2]]
    assert layer.undefined == {2: "#00ff00", 3: "#fa0000"}
    assert name_colors(colors, labels, tolerance=5).array.tolist() == [[0, 1, 1, 2]]
    assert name_colors(colors, labels, 5, "#00ff00").array.tolist() == [[2, 1, 1, 0]]


def ring(size: int = 21) -> np.ndarray:
    rows, columns = np.ogrid[:size, :size]
    distance = np.hypot(rows - size // 2, columns - size // 2)
    return (distance > 7) & (distance < 8.5)


def test_outline_is_filled(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", ring() * 255)
    (layer,) = read_layers([(rule("outline"), path, None)], {"1": "head"})
    assert layer.array[10, 10] == 1
    assert layer.array[0, 0] == 0
    filled = fill_outline(ring())
    assert np.array_equal(fill_outline(filled), filled)


def test_outline_cut_by_the_border_is_closed_by_it_and_an_open_one_refused() -> None:
    cut = ring()[6:]
    assert np.array_equal(fill_outline(cut), fill_outline(ring())[6:])
    gap = ring()
    gap[:, 10:12] = False
    with pytest.raises(ItemError, match="not closed"):
        fill_outline(gap)


def test_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pages = np.array([[[0, 1]], [[1, 1]], [[2, 0]]], np.uint8)
    tifffile.imwrite(path, pages, photometric="minisblack")
    layers = read_layers([(rule("multipage"), path, None)], {"0": "a", "2": "b"})
    assert [layer.names for layer in layers] == [{1: "a"}, {}, {3: "b"}]
    assert [layer.array.tolist() for layer in layers] == [[[0, 1]], [[2, 2]], [[3, 0]]]
    assert layers[1].undefined == {2: "1"}


def test_an_unreadable_kind_is_unsupported(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", [[1]])
    with pytest.raises(ItemError, match="unsupported"):
        read_layers([(rule("rtstruct"), path, None)], {})


def test_real_lossy_mask_is_clean() -> None:
    path = sorted(real("Kvasir-SEG/masks").glob("*.jpg"))[0]
    (layer,) = read_layers([(rule("binary"), path, None)], {"1": "polyp"})
    assert np.array_equal(layer.array == 1, np.asarray(Image.open(path).convert("L")) > 127)


def test_real_filled_outline_stays() -> None:
    path = real("HC18/training_set/001_HC_Annotation.png")
    (layer,) = read_layers([(rule("outline"), path, None)], {"1": "head"})
    assert np.array_equal(layer.array == 1, np.asarray(Image.open(path).convert("L")) > 0)


def test_real_pages() -> None:
    path = real("EAD2019/masks/0000600_mask.tif")
    layers = read_layers([(rule("multipage"), path, None)], {str(page): f"class {page}" for page in range(5)})
    assert len(layers) == 5
    assert layers[0].array.any()
    assert not layers[3].array.any()


def test_real_overlapping_organs() -> None:
    folder = real("BiomedParse/BiomedParseData-Demo")
    paths = sorted(folder.glob("**/06_CT_abdomen_*.png"))
    masks = [(rule("file_per_label"), path, path.stem.removeprefix("06_CT_abdomen_")) for path in paths]
    layers = read_layers(masks, {label: label for _, _, label in masks})
    assert paths
    for _, path, label in masks:
        assert np.array_equal(pixels(layers, label), np.asarray(Image.open(path).convert("L")) > 0)
