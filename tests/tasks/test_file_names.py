import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from csc_nets.tasks.file_names import quote_folders, short_value


@pytest.mark.parametrize(
    ("value", "text"), [("[64,128]", "64-128"), (-0.5, "-0.5"), ("a b='c'", "a-b-c"), ("null", "null"), ("''", "none")]
)
def test_values_need_no_quotes(value, text):
    assert short_value(value) == text


@pytest.mark.parametrize("name", ["3_model.lam=0.1,seed=2", "a b", "it's", "back\\\\", "[1]", "{a:1}", "plain-1.0_x"])
def test_names_of_folders_can_be_pasted(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for option in ("run", "resume"):
        (argument,) = quote_folders([f"{option}={name}"])
        (override,) = OverridesParser.create().parse_overrides([argument])
        assert (override.key_or_group, override.value()) == (option, name)


def test_what_is_no_folder_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["resume=a,b", "seed=0,1", "run='x=1'", "-m", "model.lam=0.1"]
    assert quote_folders(given) == given
