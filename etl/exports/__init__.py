"""Other formats of a built dataset, one file each; see docs/exports.md. Here only their names."""

FORMATS = (
    "datasets", "webdataset", "fiftyone", "cvat", "tao", "odvg-mmdet", "odvg-open-groundingdino", "glip", "lvis",
    "yolo", "yolo-segment", "llava",
)  # fmt: skip
