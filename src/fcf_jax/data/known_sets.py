"""Public data sets for `fcf data fetch`, and the cache that holds them."""

import dataclasses
import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from fcf_jax.data.formats.layouts import LAYOUTS

CACHE_VARIABLE = "FCF_JAX_DATA"


@dataclasses.dataclass(frozen=True)
class KnownSet:
    """Published data set.

    Attributes:
        name: Name in `fcf data fetch NAME` and `data.name = NAME`.
        title: Name that its authors use.
        layout: A name in `LAYOUTS`.
        archive: Path of the zip file on the server.
        megabytes: Approximate size of the archive.
        counts: Numbers of users, items and interactions, in words.
        homepage: URL of its description.
        terms: Terms of use, in short; the archive holds the full text.
        citation: Work that its authors ask to cite.
        md5: Published checksum of the archive; None if none is published or the archive may change.
    """

    name: str
    title: str
    layout: str
    archive: str
    megabytes: int
    counts: str
    homepage: str
    terms: str
    citation: str
    md5: str | None = None

    @property
    def file_name(self) -> str:
        """File name of the archive."""
        return self.archive.rpartition("/")[2]

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that are read."""
        return LAYOUTS[self.layout].files

    def folder(self, cache: Path) -> Path:
        """Return the folder for its files in this cache, named like the archive."""
        return cache / self.file_name.removesuffix(".zip")

    def is_in(self, folder: Path) -> bool:
        """Return True if this folder holds all files that are read."""
        return all((folder / file).is_file() for file in self.files)


_RESEARCH = "research only, not commercial"
_KEPT = f"{_RESEARCH}, not to be redistributed"
_SHARED = f"{_RESEARCH}, redistribution under the same terms"
_HARPER = "Harper and Konstan 2015, doi:10.1145/2827872"

# Checksums from https://files.grouplens.org/datasets/movielens/NAME.zip.md5. The benchmark sets never change.
# ml-latest-small may, so its checksum is read at each first download; HetRec publishes none (see fetch.py).
KNOWN_SETS: Mapping[str, KnownSet] = {
    known.name: known
    for known in (
        KnownSet(
            name="ml-100k",
            title="MovieLens 100K",
            layout="movielens-100k",
            archive="movielens/ml-100k.zip",
            megabytes=5,
            counts="943 users, 1682 movies, 100,000 ratings",
            homepage="https://grouplens.org/datasets/movielens/100k/",
            terms=_KEPT,
            citation=_HARPER,
            md5="0e33842e24a9c977be4e0107933c0723",
        ),
        KnownSet(
            name="ml-1m",
            title="MovieLens 1M",
            layout="movielens-1m",
            archive="movielens/ml-1m.zip",
            megabytes=6,
            counts="6040 users, 3706 rated movies, 1,000,209 ratings",
            homepage="https://grouplens.org/datasets/movielens/1m/",
            terms=_KEPT,
            citation=_HARPER,
            md5="c4d9eecfca2ab87c1945afe126590906",
        ),
        KnownSet(
            name="ml-20m",
            title="MovieLens 20M",
            layout="movielens-latest",
            archive="movielens/ml-20m.zip",
            megabytes=199,
            counts="138,493 users, 26,744 rated movies, 20,000,263 ratings",
            homepage="https://grouplens.org/datasets/movielens/20m/",
            terms=_SHARED,
            citation=_HARPER,
            md5="cd245b17a1ae2cc31bb14903e1204af3",
        ),
        KnownSet(
            name="ml-25m",
            title="MovieLens 25M",
            layout="movielens-latest",
            archive="movielens/ml-25m.zip",
            megabytes=262,
            counts="162,541 users, 59,047 rated movies, 25,000,095 ratings",
            homepage="https://grouplens.org/datasets/movielens/25m/",
            terms=_SHARED,
            citation=_HARPER,
            md5="6b51fb2759a8657d3bfcbfc42b592ada",
        ),
        KnownSet(
            name="ml-latest-small",
            title="MovieLens latest-small",
            layout="movielens-latest",
            archive="movielens/ml-latest-small.zip",
            megabytes=1,
            counts="610 users, 9724 rated movies, 100,836 ratings (September 2018)",
            homepage="https://grouplens.org/datasets/movielens/latest/",
            terms=_SHARED,
            citation=_HARPER,
        ),
        KnownSet(
            name="lastfm-2k",
            title="HetRec 2011 Last.fm",
            layout="lastfm-2k",
            archive="hetrec2011/hetrec2011-lastfm-2k.zip",
            megabytes=3,
            counts="1892 users, 17,632 artists, 92,834 play counts",
            homepage="https://grouplens.org/datasets/hetrec-2011/",
            terms="not commercial",
            citation="Last.fm (www.lastfm.com); Cantador, Brusilovsky and Kuflik 2011 (HetRec, RecSys)",
        ),
    )
}


def known_set(name: str) -> KnownSet:
    """Return the data set with this name.

    Raises:
        ValueError: For an unknown name; suggests the nearest one.
    """
    if name in KNOWN_SETS:
        return KNOWN_SETS[name]
    nearest = difflib.get_close_matches(name, KNOWN_SETS, n=1, cutoff=0.0)[0]
    raise ValueError(f"expected one of {', '.join(KNOWN_SETS)}, got {name!r}; did you mean {nearest}?")


def cache_folder() -> Path:
    """Return the folder of fetched data: $FCF_JAX_DATA, otherwise in the user's cache folder."""
    import pooch

    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else Path(pooch.os_cache("fcf_jax")) / "data"


def find_known(known: KnownSet) -> Path | None:
    """Return the folder of a data set in the cache, fetched or put there by hand; None if it is absent."""
    folder = known.folder(cache_folder())
    return folder if known.is_in(folder) else None
