"""Layouts of published data sets, each on a small made-up file of its shape."""

import gzip
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from tables import failure

from fcf_jax.data import Columns, read_interactions, read_published_split
from fcf_jax.data.formats import json_lines, text

SHA = ("00000c289a1829a808ac09c00daf10bc3c4e223b", "00001411dc427966b17297bf4d69e7e193135d89")
MBID = "3bd73256-3905-4f3a-97e2-8b341527f805"
VENUE = ("49bbd6c0f964a520f4531fe3", "4a43c0aef964a520c6a61fe3")


def lines(*rows):
    return "\n".join(rows) + "\n"


def objects(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# name: (file name, content, layout, {(user, item): strength})
FILES = {
    "BookCrossing": (
        "BX-Book-Ratings.csv",
        lines(
            '"User-ID";"ISBN";"Book-Rating"',
            '"276725";"034545104X";"0"',
            '"276726";"0155061224";"5"',
            '"276726";"\xd6STERREICH";"0"',
        ).encode("latin-1"),
        "bookcrossing",
        {
            ("276725", "034545104X"): 1,
            ("276726", "0155061224"): 5,
            ("276726", "\xd6STERREICH"): 1,
        },
    ),
    "RecBole": (
        "ml-100k.inter",
        lines("user_id:token\titem_id:token\trating:float\ttimestamp:float", "196\t242\t3\t881250949"),
        "recbole",
        {("196", "242"): 3},
    ),
    "LightGCN lists": (
        "gowalla.txt",
        lines("0 3 4 5", "1 4", "2", "3 5 3", "4 9"),
        "item-lists",
        {
            ("0", "3"): 1,
            ("0", "4"): 1,
            ("0", "5"): 1,
            ("1", "4"): 1,
            ("3", "5"): 1,
            ("3", "3"): 1,
            ("4", "9"): 1,
        },
    ),
    "citeulike": (
        "users.dat",
        lines("3 495 1631 2318", "1 495", "2 7 1631"),
        "citeulike",
        {
            ("0", "495"): 1,
            ("0", "1631"): 1,
            ("0", "2318"): 1,
            ("1", "495"): 1,
            ("2", "7"): 1,
            ("2", "1631"): 1,
        },
    ),
    "Yelp": (
        "yelp_academic_dataset_review.json",
        objects(
            {
                "review_id": "KU_O5u",
                "user_id": "mh_-eM",
                "business_id": "XQfwVw",
                "stars": 3.0,
                "useful": 0,
                "text": 'a "quoted", text',
                "date": "2018-07-07 22:09:11",
            }
        ),
        "yelp",
        {("mh_-eM", "XQfwVw"): 3},
    ),
    "Amazon 2018 reviews": (
        "Books_5.json",
        objects(
            {
                "overall": 5.0,
                "verified": True,
                "reviewTime": "09 13, 2009",
                "reviewerID": "A1REUF3A1YCPHM",
                "asin": "0143026860",
                "reviewerName": "TW",
                "unixReviewTime": 1252800000,
            },
            {"overall": 4.0, "reviewerID": "A2B", "asin": "0143026860", "unixReviewTime": 1362787200},
        ),
        "json-lines",
        {("A1REUF3A1YCPHM", "0143026860"): 5, ("A2B", "0143026860"): 4},
    ),
    "Amazon 2018 ratings, item first": (
        "All_Beauty.csv",
        lines(
            "0143026860,A1V6B6TNIC10QE,1.0,1424304000",
            "B00004U9V2,A3LCS4FTZHJ4U0,5.0,1418860800",
        ),
        "generic",
        {("A1V6B6TNIC10QE", "0143026860"): 1, ("A3LCS4FTZHJ4U0", "B00004U9V2"): 5},
    ),
    "Amazon 2014 ratings, user first": (
        "ratings_Beauty.csv",
        lines("A39HTATAQ9V7YF,0205616461,5.0,1369699200", "A3JM6GV9MNOF9X,0558925278,3.0,1355443200"),
        "generic",
        {("A39HTATAQ9V7YF", "0205616461"): 5, ("A3JM6GV9MNOF9X", "0558925278"): 3},
    ),
    "Amazon 2023": (
        "All_Beauty.csv",
        lines(
            "user_id,parent_asin,rating,timestamp",
            "AGKHLEW2SOWHNMFQIJGBECAF7INQ,B081TJ8YS3,4.0,1588615855070",
        ),
        "generic",
        {("AGKHLEW2SOWHNMFQIJGBECAF7INQ", "B081TJ8YS3"): 4},
    ),
    "Foursquare TSMC2014": (
        "dataset_TSMC2014_NYC.txt",
        lines(
            f"470\t{VENUE[0]}\t4bf58dd8d48988d127951735\tArts & Crafts Store\t40.719\t-74.002\t-240\t"
            "Tue Apr 03 18:00:09 +0000 2012",
            f'470\t{VENUE[0]}\t4bf58dd8d48988d1df941735\tBridge "A\t40.606\t-74.044\t-240\t'
            "Tue Apr 03 18:00:25 +0000 2012",
            f"979\t{VENUE[1]}\t4bf58dd8d48988d103941735\tCaf\xe9\t40.716\t-73.883\t-240\t"
            "Tue Apr 03 18:02:24 +0000 2012",
        ).encode("latin-1"),
        "foursquare-tsmc2014",
        {("470", VENUE[0]): 2, ("979", VENUE[1]): 1},
    ),
    "SNAP Gowalla": (
        "Gowalla_totalCheckins.txt",
        lines(
            "0\t2010-10-19T23:55:27Z\t30.2359091167\t-97.7951395833\t22847",
            "0\t2010-10-18T22:17:43Z\t30.2691029532\t-97.7493953705\t420315",
        ),
        "snap-checkins",
        {("0", "22847"): 1, ("0", "420315"): 1},
    ),
    "Netflix": (
        "combined_data_1.txt",
        lines("1:", "1488844,3,2005-09-06", "822109,5,2005-05-13", "2:", "822109,4,2005-09-05"),
        "netflix-prize",
        {("1488844", "1"): 3, ("822109", "1"): 5, ("822109", "2"): 4},
    ),
    "Retailrocket": (
        "events.csv",
        lines(
            "timestamp,visitorid,event,itemid,transactionid",
            "1433221332117,257597,view,355908,",
            "1433221332117,257597,addtocart,355908,",
            "1433223236124,257598,transaction,5,4000",
        ),
        "retailrocket",
        {("257597", "355908"): 4, ("257598", "5"): 4},
    ),
    "Last.fm 360K": (
        "usersha1-artmbid-artname-plays.tsv",
        lines(f"{SHA[0]}\t{MBID}\tbetty blowtorch\t2137", f'{SHA[1]}\t\t"weird al" yankovic\t12'),
        "lastfm-360k",
        {(SHA[0], "betty blowtorch"): 2137, (SHA[1], '"weird al" yankovic'): 12},
    ),
    "MIND": (
        "behaviors.tsv",
        lines(
            "1\tU13740\t11/11/2019 9:05:58 AM\tN55189 N42782\tN55689-1 N35729-0",
            "2\tU13740\t11/12/2019 6:11:30 PM\tN55189 N42782\tN20678-0 N39317-1",
            "3\tU91836\t11/12/2019 6:11:30 PM\t\tN20678-0 N39317-1",
        ),
        "mind",
        {
            ("U13740", "N55189"): 1,
            ("U13740", "N42782"): 1,
            ("U13740", "N55689"): 1,
            ("U13740", "N39317"): 1,
            ("U91836", "N39317"): 1,
        },
    ),
    "online retail": (
        "Online Retail.csv",
        lines(
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
            '536365,85123A,"HEART, WHITE",6,2010-12-01 08:26:00,2.55,17850,United Kingdom',
            "C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527,United Kingdom",
            "536414,22139,,56,2010-12-01 11:52:00,0,,United Kingdom",
            "536365,71053,LANTERN,8,2010-12-01 08:26:00,3.39,17850,United Kingdom",
        ),
        "online-retail",
        {("17850", "85123A"): 6, ("17850", "71053"): 8},
    ),
    "Kaggle anime": (
        "rating.csv",
        lines("user_id,anime_id,rating", "1,20,-1", "1,24,9", "3,20,8"),
        "kaggle-anime",
        {("1", "20"): 1, ("1", "24"): 9, ("3", "20"): 8},
    ),
    "Steam 200k": (
        "steam-200k.csv",
        lines(
            "151603712,The Elder Scrolls V Skyrim,purchase,1.0,0",
            "151603712,The Elder Scrolls V Skyrim,play,273.0,0",
            '59945701,"Worms, Reloaded",purchase,1.0,0',
        ),
        "steam-200k",
        {("151603712", "The Elder Scrolls V Skyrim"): 274, ("59945701", "Worms, Reloaded"): 1},
    ),
    "MovieLens 25M": (
        "ratings.csv",
        lines("userId,movieId,rating,timestamp", "1,296,5.0,1147880044"),
        "movielens-latest",
        {("1", "296"): 5},
    ),
    "goodbooks": (
        "ratings.csv",
        lines("user_id,book_id,rating", "1,258,5", "2,4081,4"),
        "generic",
        {("1", "258"): 5, ("2", "4081"): 4},
    ),
    "goodbooks, to read": (
        "to_read.csv",
        lines("user_id,book_id", "9,8", "15,398"),
        "generic",
        {("9", "8"): 1, ("15", "398"): 1},
    ),
}
SECONDS = {  # of the interaction that is the first by user and item
    "Yelp": 1531001351,
    "Amazon 2018 reviews": 1252800000,
    "Amazon 2018 ratings, item first": 1424304000,
    "Amazon 2023": 1588615855,
    "Foursquare TSMC2014": 1333476025,
    "SNAP Gowalla": 1287532527,
    "Netflix": 1125964800,
    "Retailrocket": 1433221332,
}


def pairs(interactions):
    users = np.asarray(interactions.user_labels).astype(str)[interactions.user_ids]
    items = np.asarray(interactions.item_labels).astype(str)[interactions.item_ids]
    return dict(
        zip(zip(users.tolist(), items.tolist(), strict=True), interactions.strengths.tolist(), strict=True)
    )


@pytest.mark.parametrize("name", FILES)
def test_layout_is_read(file, name):
    file_name, content, layout, expected = FILES[name]
    interactions, report = read_interactions(file(content, file_name))
    assert report.layout == layout
    assert pairs(interactions) == expected
    if name in SECONDS:
        order = sorted(pairs(interactions)).index(min(expected))
        by_label = np.asarray(interactions.timestamps)[
            np.lexsort(
                (
                    np.asarray(interactions.item_labels).astype(str)[interactions.item_ids],
                    np.asarray(interactions.user_labels).astype(str)[interactions.user_ids],
                )
            )
        ]
        assert by_label[order] == SECONDS[name]


@pytest.mark.parametrize(
    "name", ["BookCrossing", "Kaggle anime", "online retail", "Steam 200k", "Last.fm 360K", "SNAP Gowalla"]
)
def test_layout_is_recognized_under_another_name(file, name):
    _, content, layout, expected = FILES[name]
    interactions, report = read_interactions(file(content, "renamed.txt"))
    assert (report.layout, pairs(interactions)) == (layout, expected)


def test_seen_but_not_rated_is_left_out_of_explicit_ratings(file):
    file_name, content, *_ = FILES["Kaggle anime"]
    path = file(content, file_name)
    interactions, report = read_interactions(path, implicit=False)
    assert pairs(interactions) == {("1", "24"): 9, ("3", "20"): 8}
    assert report.unrated == 1 and report.num_rows == 2
    assert read_interactions(path)[1].unrated == 1


def test_returns_and_rows_without_a_customer_are_counted(file):
    file_name, content, *_ = FILES["online retail"]
    assert read_interactions(file(content, file_name))[1].bad_lines_skipped == 2


def test_taken_columns_and_the_evidence_are_reported(file):
    def report_of(name):
        return read_interactions(file(FILES[name][1], FILES[name][0]))[1]

    swapped = report_of("Amazon 2018 ratings, item first")
    assert (swapped.columns["user"], swapped.columns["item"]) == ("column 1", "column 0")
    assert "column 1 reviewers" in swapped.why
    assert report_of("online retail").columns == {
        "user": "CustomerID",
        "item": "StockCode",
        "strength": "Quantity",
        "timestamp": "InvoiceDate",
    }


def test_order_without_header_can_be_turned_round(file):
    path = file("1,10,5\n2,10,4\n")
    assert "in this order" in read_interactions(path)[1].why
    turned, report = read_interactions(path, columns=Columns(1, 0))
    assert turned.num_users == 1 and report.columns["user"] == "column 1"


def test_columns_of_layouts_that_differ_can_be_chosen(file):
    path = file(
        objects({"author": "ann", "book": "x", "stars": 2}, {"author": "bob", "book": "x", "stars": 1})
    )
    interactions, _ = read_interactions(
        path, layout="json-lines", columns=Columns(user="author", strength="")
    )
    assert pairs(interactions) == {("ann", "x"): 1, ("bob", "x"): 1}
    blocks = file(FILES["Netflix"][1], "combined_data_1.txt")
    interactions, _ = read_interactions(blocks, columns=Columns(strength="", timestamp=""))
    assert set(interactions.strengths.tolist()) == {1.0} and interactions.timestamps is None
    assert "fixed columns" in failure(blocks, columns=Columns(user=2))


@pytest.mark.parametrize(
    ("content", "strength", "timestamp"),
    [
        ("1,10,978300760\n2,10,978302109\n", None, "column 2"),
        ("1,10,2020-01-01,3\n2,10,2020-01-02,4\n", "column 3", "column 2"),
        ("1,10,3,978300760\n2,10,4,978302109\n", "column 2", "column 3"),
    ],
)
def test_times_without_header_are_no_strengths(file, content, strength, timestamp):
    columns = read_interactions(file(content))[1].columns
    assert (columns.get("strength"), columns.get("timestamp")) == (strength, timestamp)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        ("1 2 3\n2 2 3 4\n3 1 5\n", {}),  # a table with a line too long: two lengths are no lists
        ("2 5 6\n3 5 6\n", {"layout": "citeulike"}),
        ("1:\n5,3\n", {}),
    ],
)
def test_near_misses_are_refused(file, content, options):
    failure(file(content, "users.dat"), **options)


def test_lists_that_look_like_a_table_can_be_chosen(file):
    interactions, _ = read_interactions(file("1 2 3\n2 2 4\n"), layout="item-lists")
    assert interactions.num_interactions == 4


def test_folder_of_lists_is_a_published_split(file, tmp_path):
    file("0 3 4 5\n1 4\n2 5 3\n3\n", "train.txt")
    file("0 6 7\n1 5\n2 4\n", "test.txt")
    file("org_id remap_id\n", "user_list.txt")
    train, test = read_published_split(tmp_path)
    assert (train.num_interactions, test.num_interactions) == (6, 4)
    assert train.num_items == test.num_items == 5


def test_blocks_go_on_over_pieces_of_a_file(file, monkeypatch, tmp_path):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 24)
    rows = ["1:", *(f"{user},3,2005-09-06" for user in range(9)), "", "2:", "7,4,2005-09-07"]
    file("\r\n".join(rows) + "\r\n", "combined_data_1.txt")
    file("3:\n8,5,2005-09-07\n9,x,2005-09-07\n", "combined_data_2.txt")
    message = failure(tmp_path)
    assert message.startswith("/combined_data_2.txt:3: expected a finite number")
    interactions, report = read_interactions(tmp_path, on_bad_line="skip")
    assert report.layout == "netflix-prize" and report.bad_lines_skipped == 1
    ids = np.asarray(interactions.item_labels)[interactions.item_ids]
    assert sorted(ids.tolist()) == [1] * 9 + [2, 3]


@pytest.mark.parametrize("name", ["{}.csv", "{}.txt", "set.{}.inter", "ml-1m.{}.rating"])
def test_folder_of_parts_says_what_to_do(file, tmp_path, name):
    names = [name.format(part) for part in ("train", "test", "valid")]
    for part in names:
        file("user_id:token\titem_id:token\n1\t2\n", part)
    message = failure(tmp_path)
    assert "the parts of a split" in message and str(tmp_path / names[0]) in message
    assert names[1] in message and "join the parts" in message


@pytest.mark.parametrize("name", ["BX-Book-Ratings.csv", "BX_Book_Ratings.csv", "Ratings.csv"])
def test_folder_of_bookcrossing_is_found_under_any_of_its_names(file, tmp_path, name):
    file(FILES["BookCrossing"][1], name)
    file("ISBN;Book-Title\n", "Books.csv")
    interactions, report = read_interactions(tmp_path)
    assert report.layout.startswith("bookcrossing") and report.unrated == 2
    assert pairs(interactions) == FILES["BookCrossing"][3]


def test_folder_of_compressed_files_is_found(tmp_path):
    (tmp_path / "ratings.csv.gz").write_bytes(gzip.compress(FILES["MovieLens 25M"][1].encode()))
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n")
    assert read_interactions(tmp_path)[1].layout == "movielens-latest"


def test_readme_is_no_data(file, tmp_path):
    file("1,2,3\n1,3,4\n", "mine.csv")
    file("about", "README.md")
    assert read_interactions(tmp_path)[0].num_interactions == 2


def test_zip_of_a_published_set_is_read_by_its_member(file):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("BX-Users.csv", "x")
        archive.writestr("README.md", "about")
        archive.writestr("BX-Book-Ratings.csv", FILES["BookCrossing"][1])
    assert read_interactions(file(buffer.getvalue(), "BX.zip"))[1].layout == "bookcrossing"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"user_id": 1, "item": "a"}\n{"user_id": 2}\n', ":2: expected an item id"),
        ('{"user_id": 1, "item": "a"}\n[1, 2]\n', ":2: expected an object in JSON"),
        ('{"user_id": 1, "item": "a"}\n\nnull\n', ":3: expected an object in JSON"),
        ('{"user_id": 1, "item": "a"}\n{"user_id": \n', ":2: expected an object in JSON"),
        ('{"user": "a", "item": "b", "stars": "many"}\n', ":1: expected a finite number as strength"),
        ('{"who": 1, "what": 2}\n', ":1: no user or item column recognized among who, what"),
        ('{"user": "a", "item": "b", "stars": -1}\n', ":1: expected a strength >= 0"),
        (  # the first of two
            '{"user": "a", "item": "b", "stars": 1, "time": "soon"}\n'
            '{"user": "a", "item": "b", "stars": "many", "time": 5}\n',
            ":1: expected a timestamp",
        ),
    ],
)
def test_bad_json_lines_are_refused_with_the_line(file, content, expected):
    assert expected in failure(file(content))


@pytest.mark.parametrize(
    ("user", "item", "strength", "time"),
    [
        ("ann", 7, 2.5, "2020-01-31"),
        (2**53 + 1, "007", 3, 1580428800123),
        (-1, " x ", 0, 1580428800),
        ("\u00e9", 'a"b', 1e3, "2020-01-31T12:00:00Z"),
    ],
)
def test_regular_and_careful_json_agree(file, monkeypatch, user, item, strength, time):
    rows = [
        {"user": user, "item": item, "rating": strength, "ts": time, "other": [1, {}]},
        {"ts": time, "rating": strength, "item": item, "user": user},
        {"user": user, "item": item, "rating": 1, "ts": time},
    ]
    path = file(objects(*rows))
    calls = []
    regular = json_lines._Parser._regular
    monkeypatch.setattr(
        json_lines._Parser, "_regular", lambda self, block: calls.append(regular(self, block)) or calls[0]
    )
    fast, _ = read_interactions(path)
    assert calls[0] is not None
    monkeypatch.setattr(json_lines._Parser, "_regular", lambda self, block: None)
    assert read_interactions(path)[0].fingerprint() == fast.fingerprint()


def test_bad_json_lines_can_be_skipped(file):
    path = file('{"user": 1, "item": 2}\nnonsense\n{"user": 1, "item": null}\n{"user": 1, "item": 3}\n')
    interactions, report = read_interactions(path, on_bad_line="skip")
    assert interactions.num_interactions == 2 and report.bad_lines_skipped == 2


def test_array_of_objects_is_read(file):
    path = file(json.dumps([{"user": "a", "item": 1, "count": 2}, {"user": "b", "item": 1, "count": 1}]))
    assert pairs(read_interactions(path)[0]) == {("a", "1"): 2, ("b", "1"): 1}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, {("1", "5"): 1, ("2", "5"): 4}),
        ({"view": 0.5, "buy": 10}, {("1", "5"): 0.5, ("2", "5"): 10}),
    ],
)
def test_events_have_weights(file, values, expected):
    path = file("user,item,action\n1,5,view\n2,5,Buy\n")
    assert pairs(read_interactions(path, strength_values=values)[0]) == expected
    frame = pd.read_csv(path)
    frame.to_parquet(path.with_suffix(".parquet"))
    for source in (frame, path.with_suffix(".parquet")):
        assert pairs(read_interactions(source, strength_values=values)[0]) == expected


def test_unknown_events_and_bad_meanings_are_refused(file):
    path = file(
        "user,item,action\n1,5,view\n" * 1 + "".join(f"{u},5,view\n" for u in range(30)) + "2,5,yodel\n"
    )
    assert "data.strength_values" in failure(path) and "yodel" in failure(path)
    for values in ({"view": "seen"}, {-1: 2}, {"view": -1}):
        with pytest.raises(ValueError, match=r"data\.strength_values"):
            read_interactions(path, strength_values=values)


def test_numbers_can_mean_seen_but_not_rated(file, tmp_path):
    path = file("user,item,rating\n1,5,-1\n1,6,0\n2,5,4\n")
    assert ":2: expected a strength >= 0" in failure(path)
    expected = {("1", "5"): 1, ("1", "6"): 1, ("2", "5"): 4}
    seen = {-1: "seen", "0": "seen"}
    assert pairs(read_interactions(path, strength_values=seen)[0]) == expected
    pd.read_csv(path).to_parquet(tmp_path / "a.parquet")
    assert pairs(read_interactions(tmp_path / "a.parquet", strength_values=seen)[0]) == expected


def test_negative_strengths_can_be_skipped(file, tmp_path):
    path = file("user,item,rating\n1,5,-1\n2,5,4\n")
    pd.read_csv(path).to_parquet(tmp_path / "a.parquet")
    for source in (path, tmp_path / "a.parquet"):
        interactions, report = read_interactions(source, on_bad_line="skip")
        assert (interactions.num_interactions, report.bad_lines_skipped) == (1, 1)
