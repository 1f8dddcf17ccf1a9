# Copyright (C) 2026 The anomalib-inctrl authors
# SPDX-License-Identifier: Apache-2.0
from PIL import ExifTags, Image


def write_turned(path, image, orientation, **options):
    """Write an image with an EXIF orientation, and return its EXIF data."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    image.save(path, exif=exif, **options)
    return exif
