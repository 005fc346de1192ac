import pytest

from csc_nets.tasks.run_folder import RunFolder

CONFIG = {"data": {"name": "digits"}, "model": {"name": "csc_small"}, "task": {"name": "classification"}}


def test_the_configuration_survives_and_a_run_is_not_overwritten(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create(CONFIG)
    assert folder.config() == CONFIG
    with pytest.raises(FileExistsError, match="already holds a run; to go on with it: resume="):
        folder.create(CONFIG)


@pytest.mark.parametrize("text", ["", "- 1", "data: [", "data: {}\n", "a: \x00"])
def test_a_damaged_configuration_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config.yaml is damaged") as error:
        RunFolder(tmp_path).config()
    assert "\n" not in str(error.value)


def test_a_folder_without_a_run_and_an_unknown_checkpoint_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it holds no config\.yaml"):
        RunFolder(tmp_path).config()
    with pytest.raises(ValueError, match="which must be 'best' or 'last', got 'first'"):
        RunFolder(tmp_path).checkpoint("first")
