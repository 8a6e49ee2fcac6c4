"""What one image file becomes: each file is written here, and the right pixels follow from what was written."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from kdrun.data import DataError, decode, folder, pixels
from kdrun.data.pixels import read_square

SIZE = 8
RAMP = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 1040  # 0 to 65520


def saved(image: Image.Image, name: str = "PNG", **options) -> bytes:
    image.save(buffer := io.BytesIO(), name, **options)
    return buffer.getvalue()


def read(content: bytes, mode: str = "RGB", size: int = SIZE) -> np.ndarray:
    return read_square(content, size, mode)[0].numpy()


def png(samples: np.ndarray, colour: int, *, transparent: bytes = b"") -> bytes:
    """A PNG of 16 bits, as the standard says: uint16 `[H, W, C]`."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    key = chunk(b"tRNS", transparent) if transparent else b""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(
    samples: np.ndarray, *, bits: int, order: str = "<", white_is_zero: bool = False, signed: bool = False
) -> bytes:
    """An uncompressed grey TIFF of one strip, as the standard says."""
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes() if bits != 12 else packed(samples)
    height, width = samples.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 273: 8, 277: 1}
    tags |= {278: height, 279: len(data), 339: 2 if signed else 1}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def packed(samples: np.ndarray) -> bytes:
    """Pairs of 12-bit samples in three bytes each."""
    first, second = samples.reshape(-1, 2).astype(np.uint16).T
    return np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], 1).astype(np.uint8).tobytes()


# --- depth ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        png(RAMP[..., None], 0),
        tiff(RAMP, bits=16),
        tiff(RAMP, bits=16, order=">"),
        tiff(65535 - RAMP, bits=16, white_is_zero=True),
        tiff(RAMP >> 4, bits=12),
        b"P5 8 8 65535\n" + RAMP.astype(">u2").tobytes(),
        saved(Image.fromarray(RAMP), "JPEG2000"),
    ],
    ids=["png", "tiff", "big-endian", "white is zero", "12 bits", "pgm", "jpeg2000"],
)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_grey_of_more_than_8_bits_is_scaled_to_its_high_byte(content, mode):
    assert np.array_equal(read(content, mode), np.repeat(RAMP[..., None] >> 8, len(mode), 2))


def test_colour_of_16_bits_has_the_same_scale():
    assert np.array_equal(read(png(np.stack([RAMP] * 3, 2), 2)), np.stack([RAMP >> 8] * 3, 2))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "32-bit"),
        (saved(Image.fromarray(RAMP.astype(np.float32) / 65535), "TIFF"), "floating-point"),
        (tiff(RAMP.astype(np.int16), bits=16, signed=True), "signed"),
        (b"Pf 8 8 -1.0\n" + RAMP.astype("<f4").tobytes(), "floating-point"),
        (png(np.stack([RAMP] * 3, 2), 2, transparent=bytes(6)), "transparent colour"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "not an image"),
        (b"", "not an image"),
    ],
    ids=["int32", "float", "int16", "pfm", "key of 16 bits", "postscript", "empty"],
)
def test_what_has_no_8_bit_form_is_refused_with_the_reason(content, reason):
    with pytest.raises(DataError, match=reason):
        read(content)


def test_one_bit_palette_and_cmyk_keep_their_colours():
    bits = Image.fromarray(RAMP > 30_000)
    assert np.array_equal(read(saved(bits), "L")[..., 0], np.where(RAMP > 30_000, 255, 0))
    colours = Image.new("RGB", (SIZE, SIZE), (200, 30, 60))
    colours.paste((10, 250, 100), (0, 0, 4, 8))
    for content in (
        saved(colours.quantize(2)),
        saved(colours.quantize(2), "GIF"),
        saved(colours.convert("CMYK"), "TIFF"),
    ):
        assert np.array_equal(read(content), np.asarray(colours))
    jpeg = saved(colours.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(read(jpeg).astype(int) - np.asarray(colours)).max() <= 3


# --- transparency ---------------------------------------------------------------------------------------------------


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return share * colour + (1 - share) * 255


ALPHA = (RAMP >> 8).astype(np.uint8)
COLOURS = np.stack([ALPHA.T, 255 - ALPHA, np.full_like(ALPHA, 90)], 2)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP", "TGA"])
def test_transparency_is_composited_on_white(name):
    image = Image.fromarray(np.dstack([COLOURS, ALPHA]))
    options = {"lossless": True, "exact": True} if name == "WEBP" else {}
    found = read(saved(image, name, **options))
    assert np.abs(found - on_white(COLOURS, ALPHA)).max() <= 1


def test_grey_with_transparency_is_composited_on_white():
    grey = np.dstack([ALPHA.T, ALPHA])
    for content in (saved(Image.fromarray(grey)), png(grey.astype(np.uint16) * 257, 4)):
        assert np.abs(read(content, "L") - on_white(grey[..., :1], ALPHA)).max() <= 1


def test_a_picture_in_the_alpha_channel_is_seen():
    black = np.dstack([np.zeros_like(COLOURS), ALPHA])
    for content in (saved(Image.fromarray(black)), png(black.astype(np.uint16) * 257, 6)):
        assert np.abs(read(content)[..., 0].astype(int) - (255 - ALPHA)).max() <= 1


def test_transparent_colours_are_white():
    image = Image.new("P", (SIZE, SIZE), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    clear = np.zeros((SIZE, SIZE, 1), dtype=bool)
    clear[:, :4] = True
    for name in ("PNG", "GIF"):
        found = read(saved(image, name, transparency=0))
        assert np.array_equal(found, np.where(clear, 255, (0, 0, 255))), name
    half = read(saved(image, transparency=b"\x80\xff")).astype(int)
    assert np.abs(half - np.where(clear, (255, 127, 127), (0, 0, 255))).max() <= 1
    grey = read(png(RAMP[..., None], 0, transparent=struct.pack(">H", int(RAMP[3, 3]))), "L")[..., 0]
    assert grey[3, 3] == 255
    grey[3, 3] = RAMP[3, 3] >> 8
    assert np.array_equal(grey, RAMP >> 8)


# --- orientation, frames, size --------------------------------------------------------------------------------------

UPRIGHT = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}
"""By the EXIF standard: 6 means that the stored image is to be turned by 90 degrees to the right."""


@pytest.mark.parametrize("name", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_once(name, orientation):
    (exif := Image.Exif())[0x112] = orientation
    options = {"lossless": True} if name == "WEBP" else {}
    found = read(saved(Image.fromarray(COLOURS), name, exif=exif, **options))
    assert np.array_equal(found, UPRIGHT[orientation](COLOURS))


def test_orientation_is_applied_to_jpeg_and_to_16_bits():
    (exif := Image.Exif())[0x112] = 3
    image = Image.new("L", (SIZE, SIZE), 0)
    image.paste(255, (0, 0, 8, 4))
    assert read(saved(image, "JPEG", exif=exif), "L")[0, 0, 0] < 20 < 235 < read(saved(image, "JPEG"), "L")[0, 0, 0]
    assert np.array_equal(read(saved(Image.fromarray(RAMP), exif=exif), "L")[..., 0], RAMP[::-1, ::-1] >> 8)


@pytest.mark.parametrize("name", ["GIF", "TIFF", "PNG", "WEBP"])
def test_the_first_of_several_frames_is_read_and_that_is_returned(name):
    frames = [Image.new("RGB", (SIZE, SIZE), (shade, shade, shade)) for shade in (40, 200)]
    options = {"lossless": True} if name == "WEBP" else {}
    for more in ([], frames[1:]):
        pixels, has_more_frames = read_square(
            saved(frames[0], name, save_all=True, append_images=more, **options), 8, "L"
        )
        assert pixels.unique().tolist() == [40]
        assert has_more_frames == bool(more)


@pytest.mark.parametrize(("width", "height"), [(31, 9), (9, 31), (72, 9), (20, 13), (7, 7), (8, 8)])
def test_up_to_8_to_1_the_resize_is_torchvisions(width, height):
    generator = np.random.default_rng(width)
    image = Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))
    expected = functional.center_crop(functional.resize(image, [SIZE]), [SIZE])
    assert np.array_equal(read(saved(image)), np.asarray(expected))


def test_a_very_long_image_gives_its_middle_and_takes_little_memory(monkeypatch):
    resized, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *rest: resized.append(size) or resize(self, size, *rest)
    )
    column = np.zeros((20_001, 1), dtype=np.uint8)
    column[10_000] = 200  # the very middle
    found = [read(saved(Image.fromarray(pixels)), "L", size=9)[..., 0] for pixels in (column, column.T)]
    assert found[0][4, 4] == found[1][4, 4] == 200
    assert resized == [(9, 81), (81, 9)]


# --- what cannot be read --------------------------------------------------------------------------------------------


def test_a_file_over_the_limit_names_what_allows_it(tmp_path, data_home, monkeypatch):
    for name in ("train/a/0.png", "train/b/0.png", "test/a/0.png", "test/b/0.png"):
        (tmp_path / "root" / name).parent.mkdir(parents=True)
        Image.new("1", (100, 90)).save(tmp_path / "root" / name)
    limit = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv("KDRUN_MAX_PIXELS", "8998")
    with pytest.raises(DataError, match=r"train/a/0.png: .*9000 pixels.*KDRUN_MAX_PIXELS=PIXELS"):
        decode(folder(tmp_path / "root", image_size=8, in_channels=1))
    for wrong in ("0", "-1", "1e9", "many"):
        monkeypatch.setenv("KDRUN_MAX_PIXELS", wrong)
        with pytest.raises(ValueError, match=f"KDRUN_MAX_PIXELS={wrong}: must be"):
            decode(folder(tmp_path / "root", image_size=8, in_channels=1))
    monkeypatch.setenv("KDRUN_MAX_PIXELS", "9000")
    assert len(decode(folder(tmp_path / "root", image_size=8, in_channels=1)).train) == 2
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("name", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_a_truncated_file_is_never_read(name):
    noise = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    content = saved(Image.fromarray(noise.numpy()), name)
    for share in (0.3, 0.5, 0.8, 0.95, 0.99):
        with pytest.raises((DataError, OSError)):
            read(content[: int(share * len(content))])


# --- whole images -----------------------------------------------------------------------------------------------------


def jpeg(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((117, 83), Image.Resampling.BICUBIC)
    options: dict = {
        "quality": 85,
        "subsampling": {"444": 0, "422": 1}.get(kind, 2),
        "progressive": kind == "progressive",
    }
    if kind in ("L", "CMYK"):
        image = image.convert(kind)
    if kind == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        options["exif"] = exif
    return saved(image, "JPEG", **options)


@pytest.mark.parametrize("kind", ["420", "422", "444", "progressive", "L", "CMYK", "turned"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_both_decoders_of_jpeg_give_equal_pixels(kind, mode, monkeypatch):
    """Torchvision's reads colour JPEGs that are upright; bound: 0."""
    used = []
    decode_jpeg = pixels._decode_jpeg
    monkeypatch.setattr(pixels, "_decode_jpeg", lambda content: used.append(kind) or decode_jpeg(content))
    content = jpeg(kind)
    found = pixels.read_whole(content, mode)
    assert bool(used) == (mode == "RGB" and kind not in ("CMYK", "turned"))
    monkeypatch.setattr(pixels, "_is_plain_jpeg", lambda content: False)
    assert torch.equal(found, pixels.read_whole(content, mode))
    assert found.shape == ((117, 83) if kind == "turned" else (83, 117)) + (len(mode),)


def test_a_damaged_jpeg_is_judged_by_pillow_alone(monkeypatch):
    whole = jpeg("420")
    for content in (whole[: len(whole) // 2], whole[:-2], whole[:400] + bytes(50) + whole[450:]):
        ends = []
        for plain in (pixels._is_plain_jpeg, lambda content: False):
            monkeypatch.setattr(pixels, "_is_plain_jpeg", plain)
            try:
                ends.append(pixels.read_whole(content, "RGB").tolist())
            except Exception as error:
                ends.append(type(error))
        assert ends[0] == ends[1]
