"""Other formats of a built dataset, one file each; see docs/exports.md. Here only their names."""

FORMATS = {
    "datasets": "Hugging Face datasets: Parquet with Image and ClassLabel",
    "webdataset": "tar shards of PNG and JSON",
    "fiftyone": "COCO folders as FiftyOne imports them",
    "cvat": "COCO 1.0 archive layout, ids from 1",
    "tao": "NVIDIA TAO Grounding DINO: ODVG and COCO, ids from 0",
    "odvg-mmdet": "ODVG of MMDetection",
    "odvg-open-groundingdino": "ODVG of Open-GroundingDino",
    "glip": "COCO with captions, and the ODinW configuration",
    "lvis": "LVIS: COCO with what is known to be absent",
    "yolo": "YOLO boxes",
    "yolo-segment": "YOLO polygons",
    "llava": "conversations of LLaVA, questions of LLaVA-Med",
}
