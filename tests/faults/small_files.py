"""One small file of every format, written by the format's own library; what the mutation test damages."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Maker = Callable[[Path], None]

RNG = np.random.default_rng(3)
Y, X = np.mgrid[0:48, 0:40]
RGB = np.stack([Y * 5, X * 6, (Y + X) * 2], -1).astype(np.uint8)
NOISE = RNG.integers(0, 256, (48, 40, 3), dtype=np.uint8)
VOLUME = RNG.integers(0, 2000, (6, 32, 24), dtype=np.int16)


def tiff(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, NOISE, photometric="rgb", tile=(16, 16), compression="lzw", predictor=2)


def plain_tiff(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, NOISE, photometric="rgb", rowsperstrip=7)


def jpeg_tiff(path: Path) -> None:
    import tifffile

    tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 16), compression="jpeg")


def ome_tiff(path: Path) -> None:
    import tifffile

    pixels = RNG.integers(0, 4096, (2, 3, 40, 32), dtype=np.uint16)
    with tifffile.TiffWriter(path, ome=True) as writer:
        options: dict[str, Any] = {"photometric": "minisblack", "tile": (16, 16), "compression": "zlib"}
        writer.write(pixels, subifds=1, metadata={"axes": "CZYX", "Channel": {"Name": ["a", "b"]}}, **options)
        writer.write(pixels[..., ::2, ::2], subfiletype=1, metadata=None, **options)


def geotiff(path: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=48, count=3, dtype="uint8", crs="EPSG:32631", nodata=0,
        transform=from_origin(5e5, 4e6, 10, 10), tiled=True, blockxsize=16, blockysize=16, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(NOISE, -1, 0))
        dataset.build_overviews([2])
        dataset.update_tags(place="here")


def plain_geotiff(path: Path) -> None:
    import rasterio
    from rasterio.transform import from_origin

    with rasterio.open(
        path, "w", driver="GTiff", width=40, height=48, count=3, dtype="uint8", crs="EPSG:32631",
        transform=from_origin(5e5, 4e6, 10, 10),
    ) as dataset:  # fmt: skip
        dataset.write(np.moveaxis(NOISE, -1, 0))


def aperio(path: Path) -> None:
    import tifffile

    text = "Aperio Image Library v11\r\n40x48 [0,0 40x48] (16x16) JPEG/RGB Q=70|AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 16), compression="jpeg", description=text, metadata=None)


def picture(kind: str, **options: Any) -> Maker:
    def make(path: Path) -> None:
        from PIL import Image

        Image.fromarray(NOISE if kind != "JPEG" else RGB).save(path, format=kind, **options)

    return make


def nifti(path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    nibabel.Nifti1Image(VOLUME, np.diag([2.0, 2.0, 3.0, 1.0])).to_filename(path)


def nrrd(path: Path) -> None:
    pytest.importorskip("nrrd").write(str(path), VOLUME, {"encoding": "gzip"})


def dicom(path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["one"])
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["two"])
    dataset.Modality, dataset.InstanceNumber, dataset.SeriesNumber = "CT", 1, 1
    dataset.Rows, dataset.Columns = VOLUME.shape[1:]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelSpacing, dataset.SliceThickness = [0.7, 0.7], 2
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.PixelData = VOLUME[0].tobytes()
    dataset.save_as(path, enforce_file_format=True)


def hdf5(path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("raw", data=VOLUME, chunks=(2, 16, 16), compression="gzip", fletcher32=True)


def npy(path: Path) -> None:
    np.save(path, VOLUME)


def ome_zarr(path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    levels = [{"path": "0", "coordinateTransformations": scale}]
    multiscales = [{"axes": axes, "datasets": levels, "name": "small"}]
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    group.attrs["ome"] = {"version": "0.5", "multiscales": multiscales}
    codec = zarr.codecs.ZstdCodec(level=1, checksum=True)
    array = group.create_array("0", shape=(3, 48, 40), chunks=(3, 16, 16), dtype="uint8", compressors=[codec])
    array[:] = np.moveaxis(NOISE, -1, 0)
    assert json.loads((path / "zarr.json").read_text())["zarr_format"] == 3


def video(path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            pixels = np.roll(np.pad(RGB, ((0, 0), (0, 24), (0, 0))), number, axis=1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


MAKERS: dict[str, tuple[str, Maker]] = {
    "TIFF": ("image.tif", tiff),
    "TIFF, plain strips": ("image.tif", plain_tiff),
    "TIFF, JPEG": ("image.tif", jpeg_tiff),
    "OME-TIFF": ("image.ome.tif", ome_tiff),
    "GeoTIFF": ("scene.tif", geotiff),
    "GeoTIFF, plain strips": ("scene.tif", plain_geotiff),
    "SVS": ("slide.svs", aperio),
    "PNG": ("picture.png", picture("PNG")),
    "JPEG": ("picture.jpg", picture("JPEG", quality=90)),
    "GIF": ("picture.gif", picture("GIF")),
    "WebP": ("picture.webp", picture("WEBP", lossless=True)),
    "BMP": ("picture.bmp", picture("BMP")),
    "JPEG 2000": ("picture.jp2", picture("JPEG2000")),
    "NIfTI": ("volume.nii", nifti),
    "NIfTI, packed": ("volume.nii.gz", nifti),
    "NRRD": ("volume.nrrd", nrrd),
    "DICOM": ("slice.dcm", dicom),
    "HDF5": ("stack.h5", hdf5),
    "NPY": ("stack.npy", npy),
    "OME-Zarr": ("image.ome.zarr", ome_zarr),
    "video": ("film.mp4", video),
}
"""Format -> what its file is called, and the function that writes it."""

LOSSY = ("JPEG 2000", "video")
"""Decoders of these fill in what a cut file lacks, and say nothing."""
