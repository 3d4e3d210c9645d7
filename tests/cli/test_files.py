"""Files that are no clear table, through the command line: one line with file and line, never a traceback."""

import bz2
import gzip
import io
import os
import zipfile

import numpy as np
import pandas as pd
import pytest

from fcf_jax import cli
from fcf_jax.data import memory
from fcf_jax.data.formats import text

R_DEFAULT = '"user" "item" "rating"\n"1" 10 20 5\n"2" 10 21 4\n"3" 11 20 3\n'
PAIRS = "".join(f"{user},{item},1\n" for user in range(8) for item in range(9) if (user + item) % 3)


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz_of(*members, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def npy_header(header):
    padded = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


def parquet(**columns):
    buffer = io.BytesIO()
    pd.DataFrame(columns).to_parquet(buffer)
    return buffer.getvalue()


def damaged_lzma():
    content = bytearray(npz_of(("a.csv", os.urandom(3000)), method=zipfile.ZIP_LZMA))
    content[200:260] = bytes(60)
    return bytes(content)


def encrypted():
    content = bytearray(npz(users=[1], items=[2]))
    content[6] |= 1  # of the first member
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


TERABYTES = npy_header("{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }")
NESTED = npy_header("(" * 116)
REFUSED = {
    "R: a row name, blanks": (
        "a.txt",
        R_DEFAULT,
        ":2: expected 3 fields separated by blanks, got 4 (row names",
    ),
    "R: a row name, commas": ("a.csv", R_DEFAULT.replace(" ", ","), ":2: expected 3 fields separated by ','"),
    "a field more, then one less": (
        "a.csv",
        "user,item,rating\n1,2,3,4\n1,2\n",
        ":2: expected 3 fields separated by ',', got 4",
    ),
    "quoted, a field more": ("a.csv", 'user,item,rating\n"1",2,3,9\n2,3,4\n', ":2: expected 3 fields"),
    "quoted, a field less": ("a.csv", 'user,item,rating,x\n"1",2,3\n2,3,4,x\n', ":2: expected 4 fields"),
    "header of other columns only": (
        "a.csv",
        "user,title,item,rating\n",
        ": expected interactions, found none",
    ),
    "header with colons only": ("a.csv", "user::item::rating\n", ": expected interactions, found none"),
    "two separators": ("a.csv", "2001::1,5,3\n2001::2,6,3\n", ":1: cannot tell whether '2001::1,5,3' means"),
    "decimal comma": (
        "a.txt",
        "1 2 3,5\n1 3 4,0\n2 3 4,5\n",
        ":1: expected a finite number as strength, got '3,5",
    ),
    "thousands": ("a.txt", "1 2 1,000\n1 3 1,000\n", ":1: expected a finite number as strength, got '1,000'"),
    "null character": (
        "a.csv",
        "user,item,rating\na\0,5,1\na,5,2\n",
        ":2: expected ids without null characters",
    ),
    "an array renamed": ("a.npz", npy_header("{}"), ": expected an NPZ archive, got a single array (.npy)"),
    "raw bytes": (
        "a.npz",
        npz(users=np.zeros(3, "V4"), items=[1, 2, 3]),
        ": column users: expected a column",
    ),
    "records": (
        "a.npz",
        npz(users=np.zeros(3, "i4,i4"), items=[1, 2, 3]),
        ": column users: expected a column",
    ),
    "complex": ("a.npz", npz(users=[1], items=[1], values=[1j]), ": column values: expected a column"),
    "matrix": ("a.npz", npz(users=[[1]], items=[[1]]), ": expected 1-D arrays of one length"),
    "objects": ("a.npz", npz(users=np.array([{}]), items=[1]), ": not a readable NPZ archive"),
    "encrypted": ("a.npz", encrypted(), ": not a readable NPZ archive"),
    "member that is no array": (
        "a.npz",
        npz_of(("users.npy", "hello"), ("items.npy", "x")),
        ": not a readable NPZ archive",
    ),
    "terabytes": (
        "a.npz",
        npz_of(("users.npy", TERABYTES), ("items.npy", TERABYTES)),
        "expected 8000000000000 by",
    ),
    "nested header": (
        "a.npz",
        npz_of(("users.npy", NESTED), ("items.npy", NESTED)),
        ": not a readable NPZ archive",
    ),
    "damaged LZMA": ("a.zip", damaged_lzma(), ": truncated or damaged archive"),
    "no Parquet": ("a.parquet", b"PAR1" * 9, ": not a readable Parquet file"),
    "lists as ids": (
        "a.parquet",
        parquet(user=[[1]], item=[1]),
        ": column user: expected ids as integers or texts",
    ),
    "bytes that are no text": (
        "a.parquet",
        parquet(user=[b"\xff"], item=[1]),
        ": column user: expected a column",
    ),
    "times of day": (
        "a.parquet",
        parquet(user=[1], item=[1], time=[pd.Timestamp(0).time()]),
        ": column time: expected timestamps",
    ),
    "endless time": (
        "a.npz",
        npz(users=[1], items=[1], time=[np.inf]),
        ": row 0 (0-based): expected a timestamp",
    ),
}


@pytest.mark.parametrize(("name", "content", "expected"), REFUSED.values(), ids=REFUSED)
def test_unclear_or_damaged_file_is_refused_in_one_line(tmp_path, capsys, name, content, expected):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert cli.main(["run", str(path), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"fcf: {path}") and printed.err.count("\n") == 1
    assert expected in printed.err
    assert not (tmp_path / "out").exists()


def test_pipe_is_refused_without_waiting(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert cli.main(["run", str(tmp_path / "pipe"), "--out", str(tmp_path / "out")]) == 2
    assert "got a pipe or device" in capsys.readouterr().err


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_archive_of_more_than_memory_is_refused_by_its_bytes(tmp_path, capsys, monkeypatch, compress):
    (tmp_path / "a.csv.gz").write_bytes(compress(b"1,2,3\n" * 2**20))
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2**24)
    assert cli.main(["run", str(tmp_path / "a.csv.gz"), "--out", str(tmp_path / "out")]) == 2
    assert ": expected 1,048,577 rows to fit into the memory of 0.0 GiB" in capsys.readouterr().err


def test_endless_line_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(text, "MAX_LINE_BYTES", 2**23)
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(2**25)))
    assert cli.main(["run", str(tmp_path / "a.gz"), "--out", str(tmp_path / "out")]) == 2
    assert "a.gz:1: expected lines of at most 8 MiB" in capsys.readouterr().err


@pytest.mark.parametrize("sets", [["data.num_items=2000000000"], ["data.num_users=2000000000"]])
def test_simulation_beyond_memory_is_refused_by_its_bytes(tmp_path, capsys, sets):
    sets = [part for one in ["data.mean_history=5", *sets] for part in ("--set", one)]
    assert cli.main(["run", *sets, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and "GiB" in printed


def test_header_of_more_than_64_kib_is_read(tmp_path, capsys):
    names = ["user", "item", "rating", *(f"unused_{number:07}" for number in range(8000))]
    row = ",".join(["1", "2", "3", *["0"] * 8000])
    path = tmp_path / "wide.csv"
    path.write_text(",".join(names) + f"\n{row}\n")
    assert cli.main(["data", "preview", str(path)]) == 0
    assert "users = user, items = item, strengths = rating" in capsys.readouterr().out
