import pytest

from csc_nets.data.files import FileList
from csc_nets.data.kept_split import apply_split, read_split, write_split


@pytest.fixture
def images(tmp_path):
    """Ten files with a content each."""
    for number in range(10):
        (tmp_path / f"{number}.png").write_text(f"content {number}")
    return tmp_path


def held_out(root, sides):
    files = FileList(sorted(root.glob("*.png")), [0] * len(list(root.glob("*.png"))))
    train, val = apply_split(root, files, sides)
    assert sorted(train + val) == list(range(len(files.paths)))
    return [files.paths[i].name for i in val]


@pytest.fixture
def sides(images):
    val = [images / "3.png", images / "7.png"]
    (images / "split.json").write_text(write_split(images, set(images.glob("*.png")) - set(val), val))
    return read_split(images / "split.json")


def test_the_same_files_are_held_out(images, sides):
    assert held_out(images, sides) == ["3.png", "7.png"]


def test_new_images_are_trained_on_and_lost_ones_are_missed_by_nobody(images, sides):
    (images / "33.png").write_text("new")
    (images / "3.png").unlink()
    assert held_out(images, sides) == ["7.png"]


def test_content_decides_where_names_have_changed(images, sides):
    (images / "3.png").rename(images / "aside")
    (images / "4.png").rename(images / "3.png")
    (images / "aside").rename(images / "4.png")
    assert held_out(images, sides) == ["4.png", "7.png"]


def test_a_copy_of_a_held_out_image_is_held_out(images, sides):
    (images / "copy.png").write_text("content 7")
    assert held_out(images, sides) == ["3.png", "7.png", "copy.png"]


def test_an_edited_image_stays_on_its_side(images, sides):
    (images / "7.png").write_text("edited")
    assert held_out(images, sides) == ["3.png", "7.png"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"train": {}}', '{"train": {}, "val": []}'])
def test_a_damaged_file_is_named(images, text):
    (images / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is damaged: it must name the images in train and in val"):
        read_split(images / "split.json")


@pytest.mark.parametrize("text", ["", "[]", '{"train": {}}', '{"train": {"a": [1]}, "val": {}}', "[" * 10**5])
def test_a_hostile_split_is_named(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ValueError, match=r"split\.json is damaged"):
        read_split(tmp_path / "split.json")
