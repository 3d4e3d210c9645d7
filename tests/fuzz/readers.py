"""Fuzzing of all readers of interactions: legal files in random dialects, and damaged ones.

    python tests/fuzz/readers.py --seconds 3600 --out failures

For each seed a file is made and read. What must hold:

- a legal file gives the interactions that were written into it;
- anything else gives interactions or a ValueError of one line that names the file, never another exception;
- the regular and the careful parser agree in rows, counts and messages, whatever the size of a block;
- what is read without an error is what pandas reads, where pandas reads it without one.

A failure is printed with its seed; `--seed` repeats it. With `--out` its file is kept.
"""

import argparse
import bz2
import collections
import gzip
import io
import lzma
import random
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd

from fcf_jax.data import Columns, read_interactions
from fcf_jax.data.formats import parse, text
from fcf_jax.data.formats.timestamps import to_seconds

SEPARATORS = (",", "\t", ";", "|", "::", "")
QUOTING = (",", "\t", ";", "|")
IDS = (
    ("1", "2", "3", "-4", "18", "0"),
    ("007", "7", "+7", "1.0", "1e3", "0x1f"),
    ("a", "b c", "Ünü", "名前", "x-1", "NA", "null", "nan", "True", "2020-01-01"),
    ("18446744073709551615", "9223372036854775807", "1", "18446744073709551616"),
    ("3f2504e0-4f89-11d3-9a0c-0305e82c3301", "B00005N5PF", "2001:db8", "a\xa0b", "it's", "50%"),
)  # fmt: skip
STRENGTHS = ("1", "2.5", "0", "10", "1e2", ".5", "3.", " 4", "+5", "1E-3", "0.1", "16777217")
TIMES = (
    ("0", "978300760", "1577836800", "-1"),
    ("1577836800000", "978300760123", "1260759144.5"),
    ("2020-01-01", "2020-01-31T23:59:59", "2020-01-01 10:00:00+02:00", "1999-12-31T00:00:00.5Z"),
)
JUNK = (
    b'"', b"\n", b"\r", b",", b"\t", b";", b"|", b"::", b" ", b"\0", b"\xff", b"\xe9", b"\x1a", b"0x", b"nan",
    b"inf", b"-", b"1_0", b"''", b"\xef\xbb\xbf", b"\xc2\xa0", b"\x0b", b"\x0c", b"\x1c", b'""', b'",', b',"',
    b"9" * 30,
)  # fmt: skip
SAMPLES = (
    b'{"user_id": "a", "business_id": "b", "stars": 5, "date": "2018-07-07 22:09:11"}\n' * 3,
    b'[{"user": 1, "item": 2}, {"user": 2, "item": 3}]',
    b"1:\n5,3,2005-09-06\n6,4,2005-05-13\n2:\n5,3,2005-09-05\n",
    b"0 1 2 3\n1 2\n2 5 6 7 8\n3 1\n",
    b"2 1 2\n1 7\n3 1 2 3\n",
    b"1\tU1\t11/15/2019 8:55:22 AM\tN1 N2\tN3-1 N4-0\n2\tU2\t11/15/2019 8:55:22 AM\tN1\tN3-0 N4-1\n",
    b"userId,movieId,rating,timestamp\n1,2,3.5,4\n2,2,3,5\n",
    b"1::2::3::4\n2::2::3::4\n",
)


class Made(NamedTuple):
    """A text file, and what a reader must be told and must find."""

    content: bytes
    suffix: str
    options: dict
    rows: list  # of user, item, strength and time, as texts
    separator: str
    has_header: bool
    kinds: tuple  # of the columns, in order


class Outcome(NamedTuple):
    """Result of a reader, comparable."""

    message: str
    pairs: dict
    counts: tuple


def make_table(rng: random.Random) -> Made:
    """Make a legal table in a random dialect."""
    separator = rng.choice(SEPARATORS)
    has_header = rng.random() < 0.7
    kinds = ["user", "item", *rng.choice(([], ["rating"], ["rating", "timestamp"]))]
    if has_header:
        kinds += rng.sample(["note", "extra", "x"], rng.randrange(3)) if "rating" in kinds else []
        rng.shuffle(kinds)
    users, items, times = rng.choice(IDS), rng.choice(IDS), rng.choice(TIMES)
    pools = {"user": users, "item": items, "rating": STRENGTHS, "timestamp": times}
    rows = [
        {kind: rng.choice(pools.get(kind, ("", "text", "a b", "5"))) for kind in kinds}
        for _ in range(rng.randrange(1, 25))
    ]
    if separator == "":
        rows = [{k: v.strip().replace(" ", "_") or "-" for k, v in row.items()} for row in rows]
        if any("_" in row.get(k, "") for row in rows for k in ("rating", "timestamp")):
            rows = [{**row, **({"timestamp": "5"} if "timestamp" in row else {})} for row in rows]
    rows = [{k: v.replace(separator, "") if separator else v for k, v in row.items()} for row in rows]
    quotes = rng.choice((0, 0, 0.3, 1)) if separator in QUOTING else 0
    lines = [[_quoted(rng, v, separator, quotes) for v in row.values()] for row in rows]
    if has_header:
        lines.insert(0, [f'"{kind}"' if quotes == 1 else kind for kind in kinds])
    glue = separator or rng.choice((" ", "  ", "\t", " \t "))
    end = rng.choice(("\n", "\n", "\r\n", "\r"))
    body = end.join(glue.join(line) for line in lines) + rng.choice(("", end, end + end))
    if rng.random() < 0.1:
        body = end + body
    columns = Columns() if has_header else Columns(*_numbers(kinds))
    options = {"separator": separator or "whitespace", "columns": columns, "layout": "generic"}
    content, suffix = _packed(rng, _encoded(rng, body))
    texts = [tuple(row.get(k) for k in ("user", "item", "rating", "timestamp")) for row in rows]
    return Made(content, suffix, options, texts, separator, has_header, tuple(kinds))


def _numbers(kinds: list) -> list:
    return [kinds.index(k) if k in kinds else "" for k in ("user", "item", "rating", "timestamp")]


def _quoted(rng: random.Random, value: str, separator: str, share: float) -> str:
    if rng.random() < share:
        return f'"{value}"'
    return f" {value} " if separator and rng.random() < 0.05 else value


def _encoded(rng: random.Random, body: str) -> bytes:
    encoding = rng.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"))
    try:
        return body.encode(encoding)
    except UnicodeEncodeError:
        return body.encode()


def _packed(rng: random.Random, content: bytes) -> tuple[bytes, str]:
    choice = rng.random()
    if choice < 0.85:
        return content, ".csv"
    if choice < 0.97:
        compress, suffix = rng.choice(
            ((gzip.compress, ".gz"), (bz2.compress, ".bz2"), (lzma.compress, ".xz"))
        )
        return compress(content), suffix
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", rng.choice((0, 8, 12, 14))) as archive:
        archive.writestr("data.csv", content)
    return buffer.getvalue(), ".zip"


def damage(rng: random.Random, content: bytes) -> bytes:
    """Change a few bytes, cut, repeat or move pieces."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at, other = (rng.randrange(len(content) + 1) for _ in range(2))
        start, stop = min(at, other), max(at, other)
        content = rng.choice((
            lambda c, a, b: c[:a] + rng.choice(JUNK) + c[a:],
            lambda c, a, b: c[:a] + rng.choice(JUNK) + c[a:],
            lambda c, a, b: c[:a] + rng.choice(JUNK) + c[a + 1 :],
            lambda c, a, b: c[:a] + bytes([rng.randrange(256)]) + c[a + 1 :],
            lambda c, a, b: c[:a] + c[a + rng.randrange(1, 4) :],
            lambda c, a, b: c[:a],
            lambda c, a, b: c[:a] + c[min(b, a + 20) :],
            lambda c, a, b: c[:b] + c[a : min(b, a + 20)] + c[b:],
        ))(content, start, stop)  # fmt: skip
    return content


def make_columns(rng: random.Random) -> dict:
    """Make columns of random types."""
    size = rng.randrange(1, 20)
    numbers = np.array([rng.randrange(6) for _ in range(size)])
    ids = (
        numbers, numbers.astype(np.uint8), numbers + 2**62, numbers.astype(np.uint64) + 2**63,
        numbers.astype(float), numbers / 2, numbers.astype(str), numbers.astype("S2"), numbers.astype(bool),
        numbers.astype(">i4"),
    )  # fmt: skip
    columns = {"users": rng.choice(ids), "items": rng.choice(ids)}
    if rng.random() < 0.8:
        columns["values"] = rng.choice(
            (numbers, numbers / 3, numbers.astype(np.float16), numbers.astype(str))
        )
    if rng.random() < 0.5:
        seconds = numbers * 86400 * 365
        columns["timestamps"] = rng.choice((
            seconds, seconds * 1000.0, seconds.astype("M8[s]"), seconds.astype("M8[s]").astype("M8[D]"),
            seconds.astype("M8[ns]"), seconds.astype("M8[s]").astype(str), seconds.astype(np.uint64),
        ))  # fmt: skip
    return columns


def _pairs(interactions) -> dict:
    found = {}
    users, items = (np.asarray(one) for one in (interactions.user_labels, interactions.item_labels))
    for position, (user, item) in enumerate(zip(interactions.user_ids, interactions.item_ids, strict=True)):
        when = None if interactions.timestamps is None else int(interactions.timestamps[position])
        found[str(users[user]), str(items[item])] = float(interactions.strengths[position]), when
    return found


def read(path: Path, options: dict) -> Outcome:
    """Read a file; anything but interactions or a ValueError of one line is an error of the reader."""
    try:
        interactions, report = read_interactions(path, implicit=False, **options)
    except ValueError as error:
        message = str(error)
        assert type(error) is ValueError and "\n" not in message and message.startswith(str(path)), repr(
            error
        )
        return Outcome(message, {}, ())
    return Outcome(
        "",
        _pairs(interactions),
        (report.num_rows, report.bad_lines_skipped, report.labels_merged, report.encoding),
    )


def merged(rows: list) -> dict:
    """Return the strength and time of each pair, by the definition of `duplicates="sum"`."""
    sums: dict = collections.defaultdict(list)
    for user, item, strength, when in rows:
        value = 1.0 if strength is None else np.float32(strength)
        second = None if when is None else int(to_seconds([when]).values[0])
        sums[user.strip(), item.strip()].append((second, value))
    return {
        pair: (
            sum(float(value) for _, value in values),
            None if values[0][0] is None else max(second for second, _ in values),
        )
        for pair, values in sums.items()
    }


def check_same(found: dict, expected: dict, what: str) -> None:
    """Raise AssertionError if pairs, strengths or times differ; strengths up to the order of a sum."""
    assert found.keys() == expected.keys(), (
        f"{what}: other pairs {sorted(found.keys() ^ expected.keys())[:6]}"
    )
    for pair, (strength, when) in expected.items():
        got, got_when = found[pair]
        assert abs(got - strength) <= 1e-6 * abs(strength), f"{what}: {pair} has {got}, not {strength}"
        assert got_when == when, f"{what}: {pair} at {got_when}, not {when}"


def check_parsers_agree(rng: random.Random, path: Path, options: dict, first: Outcome) -> None:
    """Read again with the careful parser alone, and with small blocks."""
    with mock.patch.object(parse, "parse_regular", return_value=None):
        assert read(path, options) == first, f"careful: {read(path, options)} regular: {first}"
    with mock.patch.object(text, "_BLOCK_BYTES", rng.randrange(1, 60)):
        small = read(path, options)
    if first.counts and small.counts:  # blanks before quotes are skipped in the whole block
        small = small._replace(counts=(*small.counts[:2], first.counts[2], small.counts[3]))
    assert small == first, f"small blocks: {small} whole: {first}"


def check_like_pandas(made: Made, path: Path, outcome: Outcome) -> bool:
    """Compare with what pandas reads; return False where pandas refuses the file."""
    encoding = {"utf-8": "utf-8-sig"}.get(outcome.counts[3], outcome.counts[3])
    decoded = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(encoding)
    if made.separator == "::":  # pandas then reads lines of Python, which end with \n
        decoded = decoded.replace("\r\n", "\n").replace("\r", "\n")
    is_quoting = made.separator in QUOTING or (made.separator == "" and '"' in decoded)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame = pd.read_csv(
                io.StringIO(decoded),
                sep={"": r"\s+"}.get(made.separator, made.separator),
                header=0 if made.has_header else None, dtype=str, keep_default_na=False, na_filter=False,
                index_col=False, skipinitialspace=True, quoting=0 if is_quoting else 3,
                engine="python" if made.separator == "::" else "c",
            )  # fmt: skip
    except (ValueError, Warning, LookupError):
        return False
    frame = frame[frame.apply(lambda row: any(map(str.strip, row)), axis=1)]  # lines of blanks
    names = [str(name).strip() for name in frame.columns]
    try:
        columns = [
            frame.iloc[:, names.index(kind) if made.has_header else made.kinds.index(kind)]
            if kind in made.kinds
            else None
            for kind in ("user", "item", "rating", "timestamp")
        ]
    except (ValueError, IndexError):
        return False  # the header is another one
    rows = list(
        zip(*([None] * len(frame) if one is None else map(str.strip, one) for one in columns), strict=True)
    )
    try:
        expected = merged(rows)
    except ValueError:
        return False  # a damaged first row is taken for a header
    if all(when is None for _, when in outcome.pairs.values()):  # a column without any time is left out
        expected = {pair: (strength, None) for pair, (strength, _) in expected.items()}
    check_same(outcome.pairs, expected, "pandas")
    return True


def fuzz_legal(rng: random.Random, folder: Path) -> str:
    """Read a legal table: what was written must come back."""
    made = make_table(rng)
    path = folder / f"legal{made.suffix}"
    path.write_bytes(made.content)
    outcome = read(path, made.options)
    assert not outcome.message, f"a legal file is refused: {outcome.message}"
    check_same(outcome.pairs, merged(made.rows), "written")
    check_parsers_agree(rng, path, made.options, outcome)
    return "legal tables read"


def fuzz_damaged(rng: random.Random, folder: Path) -> str:
    """Read a damaged table: an error, or what pandas reads."""
    made = make_table(rng)
    path = folder / f"damaged{made.suffix}"
    path.write_bytes(damage(rng, made.content))
    outcome = read(path, made.options)
    check_parsers_agree(rng, path, made.options, outcome)
    skipping = made.options | {"on_bad_line": "skip"}
    check_parsers_agree(rng, path, skipping, read(path, skipping))
    if outcome.message:
        return "damaged tables refused"
    content = path.read_bytes()
    if made.suffix == ".csv" and b"\0" not in content and b"\xef\xbb\xbf" not in content[1:]:
        return (
            "damaged tables read like pandas" if check_like_pandas(made, path, outcome) else "pandas refuses"
        )
    return "damaged tables read"


def fuzz_inferred(rng: random.Random, folder: Path) -> str:
    """Read a table without being told separator and columns."""
    made = make_table(rng)
    path = folder / f"inferred{made.suffix}"
    path.write_bytes(made.content)
    options = {"columns": made.options["columns"]}
    outcome = read(path, options)
    if outcome.message:
        return "inferred tables refused"
    check_same(outcome.pairs, merged(made.rows), "written")
    return "inferred tables read"


def fuzz_anything(rng: random.Random, folder: Path) -> str:
    """Read a damaged file of another form, all inferred."""
    path = folder / f"anything{rng.choice(('.csv', '.txt', '.json', '', '.npz', '.parquet'))}"
    path.write_bytes(damage(rng, rng.choice((*SAMPLES, make_table(rng).content))))
    outcome = read(path, {"on_bad_line": rng.choice(("error", "skip"))})
    return "other files refused" if outcome.message else "other files read"


def fuzz_typed(rng: random.Random, folder: Path) -> str:
    """Read NPZ or Parquet, whole or damaged."""
    columns = make_columns(rng)
    buffer = io.BytesIO()
    suffix = rng.choice((".npz", ".parquet"))
    if suffix == ".npz":
        np.savez(buffer, **columns)
    else:
        frame = pd.DataFrame({name: list(one) if one.dtype.kind == "S" else pd.Series(one.astype(
            one.dtype.newbyteorder("="))) for name, one in columns.items()})  # fmt: skip
        frame.to_parquet(buffer)
    path = folder / f"typed{suffix}"
    is_damaged = rng.random() < 0.6
    path.write_bytes(damage(rng, buffer.getvalue()) if is_damaged else buffer.getvalue())
    outcome = read(path, {"on_bad_line": rng.choice(("error", "skip"))})
    if is_damaged:
        return f"damaged {suffix} {'refused' if outcome.message else 'read'}"
    assert not outcome.message, f"a legal file is refused: {outcome.message}"
    rows = zip(*(_texts(columns.get(k)) or [None] * len(columns["users"]) for k in
                 ("users", "items", "values", "timestamps")), strict=True)  # fmt: skip
    check_same(outcome.pairs, merged(list(rows)), "written")
    return f"legal {suffix} read"


def _texts(column: np.ndarray | None) -> list | None:
    if column is None:
        return None
    if column.dtype.kind == "S":
        return [one.decode() for one in column]
    if column.dtype.kind == "b":
        return [str(one).lower() for one in column]
    if column.dtype.kind == "f" and column.dtype.itemsize == 8:
        return [str(int(one)) if one == int(one) else str(one) for one in column]
    return [str(one) for one in column]


TRIALS = (fuzz_legal, fuzz_damaged, fuzz_damaged, fuzz_inferred, fuzz_anything, fuzz_typed)


def fuzz(seconds: float, *, first_seed: int = 0, out: Path | None = None) -> tuple[dict, list[str]]:
    """Run trials for so many seconds.

    Returns:
        (number of trials by what happened, failures).
    """
    counts: dict = collections.Counter()
    failures: list[str] = []
    stop = time.monotonic() + seconds
    seed = first_seed
    with tempfile.TemporaryDirectory() as folder:
        while time.monotonic() < stop:
            try:
                counts[run_trial(seed, Path(folder))] += 1
            except Exception:  # whatever a reader should not raise
                counts["failures"] += 1
                failures.append(f"seed {seed}: {traceback.format_exc()}")
                if out is not None:
                    _keep(Path(folder), out / str(seed))
            for file in Path(folder).iterdir():
                file.unlink()
            seed += 1
    return dict(counts), failures


def run_trial(seed: int, folder: Path) -> str:
    """Run the trial of a seed."""
    rng = random.Random(seed)
    return rng.choice(TRIALS)(rng, folder)


def _keep(folder: Path, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())


def main() -> None:
    """Run from the command line; exit 1 after a failure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where to keep files that fail")
    arguments = parser.parse_args()
    counts, failures = fuzz(arguments.seconds, first_seed=arguments.seed, out=arguments.out)
    for failure in failures[:20]:
        print(failure)
    for what, count in sorted(counts.items()):
        print(f"{count:9,} {what}")
    print(f"{sum(counts.values()):9,} trials, {len(failures)} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
