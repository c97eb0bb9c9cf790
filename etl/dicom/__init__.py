"""DICOM: headers, planes, series, pixels, codecs, segmentations. Only here is pydicom known; see docs/dicom.md."""
