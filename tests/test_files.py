"""A file is replaced whole or left as it was."""

import pytest

from sparse_compiler.files import replacing


def left(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_a_new_folder_and_file(tmp_path):
    with replacing(tmp_path / "new" / "a.json") as beside:
        assert beside.suffix == ".json"
        beside.write_text("whole")
        assert "a.json" not in left(tmp_path / "new")
    assert left(tmp_path / "new") == {"a.json": "whole"}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_was_there_survives(tmp_path, error):
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(error), replacing(tmp_path / "a.json") as beside:
        beside.write_text("half")
        raise error
    assert left(tmp_path) == {"a.json": "old"}


def test_where_a_folder_is_in_the_way(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError), replacing(tmp_path / "a.json") as beside:
        beside.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
