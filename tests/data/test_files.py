import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from csc_nets.data.files import FileList, ImageFiles, bits_in_use, central_square, find_classes, find_images


def write(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_classes_and_files_are_numbered_as_torchvision_numbers_them(tmp_path):
    from torchvision.datasets import ImageFolder

    for place in ("b/2.png", "a/1.PNG", "a/deep/0.png", "c/9.bmp"):
        write(tmp_path / place, noise(4, 4))
    (tmp_path / "a" / "notes.txt").write_text("no image")
    names = find_classes("toy", tmp_path)
    files = find_images("toy", tmp_path, names)
    reference = ImageFolder(tmp_path)
    assert names == reference.classes
    pairs = zip(files.paths, files.labels, strict=True)
    assert {(str(path), label) for path, label in pairs} == set(reference.samples)


def test_a_flat_folder_is_one_class(tmp_path):
    write(tmp_path / "train" / "0.png", noise(4, 4))
    assert find_classes("toy", tmp_path / "train") == ["train"]
    assert find_images("toy", tmp_path / "train", ["train"]).labels == [0]


def test_missing_and_empty_folders_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"toy: folder {tmp_path}/train is missing, expected one sub-folder"):
        find_classes("toy", tmp_path / "train")
    (tmp_path / "a").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"toy: no image under {tmp_path}, expected files ending in \.jpg"):
        find_images("toy", tmp_path, ["a"])


def test_a_class_that_training_has_not_is_named(tmp_path):
    write(tmp_path / "z" / "0.png", noise(4, 4))
    with pytest.raises(ValueError, match="has class 'z', which the training folder has not"):
        find_images("toy", tmp_path, ["a"])


def test_central_square_takes_the_middle():
    wide = Image.fromarray(noise(6, 10))
    assert np.array_equal(np.asarray(central_square(wide, 6, 1.0)), noise(6, 10)[:, 2:8])
    tall = Image.fromarray(noise(8, 4))
    assert np.array_equal(np.asarray(central_square(tall, 2, 0.5)), noise(8, 4)[3:5, 1:3])
    grey = Image.new("RGB", (40, 30), (10, 20, 30))
    assert np.asarray(central_square(grey, 7, 0.875)).tolist() == [[[10, 20, 30]] * 7] * 7


@pytest.mark.parametrize("size", [8, 64])
def test_decoding_all_agrees_with_one_at_a_time(tmp_path, size):
    paths = [write(tmp_path / f"{i}.png", noise(size, size + i, i)) for i in range(5)]
    files = ImageFiles("toy", FileList(paths, [4, 3, 2, 1, 0]), partial(central_square, size=size, share=1.0), 3)
    images, labels = files.decode_all()
    assert labels.tolist() == [4, 3, 2, 1, 0] and images.dtype == torch.uint8
    assert all(torch.equal(images[i], files[i, 7][0]) for i in range(5))
    assert torch.equal(images[0], torch.from_numpy(noise(size, size, 0)).permute(2, 0, 1))


def test_the_key_decides_the_random_crop_and_leaves_torchs_random_numbers_alone(tmp_path):
    path = write(tmp_path / "0.png", noise(20, 20))
    files = ImageFiles("toy", FileList([path], [0]), v2.RandomResizedCrop(8, (0.1, 0.5)), 3)
    state = torch.get_rng_state()
    first, again, other = (files[0, key][0] for key in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_grey_reading_of_a_colour_image(tmp_path):
    path = write(tmp_path / "0.png", np.full((3, 3, 3), 77, np.uint8))
    files = ImageFiles("toy", FileList([path], [0]), partial(central_square, size=3, share=1.0), 1)
    assert files.read(0).tolist() == [[[77] * 3] * 3]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "missing"])
def test_an_unreadable_image_is_named(tmp_path, suffix, damage):
    path = write(tmp_path / f"0.{suffix}", noise(40, 40))
    if damage == "missing":
        path.unlink()
    else:
        content = {"text": b"no image", "empty": b"", "truncated": path.read_bytes()[:900]}[damage]
        path.write_bytes(content)
    files = ImageFiles("toy", FileList([path], [0]), partial(central_square, size=8, share=1.0), 3)
    with pytest.raises(ValueError, match=f"^toy: cannot read the image {path} ") as caught:
        files[0, 0]
    assert "\n" not in str(caught.value)


def test_hidden_files_are_left_out_and_an_empty_class_is_named(tmp_path):
    for place in ("a/0.png", "b/1.png", ".ipynb_checkpoints/9.png", "a/._0.png", "a/.cache/7.png"):
        write(tmp_path / place, noise(4, 4))
    (tmp_path / "a" / "folder.png").mkdir()
    assert find_classes("toy", tmp_path) == ["a", "b"]
    assert [path.name for path in find_images("toy", tmp_path, ["a", "b"]).paths] == ["0.png", "1.png"]
    (tmp_path / "c").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no image under {tmp_path}/c, expected at least one for each class"):
        find_images("toy", tmp_path, ["a", "b", "c"])


def test_sixteen_bits_become_eight_and_thirty_two_are_refused(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    deep = write(tmp_path / "16.png", ramp)
    square = partial(central_square, size=8, share=1.0)
    pixels = ImageFiles("toy", FileList([deep], [0]), square, 1).read(0)
    assert np.array_equal(pixels.numpy()[0], ramp >> 8)
    float_image = write(tmp_path / "32.tiff", ramp.astype(np.float32) / 65535)
    with pytest.raises(ValueError, match=r"cannot read the image .*32\.tiff \(32 bits a pixel"):
        ImageFiles("toy", FileList([float_image], [0]), square, 1).read(0)


def test_linked_folders_are_followed_and_circles_are_not(tmp_path):
    write(tmp_path / "set" / "a" / "0.png", noise(4, 4))
    for number in range(3):
        write(tmp_path / "elsewhere" / f"{number}.png", noise(4, 4))
    write(tmp_path / "elsewhere" / "deep" / "3.png", noise(4, 4))
    (tmp_path / "set" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "a" / "up").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "a" / "gone").symlink_to(tmp_path / "nowhere")
    files = find_images("toy", tmp_path / "set", find_classes("toy", tmp_path / "set"))
    names = [str(path.relative_to(tmp_path / "set" / "a")) for path in files.paths]
    assert names == ["0.png", "more/0.png", "more/1.png", "more/2.png", "more/deep/3.png"]


def test_twelve_bits_in_sixteen(tmp_path):
    ramp = np.linspace(0, 4095, 64, dtype=np.uint16).reshape(8, 8)
    files = FileList([write(tmp_path / "12.png", ramp)], [0])
    square = partial(central_square, size=8, share=1.0)
    with pytest.raises(ValueError, match=r"toy: bits must be given: .* above 4095.* 12 bits; set data\.bits=12"):
        bits_in_use("toy", files)
    assert np.array_equal(ImageFiles("toy", files, square, 1, 12).read(0).numpy()[0], ramp >> 4)
    with pytest.raises(ValueError, match=r"12\.png \(a value of 4095 in an image of bits=10"):
        ImageFiles("toy", files, square, 1, 10).read(0)
    write(tmp_path / "16.png", ramp * 16)
    assert bits_in_use("toy", FileList([*files.paths, tmp_path / "16.png"], [0, 0])) == 16
    assert bits_in_use("toy", FileList([write(tmp_path / "8.png", noise(8, 8))], [0])) == 16


def write_colours(path, values):
    """A PNG of 16-bit colours ``(H, W, 3)``, which PIL cannot write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    return path


def test_colours_of_sixteen_bits(tmp_path):
    ramp = np.linspace(0, 65535, 8 * 8 * 3, dtype=np.uint16).reshape(8, 8, 3)
    square = partial(central_square, size=8, share=1.0)
    full = FileList([write_colours(tmp_path / "16.png", ramp)], [0])
    assert bits_in_use("toy", full) == 16
    assert np.array_equal(ImageFiles("toy", full, square, 3).read(0).permute(1, 2, 0).numpy(), ramp >> 8)
    dark = FileList([write_colours(tmp_path / "12.png", ramp >> 4)], [0])
    with pytest.raises(ValueError, match=r"toy: bits must be given: .* 12 bits"):
        bits_in_use("toy", dark)
    with pytest.raises(ValueError, match=r"12\.png \(colours of 16 bits, .* data\.bits=16 only, got 12"):
        ImageFiles("toy", dark, square, 3, 12).read(0)


def header_of_png(width, height):
    """A PNG of a few bytes that says how large it is."""
    data = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)

    def part(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", data) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(executed) (w) file closefile\n%%EOF\n"
HOSTILE = {
    "bomb.png": header_of_png(100_000, 100_000),
    "eps.jpg": EPS,
    "eps.png": EPS,
    "fits.tif": b"SIMPLE  =                    T".ljust(2880),
    "wmf.bmp": struct.pack("<IHhhhhHI", 0x9AC6CDD7, 0, 0, 0, 8, 8, 72, 0).ljust(64, b"\0"),
    "palette.ppm": b"P6 100000 100000 255\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_image_takes_no_more_than_it_has_and_calls_nothing(tmp_path, monkeypatch, name):
    """The reader of EPS files hands them to Ghostscript, whatever they are called."""
    from PIL import EpsImagePlugin

    def called(*args, **kwargs):
        raise AssertionError("an external program")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", called)
    monkeypatch.setattr("subprocess.Popen", called)
    path = tmp_path / "train" / name
    path.parent.mkdir()
    path.write_bytes(HOSTILE[name])
    files = FileList([path], [0])
    with pytest.raises(ValueError, match=f"toy: cannot read the image {path}") as error:
        ImageFiles("toy", files, lambda picture: picture, 3).read(0)
    assert "\n" not in str(error.value)
    assert bits_in_use("toy", files) == 16


def test_images_with_the_name_of_another_format_are_read(tmp_path):
    """Collections of images from the web have them."""
    for kind in ("PNG", "GIF", "JPEG", "WEBP", "BMP", "TIFF", "PPM"):
        Image.fromarray(noise(4, 4)).save(tmp_path / "image.jpg", format=kind)
        files = ImageFiles("toy", FileList([tmp_path / "image.jpg"], [0]), lambda picture: picture, 3)
        assert files.read(0).shape == (3, 4, 4)
