"""Decoding images: modes, hostile files, and pixels identical to transformers' processors where the rules agree."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import Ernie4_5_VLMoeImageProcessorPil, PaddleOCRVLImageProcessorPil

from ernie_backend.media.image import MAX_IMAGE_PIXELS, open_image, resized, to_rgb
from ernie_backend.media.patches import merged_order, raster_order
from ernie_backend.media.resize import ernie_size, paddleocr_size
from ernie_backend.media.sniff import MediaError
from tests.media.conftest import encoded, picture

SIZES = [(480, 640), (768, 1024), (70, 700), (31, 29), (1, 1), (900, 300), (1080, 1920), (28, 28)]


def pixels(image: Image.Image, **settings: Any) -> np.ndarray:
    return np.asarray(to_rgb(open_image(encoded(image, **settings))))


def header_only(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


class TestAgainstTransformers:
    """Its PIL processors, with scaling and normalising left to the device, as here."""

    OFF: dict[str, Any] = {"do_rescale": False, "do_normalize": False, "return_tensors": "np"}  # noqa: RUF012

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_ernie(self, height: int, width: int) -> None:
        image = picture(height, width)
        theirs = Ernie4_5_VLMoeImageProcessorPil()(images=image, **self.OFF)
        size = ernie_size(height, width, factor=28, min_pixels=56 * 56, max_pixels=28 * 28 * 6177)
        ours = merged_order(np.asarray(resized(to_rgb(open_image(encoded(image))), *size))[np.newaxis], 14, 2)
        assert theirs["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]]
        assert ours.dtype == np.uint8 and (theirs["pixel_values"] == ours).all()

    @pytest.mark.parametrize(("height", "width"), SIZES)
    def test_paddleocr(self, height: int, width: int) -> None:
        image = picture(height, width)
        processor = PaddleOCRVLImageProcessorPil()
        size = paddleocr_size(height, width, factor=28, min_pixels=384**2, max_pixels=1536**2)
        ours = raster_order(np.asarray(resized(to_rgb(open_image(encoded(image))), *size))[np.newaxis], 14)
        theirs = processor(images=image, **self.OFF)
        assert theirs["image_grid_thw"].tolist() == [[1, size[0] // 14, size[1] // 14]]
        assert (theirs["pixel_values"].reshape(len(ours), 588) == ours).all()


class TestModes:
    def test_sixteen_bit_grey(self) -> None:
        values = np.arange(0, 65536, 64, np.uint16).reshape(32, 32)
        found = pixels(Image.fromarray(values))
        assert (found == (values // 256).astype(np.uint8)[..., np.newaxis]).all()

    def test_transparency_lies_on_white(self) -> None:
        image = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
        image.putpixel((1, 0), (200, 0, 0, 0))
        image.putpixel((2, 0), (0, 0, 0, 128))
        assert pixels(image)[0].tolist()[:2] == [[0, 0, 0], [255, 255, 255]]
        assert 126 <= pixels(image)[0, 2, 0] <= 128
        assert pixels(image.convert("LA"))[0, 1].tolist() == [255, 255, 255]

    def test_a_palette_with_a_transparent_colour(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        assert pixels(image)[0].tolist() == [[10, 20, 30], [40, 50, 60]]
        assert pixels(image, transparency=1)[0].tolist() == [[10, 20, 30], [255, 255, 255]]

    def test_opaque_alpha_changes_nothing(self) -> None:
        image = picture(20, 20)
        assert (pixels(image.convert("RGBA")) == np.asarray(image)).all()

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
    def test_other_modes_as_pillow_converts_them(self, mode: str) -> None:
        image = picture(20, 30).convert(mode)
        kind = "JPEG" if mode == "CMYK" else "PNG"
        data = encoded(image, kind)
        assert (np.asarray(to_rgb(open_image(data))) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).all()

    @pytest.mark.parametrize(
        ("kind", "settings"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 100})]
    )
    def test_formats(self, kind: str, settings: dict[str, Any]) -> None:
        image = picture(40, 60)
        found = np.asarray(to_rgb(open_image(encoded(image, kind, **settings)))).astype(int)
        assert found.shape == (40, 60, 3)
        assert np.abs(found - np.asarray(image)).mean() < (1 if kind in ("PNG", "BMP", "WEBP") else 30)

    def test_exif_orientation_is_not_applied(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        assert open_image(encoded(picture(10, 20), "JPEG", exif=exif)).size == (20, 10)

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_of_an_animation_the_first_picture(self, kind: str) -> None:
        frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
        settings = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **settings)
        assert np.asarray(to_rgb(open_image(data)))[4, 4].tolist() == [255, 0, 0]


class TestHostileFiles:
    @pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (2**31 - 1, 2**31 - 1), (MAX_IMAGE_PIXELS + 1, 1), (1, 2**31 - 1)])
    def test_a_bomb_is_known_by_its_header(self, width: int, height: int) -> None:
        with pytest.raises(MediaError, match=f"has more than {MAX_IMAGE_PIXELS} pixels"):
            open_image(header_only(width, height))

    @pytest.mark.parametrize("size", [(0, 5), (5, 0)])
    def test_no_pixels(self, size: tuple[int, int]) -> None:
        with pytest.raises(MediaError, match="truncated or broken"):
            to_rgb(open_image(header_only(*size)))

    def test_less_than_was_announced(self) -> None:
        with pytest.raises(MediaError, match="truncated or broken"):
            to_rgb(open_image(header_only(9000, 9000)))

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
    def test_truncated(self, kind: str) -> None:
        data = encoded(picture(200, 200), kind)
        for length in (20, len(data) // 2, len(data) * 3 // 4):
            with pytest.raises(MediaError, match="truncated or broken"):
                to_rgb(open_image(data[:length]))

    @pytest.mark.parametrize("kind", ["TIFF", "JPEG2000", "ICO", "PPM", "TGA"])
    def test_other_formats_stay_out(self, kind: str) -> None:
        with pytest.raises(MediaError, match="is not an image in one of the formats PNG, JPEG, WEBP, GIF, BMP"):
            open_image(encoded(picture(64, 64), kind))

    @pytest.mark.parametrize(("width", "height"), [(1, 1), (65535, 1), (1, 65535)])
    def test_extreme_shapes_are_fine(self, width: int, height: int) -> None:
        assert to_rgb(open_image(encoded(Image.new("RGB", (width, height))))).size == (width, height)

    def test_a_chunk_of_text_that_unpacks_to_a_hundred_megabytes(self) -> None:
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_text("bomb", "\0" * 100_000_000, zip=True)
        with pytest.raises(MediaError, match="truncated or broken"):
            to_rgb(open_image(encoded(picture(8, 8), pnginfo=info)))

    @given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP"]), st.integers(0, 2**32), st.integers(1, 12))
    def test_bytes_that_were_changed_are_an_image_or_an_error(self, kind: str, seed: int, changes: int) -> None:
        data = bytearray(encoded(picture(24, 24), kind))
        random = np.random.default_rng(seed)
        for place in random.integers(0, len(data), changes):
            data[place] = random.integers(0, 256)
        try:
            assert to_rgb(open_image(bytes(data))).mode == "RGB"
        except MediaError as error:
            assert str(error).split()[0] in ("is", "has")
