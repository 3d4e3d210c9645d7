"""Headers of real data sets and exports: which column means what, without being told."""

import pytest

from fcf_jax.data.formats.columns import Columns, named_positions
from fcf_jax.data.formats.dialect import infer_dialect
from fcf_jax.data.formats.names import COMMON_NAMES

# header: user, item, strength, timestamp; "-" where there is none
HEADERS = {
    "user,item,rating": "user item rating -",
    "userId,movieId,rating,timestamp": "userId movieId rating timestamp",
    "userID,artistID,weight": "userID artistID weight -",
    "userID,movieID,rating,date_day,date_month": "userID movieID rating -",
    "User-ID,ISBN,Book-Rating": "User-ID ISBN Book-Rating -",
    "user_id,book_id,rating": "user_id book_id rating -",
    "user_id,anime_id,rating": "user_id anime_id rating -",
    "user_id,anime_id,rating,watching_status,watched_episodes": "user_id anime_id rating -",
    "User_ID,Anime_ID,Feedback": "User_ID Anime_ID Feedback -",
    "user_id:token,item_id:token,rating:float,timestamp:float": (
        "user_id:token item_id:token rating:float timestamp:float"
    ),
    "user_id,parent_asin,rating,timestamp,history": "user_id parent_asin rating timestamp",
    "user_id,asin,parent_asin,rating,timestamp": "user_id parent_asin rating timestamp",
    "reviewerID,asin,overall,unixReviewTime": "reviewerID asin overall unixReviewTime",
    "timestamp,visitorid,event,itemid,transactionid": "visitorid itemid event timestamp",
    "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country": (
        "CustomerID StockCode Quantity InvoiceDate"
    ),
    "Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country": (
        "Customer ID StockCode Quantity InvoiceDate"
    ),
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session": (
        "user_id product_id event_type event_time"
    ),
    "t_dat,customer_id,article_id,price,sales_channel_id": "customer_id article_id - t_dat",
    "session_id,timestamp,item_id,category": "session_id item_id - timestamp",
    "SessionId,ItemId,Time": "SessionId ItemId - Time",
    "session,aid,ts,type": "session aid type ts",
    "user_id,business_id,stars,date": "user_id business_id stars date",
    "review_id,user_id,business_id,stars,useful,funny,cool,text,date": "user_id business_id stars date",
    "customer,sku,qty": "customer sku qty -",
    "client_id,product,quantity,order_date": "client_id product quantity order_date",
    "member,game,hours": "member game hours -",
    "user_id,item_name,playtime_forever": "user_id item_name playtime_forever -",
    "app_id,helpful,funny,date,is_recommended,hours,user_id,review_id": "user_id app_id hours date",
    "user_id,song_id,listen_count": "user_id song_id listen_count -",
    "user_id,track_id,play_count,timestamp": "user_id track_id play_count timestamp",
    "msno,song_id,source_type": "msno song_id - -",
    "listener,song,plays": "listener song plays -",
    "user,artist,scrobbles": "user artist scrobbles -",
    "userid,timestamp,artid,artname,traid,traname": "userid artid - timestamp",
    "uid,iid,rating": "uid iid rating -",
    "uid,mid,score,time": "uid mid score time",
    "user_id,recipe_id,date,rating,review": "user_id recipe_id rating date",
    "review_profilename,beer_beerid,review_overall": "review_profilename beer_beerid review_overall -",
    "user_id,venue_id,latitude,longitude,utc_time": "user_id venue_id - utc_time",
    "userId,placeID,rating,food_rating,service_rating": "userId placeID rating -",
    "user,video_id,views": "user video_id views -",
    "userId,jokeId,rating": "userId jokeId rating -",
    "person_id,content_id,event_type,timestamp": "person_id content_id event_type timestamp",
    "visitor_id,page,clicks": "visitor_id page clicks -",
    "Customer,Product,Units,Date": "Customer Product Units Date",
    "subscriber_id,show_id,minutes": "subscriber_id show_id minutes -",
    "student_id,course_id,grade": "student_id course_id grade -",
    "user_name,user_id,movie_title,movie_id,rating": "user_id movie_id rating -",
    "Unnamed: 0,user_id,item_id,rating": "user_id item_id rating -",
    "order_id,customer_id,product_id,quantity,price": "customer_id product_id quantity -",
    "user_id,movie_id,watched": None,
    "who,what": None,
    "user,thing,count": None,
    "user_id,isbn,count": "user_id isbn count -",
    "USER_ID,ITEM_ID,TIMESTAMP": "USER_ID ITEM_ID - TIMESTAMP",
    "USER_ID,ITEM_ID,EVENT_TYPE,EVENT_VALUE,TIMESTAMP": "USER_ID ITEM_ID EVENT_VALUE TIMESTAMP",
    "users,items,values": "users items values -",
    "date,buyer,book,purchases": "buyer book purchases date",
    "Order Date,Customer ID,Product SKU,Qty": "Customer ID Product SKU Qty Order Date",
    "customer_email,product_ean,quantity": "customer_email product_ean quantity -",
}
_VALUES = {"strength": "3", "timestamp": "1356998400"}


@pytest.mark.parametrize("header", [header for header, taken in HEADERS.items() if taken is not None])
def test_header_is_understood(header):
    names, taken = header.split(","), HEADERS[header]
    positions = named_positions("f", names, Columns())
    found = ["-" if position is None else names[position] for position in positions]
    assert " ".join(found) == taken


@pytest.mark.parametrize("header", [header for header, taken in HEADERS.items() if taken is None])
def test_header_that_is_not_understood_is_refused_with_its_names(header):
    with pytest.raises(ValueError, match=r"set '?data\.") as caught:
        named_positions("f", header.split(","), Columns())
    assert header.replace(",", ", ") in str(caught.value)


def test_unknown_column_of_texts_is_no_strength():
    rows = ["user,item,mood", "1,2,happy", "1,3,sad"]
    dialect = infer_dialect("f", rows, Columns(), None)
    assert dialect.columns.strength is None
    assert dialect.why == "mood is not numeric, and every row counts 1 (data.strength_column)"
    with pytest.raises(ValueError, match=r"\(mood\?\)"):  # one bad value among numbers
        infer_dialect("f", ["user,item,mood", "1,2,7", "1,3,sad", "1,4,8"], Columns(), None)


def test_type_of_an_item_is_no_event():
    rows = ["user,item,type", "1,2,book", "1,3,film"]
    dialect = infer_dialect("f", rows, Columns(), None)
    assert dialect.columns.strength is None and "type holds words without a weight" in dialect.why
    weighed = infer_dialect("f", rows, Columns(), None, weights={"book": 2.0})
    assert weighed.columns.strength == 2 and weighed.weights == {"book": 2.0} and not weighed.why
    rows = ["user,item,type", "1,2,view", "1,3,buy"]
    assert infer_dialect("f", rows, Columns(), None).columns.strength == 2


def test_times_that_cannot_be_read_are_left_out_and_said():
    dialect = infer_dialect(
        "f", ["user,item,qty,date", "1,2,3,13.2.2010", "2,2,1,14.2.2010"], Columns(), None
    )
    assert dialect.columns.timestamp is None and "times in date" in dialect.why


@pytest.mark.parametrize(
    ("first", "has_header"),
    [
        ("user,item", True),
        ("ann,book", True),
        ("7,book", False),
        ("7,game,view", False),
        ("1,2,3", False),
    ],
)
def test_header_is_told_from_a_first_row(first, has_header):
    rows = [first, "8,film" if first.count(",") == 1 else "8,film,4"]
    try:
        assert infer_dialect("f", rows, Columns(), None).has_header is has_header
    except ValueError as error:  # no number in it, so that it names columns
        assert has_header and "no user column" in str(error)


def test_every_name_is_in_its_plain_form_and_means_one_thing():
    ids = set(COMMON_NAMES["user"]) & set(COMMON_NAMES["item"])
    assert not ids, ids
    times = set(COMMON_NAMES["timestamp"])
    assert not times & {*COMMON_NAMES["user"], *COMMON_NAMES["item"], *COMMON_NAMES["strength"]}
    for names in COMMON_NAMES.values():
        assert all(name == name.lower() and not set(name) & set(" _-.:") for name in names)
