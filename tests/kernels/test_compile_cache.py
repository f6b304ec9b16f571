"""Where compiled kernels are kept: only in a folder that no one else can write."""

from __future__ import annotations

from ernie_kernels.cpu.compile import usable_cache_directory


def test_the_first_usable_folder_is_made_and_taken(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    good = tmp_path / "a" / "b"
    assert usable_cache_directory([blocked / "below", good, tmp_path / "later"]) == str(good)
    assert good.stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "later").exists()


def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    assert usable_cache_directory([shared]) is None


def test_without_any_folder_there_is_no_cache():
    assert usable_cache_directory([]) is None
