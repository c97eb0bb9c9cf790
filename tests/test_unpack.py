"""Archives: honest ones of every kind come out whole, hostile ones leave nothing, and the member is named."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from etl import unpack as unpacking
from etl.errors import Failure
from etl.unpack import Budget, Refused, move_in, unpack

FILES = {"images/a.png": b"image" * 900, "labels/a.png": b"", "read me.txt": b"text"}


def make_zip(path: Path, files: dict[str, bytes], **more: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = more.get("mode", stat.S_IFREG | 0o644) << 16
            packed.writestr(info, data)
    return path


def make_tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as packed:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            packed.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def patched(path: Path, old: bytes, new: bytes) -> Path:
    """The file with bytes replaced, everywhere: how to write what the library will not."""
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def test_a_zip(tmp_path: Path) -> None:
    unpack(make_zip(tmp_path / "a.zip", FILES | {"empty/": b""}), "zip", tmp_path / "out")
    assert tree(tmp_path / "out") == FILES
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.parametrize("packing", ["", "gz", "bz2", "xz"])
def test_a_tar_however_packed(tmp_path: Path, packing: str) -> None:
    members = [(entry("./", tarfile.DIRTYPE), b""), *((entry(f"./{n}", mode=0o4777), d) for n, d in FILES.items())]
    members.append((entry("big.bin"), os.urandom(3 * 2**20 + 17)))
    unpack(make_tar(tmp_path / "a.tar", members, f"w:{packing}"), "tar", tmp_path / "out")
    assert tree(tmp_path / "out") == FILES | {"big.bin": members[-1][1]}
    assert not (tmp_path / "out" / "images" / "a.png").stat().st_mode & 0o7111


def test_names_with_backslashes_are_paths(tmp_path: Path) -> None:
    unpack(make_zip(tmp_path / "a.zip", {"x\\y.txt": b"1"}), "zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {"x/y.txt": b"1"}


def test_an_archive_inside_stays_packed(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"../evil": b"x"}).read_bytes()
    unpack(make_zip(tmp_path / "a.zip", {"inner.zip": inner}), "zip", tmp_path / "out")
    assert tree(tmp_path / "out") == {"inner.zip": inner}


NAMES = [("../evil", "leaves its folder"), ("a/../../evil", "leaves its folder"), ("/evil", "an absolute path"),
         ("a\\..\\..\\evil", "leaves its folder"), ("C:\\evil", "an absolute path"), ("a\nb", "control characters"),
         ("x" * 256, "more than 255 bytes")]  # fmt: skip


@pytest.mark.parametrize(("name", "cause"), NAMES)
def test_names_that_are_refused(tmp_path: Path, name: str, cause: str) -> None:
    zipped = make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    tarred = make_tar(tmp_path / "a.tar", [(entry("good"), b"1"), (entry(name), b"2")])
    refuses(zipped, name, cause)
    refuses(tarred, name, cause)
    assert not list(tmp_path.parent.rglob("evil"))


def refuses(archive: Path, name: str, cause: str, budget: Budget = Budget()) -> None:
    with pytest.raises(Refused) as caught:
        unpack(archive, archive.suffix[1:], archive.with_suffix(".out"), budget)  # type: ignore[arg-type]
    assert f"member {name!r}" in str(caught.value)
    assert cause in str(caught.value)


TYPES = [(tarfile.SYMTYPE, "a link to '/etc/passwd'"), (tarfile.LNKTYPE, "a link to"), (tarfile.FIFOTYPE, "neither"),
         (tarfile.CHRTYPE, "neither"), (tarfile.BLKTYPE, "neither")]  # fmt: skip


@pytest.mark.parametrize(("kind", "cause"), TYPES)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes, cause: str) -> None:
    refuses(make_tar(tmp_path / "a.tar", [(entry("odd", kind, "/etc/passwd"), b"")]), "odd", cause)


@pytest.mark.parametrize(("mode", "cause"), [(stat.S_IFLNK, "a link"), (stat.S_IFIFO, "no plain file")])
def test_links_in_a_zip_are_refused(tmp_path: Path, mode: int, cause: str) -> None:
    refuses(make_zip(tmp_path / "a.zip", {"odd": b"/etc/passwd"}, mode=mode | 0o777), "odd", cause)


def test_a_link_cannot_be_used_by_a_later_member(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    members = [(entry("d", tarfile.SYMTYPE, "../target"), b""), (entry("d/evil"), b"x")]
    refuses(make_tar(tmp_path / "a.tar", members), "d", "a link")
    assert not (tmp_path / "target" / "evil").exists()


def test_encrypted_members_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"secret": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    refuses(archive, "secret", "encrypted")


def test_a_method_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"f": b"1"})
    data = bytearray(archive.read_bytes())
    data[8], data[data.index(b"PK\x01\x02") + 10] = 9, 9  # deflate64
    archive.write_bytes(data)
    refuses(archive, "f", "unpack it by hand")


TWICE = [(["a", "./a"], "the second of this path"), (["a", "a/b"], "in the place of another"),
         (["a/b", "a"], "in the place of another"), (["a", "a/"], "the second of this path")]  # fmt: skip


@pytest.mark.parametrize(("names", "cause"), TWICE)
def test_two_members_of_one_place_are_refused(tmp_path: Path, names: list[str], cause: str) -> None:
    kinds = [tarfile.DIRTYPE if n.endswith("/") else tarfile.REGTYPE for n in names]
    members = [(entry(n, k), b"" if n.endswith("/") else b"1") for n, k in zip(names, kinds, strict=True)]
    with pytest.raises(Refused, match=cause):
        unpack(make_tar(tmp_path / "a.tar", members), "tar", tmp_path / "out")
    zipped = make_zip(tmp_path / "a.zip", {n: b"" if n.endswith("/") else b"1" for n in names})
    with pytest.raises(Refused, match=cause):
        unpack(zipped, "zip", tmp_path / "zipped")


def test_bombs_are_refused_before_they_go_off(tmp_path: Path) -> None:
    zeros = bytes(80 * 2**20)
    refuses(make_zip(tmp_path / "a.zip", {"good": b"1", "zeros": zeros}), "zeros", "a bomb")
    assert not (tmp_path / "a.out").exists() or tree(tmp_path / "a.out") == {}
    refuses(make_tar(tmp_path / "b.tar", [(entry("zeros"), zeros)], "w:gz"), "zeros", "a bomb")


def test_the_budget_holds(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {f"f{i}": b"12345" for i in range(5)})
    refuses(archive, "f3", "more than 3 members", Budget(members=3))
    refuses(archive, "f2", "the budget is 12", Budget(size=12))


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    archive = patched(make_zip(tmp_path / "a.zip", {"f": bytes(1_000_000)}), (1_000_000).to_bytes(4, "little"),
                      (10).to_bytes(4, "little"))
    with pytest.raises(Failure, match="damaged"):
        unpack(archive, "zip", tmp_path / "out")
    assert (tmp_path / "out" / "f").stat().st_size <= 10


def test_a_tar_that_declares_more_than_any_disk(tmp_path: Path) -> None:
    info = entry("huge")
    info.size = 2**45
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(10240))
    refuses(tmp_path / "a.tar", "huge", "the budget is")


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    info = entry("holes", tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    header[483:495] = b"00000100000\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    (tmp_path / "a.tar").write_bytes(bytes(header) + bytes(10240))
    refuses(tmp_path / "a.tar", "holes", "neither a plain file")


def test_an_endless_extended_header_is_not_read(tmp_path: Path) -> None:
    info = entry("pax", tarfile.XHDTYPE)
    info.size = 2**30
    (tmp_path / "a.tar").write_bytes(info.tobuf(format=tarfile.USTAR_FORMAT) + bytes(10240))
    with pytest.raises(Failure, match="a header of 1073741824 bytes"):
        unpack(tmp_path / "a.tar", "tar", tmp_path / "out")


def test_cut_off_and_wrong_files_are_said(tmp_path: Path) -> None:
    for kind, archive in (("zip", make_zip(tmp_path / "a.zip", {"f": os.urandom(9000)})),
                          ("tar", make_tar(tmp_path / "a.tar", [(entry("f"), os.urandom(9000))], "w:gz"))):
        whole = archive.read_bytes()
        archive.write_bytes(whole[:6000])
        with pytest.raises(Failure, match="damaged"):
            unpack(archive, kind, tmp_path / f"{kind}-cut")  # type: ignore[arg-type]
        archive.write_bytes(b"<!DOCTYPE html><html>please log in</html>" + b" " * 600)
        with pytest.raises(Failure, match="a web page"):
            unpack(archive, kind, tmp_path / f"{kind}-page")  # type: ignore[arg-type]


def test_moving_in_joins_folders_and_writes_over_nothing(tmp_path: Path) -> None:
    def staged(files: dict[str, bytes]) -> Path:
        folder = tmp_path / f"staged{len(list(tmp_path.iterdir()))}"
        unpack(make_zip(tmp_path / "s.zip", files), "zip", folder)
        return folder

    move_in(staged({"a/1": b"1", "licence": b"L"}), tmp_path / "t")
    move_in(staged({"a/2": b"2", "licence": b"L"}), tmp_path / "t")
    assert tree(tmp_path / "t") == {"a/1": b"1", "a/2": b"2", "licence": b"L"}
    with pytest.raises(Refused, match="another file is there"):
        move_in(staged({"licence": b"M"}), tmp_path / "t")
    with pytest.raises(Refused, match="another file is there"):
        move_in(staged({"licence/x": b"M"}), tmp_path / "t")


def test_the_disk_must_have_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full: Callable[[object], object] = lambda _: type("Usage", (), {"free": 3})()  # noqa: E731
    monkeypatch.setattr(unpacking.shutil, "disk_usage", full)
    with pytest.raises(Failure, match="needs 5 bytes"):
        unpack(make_zip(tmp_path / "a.zip", {"f": b"12345"}), "zip", tmp_path / "out")
