"""Download, checks and unpacking, from a local server with tiny data sets in the published layouts."""

import dataclasses
import hashlib
import http.server
import io
import json
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest

from fcf_jax import cli
from fcf_jax.data import known_sets, read_interactions
from fcf_jax.data.fetch import Checksum, FetchError, fetch
from fcf_jax.data.known_sets import KNOWN_SETS

SMALL, LASTFM, ML_100K = KNOWN_SETS["ml-latest-small"], KNOWN_SETS["lastfm-2k"], KNOWN_SETS["ml-100k"]
RATINGS = "userId,movieId,rating,timestamp\n1,10,4.0,100\n2,20,3.5,101\n"
PLAYS = "userID\tartistID\tweight\r\n1\t10\t4\r\n2\t20\t3\r\n"


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *unused):
        pass

    def end_headers(self):
        if "broken" in self.path:
            self.send_header("Content-Length", "1000000")
        super().end_headers()


@dataclasses.dataclass
class Served:
    folder: object
    address: str
    stop: object

    def put(self, known, content, *, md5=None):
        path = self.folder / known.archive
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        if md5 is not None:
            path.with_name(f"{path.name}.md5").write_text(f"MD5 ({path.name}) = {md5}\n")


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop():
        server.shutdown()
        server.server_close()

    yield Served(folder, f"http://127.0.0.1:{server.server_port}", stop)
    stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv(known_sets.CACHE_VARIABLE, str(folder))
    return folder


def zipped(method=zipfile.ZIP_STORED, **files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, text in files.items():
            archive.writestr(zipfile.ZipInfo(name), text, method)  # the same bytes at any time
    return buffer.getvalue()


def damaged(method):
    content = bytearray(zipped(method, **{"ratings.csv": RATINGS * 50}))
    start = content.index(b"ratings.csv") + len(b"ratings.csv")
    content[start + 10 : start + 40] = bytes(30)
    return bytes(content)


def zipped_small():
    return zipped(**{"ml-latest-small/ratings.csv": RATINGS, "ml-latest-small/README.txt": "Terms"})


def md5_of(content):
    return hashlib.md5(content).hexdigest()


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_archive_is_checked_against_what_is_published_beside_it(served, cache):
    served.put(SMALL, zipped_small(), md5=md5_of(zipped_small()))
    fetched = fetch(SMALL, server=served.address)
    assert fetched.folder == cache / "ml-latest-small"
    assert fetched.checksum == Checksum(f"md5:{md5_of(zipped_small())}", "published beside it")
    assert not fetched.is_first
    assert names_in(cache) == ["ml-latest-small", "ml-latest-small.zip", "ml-latest-small.zip.json"]
    assert read_interactions(fetched.folder)[0].num_interactions == 2
    served.stop()
    assert fetch(SMALL, server=served.address) == fetched


def test_without_a_published_checksum_the_first_download_is_pinned(served, cache):
    content = zipped(**{"user_artists.dat": PLAYS, "readme.txt": "Terms", "../outside.txt": "no"})
    served.put(LASTFM, content)
    fetched = fetch(LASTFM, server=served.address)
    assert fetched.is_first
    pin = cache / "hetrec2011-lastfm-2k.zip.json"
    assert json.loads(pin.read_text())["checksum"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert read_interactions(fetched.folder)[1].layout == "lastfm-2k"
    assert names_in(cache) == ["hetrec2011-lastfm-2k", "hetrec2011-lastfm-2k.zip", pin.name]

    fetched.folder.rename(cache / "elsewhere")
    assert not fetch(LASTFM, server=served.address).is_first
    (cache / LASTFM.file_name).unlink()
    served.put(LASTFM, content + b"changed")
    fetched.folder.rename(cache / "elsewhere too")
    with pytest.raises(FetchError, match=f"remove {pin}"):
        fetch(LASTFM, server=served.address)
    assert not (cache / LASTFM.file_name).exists()


@pytest.mark.parametrize(
    ("content", "md5", "expected"),
    [
        (zipped_small(), "0" * 32, f"got {md5_of(zipped_small())}; nothing was kept"),
        (b"<html>Please sign in</html>", None, "not a zip file"),
        (zipped(**{"movies.csv": "movieId\n"}), None, "with movies.csv"),
        (damaged(zipfile.ZIP_LZMA), None, "expected a zip archive with ratings.csv, got"),
        (damaged(zipfile.ZIP_BZIP2), None, "expected a zip archive with ratings.csv, got"),
    ],
    ids=["other checksum", "a page", "other files", "damaged LZMA", "damaged bzip2"],
)
def test_wrong_archive_leaves_nothing(served, cache, content, md5, expected):
    served.put(SMALL, content, md5=md5)
    with pytest.raises(FetchError) as raised:
        fetch(SMALL, server=served.address)
    assert expected in str(raised.value)
    assert names_in(cache) == []


def test_a_download_that_breaks_off_leaves_nothing(served, cache):
    known = dataclasses.replace(SMALL, archive="broken/ml-latest-small.zip")
    served.put(known, zipped_small())
    with pytest.raises(FetchError, match="no answer"):
        fetch(known, server=served.address)
    assert names_in(cache) == []


def test_unpacking_that_is_interrupted_leaves_no_folder(served, cache, monkeypatch):
    def interrupted(self, folder):
        Path(folder, "ratings.csv").write_text(RATINGS[:30])
        raise KeyboardInterrupt

    served.put(SMALL, zipped_small())
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(SMALL, server=served.address)
    assert not (cache / "ml-latest-small").exists()
    assert (fetch(SMALL, server=served.address).folder / "ratings.csv").read_text() == RATINGS


def test_offline_error_names_the_place_for_the_archive_which_is_then_found(
    served, cache, monkeypatch, capsys
):
    content = zipped(**{"ml-100k/u.data": "1\t10\t4\t100\n2\t20\t3\t101\n"})
    monkeypatch.setitem(KNOWN_SETS, "ml-100k", dataclasses.replace(ML_100K, md5=md5_of(content)))
    served.stop()
    arguments = ["data", "fetch", "ml-100k", "--from", served.address]
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    place = cache / "ml-100k.zip"
    for expected in (f"{served.address}/movielens/ml-100k.zip", ML_100K.homepage, f"put it at {place} "):
        assert expected in error
    place.write_bytes(b"damaged")
    assert cli.main(arguments) == 1
    assert "has another checksum" in capsys.readouterr().err
    place.write_bytes(content)
    assert cli.main(arguments) == 0
    assert f"md5:{md5_of(content)} (published)" in capsys.readouterr().out


def test_after_fetching_a_config_finds_its_data(served, cache, monkeypatch, tmp_path, capsys):
    pairs = [(user, item) for user in range(1, 13) for item in range(1, 10) if user != item]
    content = zipped(**{"ml-100k/u.data": "".join(f"{user}\t{item}\t4\t100\n" for user, item in pairs)})
    monkeypatch.setitem(KNOWN_SETS, "ml-100k", dataclasses.replace(ML_100K, md5=md5_of(content)))
    served.put(ML_100K, content)
    run = ["run", "movielens-100k", "--out", str(tmp_path / "run"), "--quiet"]
    quick = ("federation.num_rounds=2", "model.num_factors=2", "evaluation.baseline=false", "server.step=sgd")
    for override in quick:
        run += ["--set", override]
    assert cli.main(run) == 2
    assert "run `fcf data fetch ml-100k`" in capsys.readouterr().err
    assert cli.main(["data", "fetch", "ml-100k", "--from", served.address]) == 0
    assert f"in {cache / 'ml-100k'}; " in capsys.readouterr().out
    assert cli.main(run) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["num_users"] == 12


def test_fetching_to_another_folder_prints_its_data_path(served, cache, tmp_path, capsys):
    served.put(LASTFM, zipped(**{"user_artists.dat": PLAYS}))
    there = tmp_path / "there"
    assert cli.main(["data", "fetch", "lastfm-2k", "--from", served.address, "--to", str(there)]) == 0
    printed = capsys.readouterr().out
    assert f'data.path = "{there / "hetrec2011-lastfm-2k"}"' in printed
    assert "no published checksum was found: pinned sha256:" in printed
    assert not cache.exists()


def test_a_folder_put_there_by_hand_is_listed_and_not_called_checked(cache, capsys):
    folder = cache / "ml-latest-small"
    folder.mkdir(parents=True)
    (folder / "ratings.csv").write_text(RATINGS)
    assert cli.main(["data", "fetch", "ml-latest-small"]) == 0
    assert "nothing was checked" in capsys.readouterr().out
    assert cli.main(["data", "list"]) == 0
    listed = capsys.readouterr().out
    assert f"here: {folder}\n" in listed
    assert listed.count("not here") == len(KNOWN_SETS) - 1


def test_a_cache_that_is_a_file_is_refused_by_name(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert cli.main(["data", "fetch", "ml-1m", "--to", str(tmp_path / "file")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
