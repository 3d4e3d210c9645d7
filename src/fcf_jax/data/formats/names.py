"""Common names of columns: which header means users, items, strengths, events or times.

Names are compared in plain form: lower case, without blanks, `_`, `-`, `.` and RecBole's `:token`. The order
within a kind is the order of preference, so `user_id` goes before `user_name`, and `rating` before `event`.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

_ID_ENDINGS = (
    "id", "", "ids", "uid", "uuid", "guid", "code", "no", "nr", "num", "number", "key", "idx", "index",
    "hash", "s", "sku", "ean", "upc", "barcode", "email", "slug", "name", "title",
)  # fmt: skip

_USERS = (
    "user", "customer", "client", "member", "visitor", "reviewer", "listener", "player", "reader", "viewer",
    "subscriber", "consumer", "shopper", "buyer", "learner", "student", "person", "account", "profile",
    "guest", "rater", "household", "session",
)  # fmt: skip

_ITEMS = (
    "item", "product", "prod", "sku", "article", "movie", "film", "artist", "song", "track", "album",
    "book", "game", "anime", "manga", "show", "series", "video", "business", "venue", "poi", "place",
    "restaurant", "hotel", "recipe", "beer", "wine", "stock", "joke", "app", "course", "news", "story",
    "post", "page", "podcast", "episode", "channel", "playlist", "paper", "document", "doc", "repo",
    "offer", "ad", "ean", "upc", "barcode", "material", "content", "location", "art", "tra", "event",
)  # fmt: skip

_LAST_ITEMS = ("beerbeerid", "aid", "pid", "mid", "i", "title")

_RATINGS = (
    "rating", "ratings", "stars", "star", "overall", "score", "feedback", "strength", "strengths", "grade",
    "reviewrating", "reviewoverall", "reviewscore", "userrating", "userscore", "starrating", "ratingvalue",
)  # fmt: skip

_COUNTS = (
    "plays", "playcount", "numplays", "timesplayed", "listens", "listencount", "listeningcount",
    "scrobbles", "views", "viewcount", "numviews", "clicks", "clickcount", "numclicks", "visits",
    "visitcount", "checkins", "purchases", "purchasecount", "numpurchases", "orders", "quantity", "qty",
    "units", "hours", "hoursplayed", "playtime", "playtimeforever", "playtimehours", "minutes", "watchtime",
    "listeningtime", "count", "counts", "cnt", "freq", "frequency", "weight", "weights", "value", "values",
    "likes", "like", "liked", "preference", "interactions", "interaction", "label",
    "eventvalue",
)  # fmt: skip

_EVENTS = (
    "event", "eventtype", "eventname", "action", "actiontype", "behavior", "behaviour", "behaviortype",
    "behaviourtype", "interactiontype", "feedbacktype", "activity", "type",
)  # fmt: skip

_TIMES = (
    "timestamp", "timestamps", "unixreviewtime", "unixtime", "sorttimestamp", "time", "times", "ts",
    "datetime", "date", "eventtime", "utctime", "reviewtime", "reviewdate", "invoicedate", "orderdate",
    "purchasedate", "transactiondate", "createdat", "created", "ratedat", "playedat", "addedat",
    "dateadded", "checkintime", "checkindate", "starttime", "epoch", "tstamp", "when", "tdat",
)  # fmt: skip

# Columns that are no strengths although they may hold numbers.
_OTHERS = (
    "", "id", "row", "rowid", "rownum", "index", "unnamed0", "x", "price", "unitprice", "saleprice", "cost",
    "revenue", "title", "name", "category", "categoryid", "categorycode", "categoryname", "department",
    "genre", "genres", "brand", "author", "publisher", "description", "text", "review", "reviewtext",
    "reviewid", "summary", "comment", "language", "country", "city", "state", "region", "zip", "zipcode",
    "postcode", "age", "gender", "sex", "occupation", "lat", "latitude", "lon", "lng", "long", "longitude",
    "timezone", "timezoneoffset", "orderid", "ordernumber", "invoice", "invoiceno", "transactionid",
    "basketid", "sessionid", "usersession", "store", "storeid", "shopid", "sellerid", "device", "platform",
    "os", "ip", "url", "image", "images", "imageurl", "tag", "tags", "tagid", "position", "rank", "year",
    "month", "day", "hour", "dow", "useful", "funny", "cool", "vote", "votes", "helpful", "helpfulvote",
    "verified", "verifiedpurchase", "style", "asin", "parentasin", "isbn", "watchingstatus",
    "watchedepisodes", "addtocartorder", "history", "saleschannelid", "sourcetype", "sourcesystemtab",
    "sourcescreenname",
)  # fmt: skip


def _ids_of(nouns: Sequence[str]) -> Iterator[str]:
    """Yield the names that an id column may have, ids of any noun before its names."""
    common, last = _ID_ENDINGS[:-2], _ID_ENDINGS[-2:]
    yield from (noun + ending for noun, ending in itertools.product(nouns, common))
    yield from (noun + ending for noun, ending in itertools.product(nouns, last))


COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "user": ("uid", *_ids_of(_USERS), "reviewprofilename", "msno", "u"),
    "item": ("parentasin", "asin", "isbn", "iid", *_ids_of(_ITEMS), *_LAST_ITEMS),
    "strength": (*_RATINGS, *(noun + "rating" for noun in _ITEMS), *_COUNTS, *_EVENTS),
    "timestamp": _TIMES,
}

_DECORATION = re.compile(r"[\s_.\-]+")
_TYPE = re.compile(r":(token|float)(_seq)?$")  # RecBole's atomic files


def plain(name: str) -> str:
    """Return a column name in the form that is compared."""
    name = _TYPE.sub("", name.strip().strip("\"'").lstrip("#%").strip().lower())
    return _DECORATION.sub("", name).replace(":", "")


def find_common(kind: str, names: Sequence[str], taken: Sequence[int] = ()) -> int | None:
    """Return the position of the column whose name is the most usual one for this kind; None if none is.

    Args:
        kind: "user", "item", "strength" or "timestamp".
        names: All column names, in order.
        taken: Positions that are something else.
    """
    known = [plain(name) if position not in taken else None for position, name in enumerate(names)]
    return next((known.index(name) for name in COMMON_NAMES[kind] if name in known), None)


def is_common(name: str) -> bool:
    """Return True for a name that the first line of a table without a header would hardly hold."""
    return plain(name) in _HEADER_NAMES


def is_event(name: str) -> bool:
    """Return True if a column of this name may hold kinds of events rather than numbers."""
    return plain(name) in _EVENTS


def is_no_strength(name: str) -> bool:
    """Return True for a column that is known to hold something other than strengths."""
    return plain(name) in _NO_STRENGTHS


_HEADER_NAMES = frozenset(itertools.chain(*COMMON_NAMES.values())) - {"u", "i"}
_NO_STRENGTHS = frozenset(("", *_OTHERS, *COMMON_NAMES["user"], *COMMON_NAMES["item"], *_TIMES))
