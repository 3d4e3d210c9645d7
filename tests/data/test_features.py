"""Side features: what columns are taken for, alignment with labels, and faults."""

import gzip

import numpy as np
import pandas as pd
import pytest

from fcf_jax.data import Features, read_features
from fcf_jax.data.encoding import BadValueError
from fcf_jax.data.features import new_rows

PEOPLE = "user_id,age,gender,city,likes\n7,20,F,Rome,a|b\n8,40,M,Oslo,b\n9,,F,Rome,\n10,60,M,Bonn,a\n"
USER = "1|24|M|technician|85711\n2|53|F|none|94043\n3|23|M|none|32067\n4|17|F|technician|43537\n"
ITEM = "1|Caf\xe9 (1995)|01-Jan-1995||http://x|" + "|".join("0001" + "0" * 15) + "\n"
ITEM += "2|Rex (1990)|05-May-1990||http://y|" + "|".join("0100" + "0" * 15) + "\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::10::55117\n4::M::45::16::02460\n"
MOVIES = "1::Toy::Comedy|Drama\n2::Sky::Drama\n3::Sea::Comedy\n4::Sun::Drama\n"


def written(folder, name, text, encoding="utf-8"):
    path = folder / name
    path.write_text(text, encoding=encoding)
    return path


def features_of(folder, name, text, entity, encoding="utf-8"):
    return read_features(written(folder, name, text, encoding), entity=entity)


def test_columns_become_standardized_numbers_categories_and_lists(tmp_path):
    features = features_of(tmp_path, "people.csv", PEOPLE, "user")
    names = ("constant", "age", "gender=F", "gender=M", "likes=a", "likes=b")
    assert features.names == names
    age = (np.array([20, 40, 40, 60]) - 40) / np.std([20, 40, 60])  # a missing number is the mean
    expected = np.array(
        [[1, 0, 1, 0, 1, 1], [1, 0, 0, 1, 0, 1], [1, 0, 1, 0, 0, 0], [1, 0, 0, 1, 1, 0]], float
    )
    expected[:, 1] = age
    np.testing.assert_allclose(features.matrix, expected, atol=1e-6)
    assert features.left_out == {"city": "3 values in 4 rows"}
    assert "gender (2 values)" in features.summary and "left out: city" in features.summary


@pytest.mark.parametrize(
    ("name", "text", "entity", "encoding", "names", "second"),
    [
        (
            "u.user",
            USER,
            "user",
            "utf-8",
            "age=50 gender=F occupation=none",
            "age=50 gender=F occupation=none",
        ),
        ("u.item", ITEM, "item", "latin-1", "Animation Action", "Action"),
        (
            "users.dat",
            USERS,
            "user",
            "utf-8",
            "gender=M age=56 occupation=16",
            "gender=M age=56 occupation=16",
        ),
        ("movies.dat", MOVIES, "item", "latin-1", "genres=Comedy genres=Drama", "genres=Drama"),
    ],
)
def test_files_of_movielens_are_read_as_they_are(name, text, entity, encoding, names, second, tmp_path):
    features = features_of(tmp_path, name, text, entity, encoding)
    assert set(names.split()) <= set(features.names)
    row = features.of(["2"])[0]
    present = {one for one, value in zip(features.names, row, strict=True) if value}
    assert present == {"constant", *second.split()}
    assert not {"zip", "title", "url"} & {code.name for code in features.codes}


def test_other_ways_to_the_same_features_agree(tmp_path):
    features = features_of(tmp_path, "people.csv", PEOPLE, "user")
    packed = tmp_path / "people.tsv.gz"
    packed.write_bytes(gzip.compress(PEOPLE.replace(",", "\t").encode()))
    frame = pd.read_csv(tmp_path / "people.csv")
    frame["likes"] = frame["likes"].fillna("").str.split("|").map(lambda parts: [p for p in parts if p])
    frame.to_parquet(tmp_path / "people.parquet")
    others = [
        read_features(packed, entity="user"),
        read_features(tmp_path / "people.parquet", entity="user"),
        Features.from_frame(frame, entity="user"),
        Features.from_frame(frame.set_index("user_id"), entity="user"),
    ]
    for other in others:
        assert other.names == features.names
        assert other.labels.tolist() == features.labels.tolist()
        np.testing.assert_array_equal(other.matrix, features.matrix)


def test_rows_are_matched_by_label_and_others_have_the_constant_alone(tmp_path):
    features = features_of(tmp_path, "people.csv", PEOPLE, "user")
    aligned = features.of(np.array([10, 99, 7]))
    np.testing.assert_array_equal(aligned[[0, 2]], features.matrix[[3, 0]])
    assert aligned[1].tolist() == [1.0] + [0.0] * (features.num_features - 1)
    assert features.num_missing([10, 99, 7]) == 1
    assert features.others([10, 99, 7]).tolist() == [8, 9]
    with pytest.raises(ValueError, match=r"which are \['x'\], got those of \[7, 8, 9, ...\]"):
        features.check_some_known(["x"], entity="user")


def test_new_rows_are_encoded_as_known_ones_were(tmp_path):
    features = features_of(tmp_path, "people.csv", PEOPLE, "user")
    rows = [{"age": "20", "gender": "F", "likes": "a|b"}, {"age": "40", "gender": "F"}]
    np.testing.assert_allclose(new_rows(features.codes, rows), features.matrix[[0, 2]], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": "3"}, "expected one of age, gender, likes, got 'height'"),
        ({"gender": "X"}, "expected gender to be one of F, M, got 'X'"),
        ({"age": "old"}, "expected a number as age, got 'old'"),
    ],
)
def test_values_of_new_rows_that_mean_nothing_are_refused(values, message, tmp_path):
    features = features_of(tmp_path, "people.csv", PEOPLE, "user")
    with pytest.raises(BadValueError, match=message):
        new_rows(features.codes, [values])


def test_array_is_taken_as_it_is_beside_a_constant():
    features = Features.from_array([[3.0], [5.0]], labels=["a", "b"], names=["price"])
    assert features.names == ("constant", "price")
    assert features.of(["b", "c"]).tolist() == [[1.0, 5.0], [1.0, 0.0]]
    assert new_rows(features.codes, [{"price": "4"}]).tolist() == [[1.0, 4.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("8,40", "7,40"), r"people.csv:3: expected each user once, got '7' again after line 2; remove"),
        (("8,40,M", "8,40"), r"people.csv:3: expected 5 fields separated by ',', got 4; correct"),
        (("7,20", ",20"), r"people.csv:2: expected a user id, got none"),
        (("user_id,age,gender,city,likes\n", ""), r"people.csv:1: expected a header"),
        (("user_id", "movie_id"), r"people.csv: expected attributes of users, got a column movie_id"),
        (("age,gender", "age,age"), r"people.csv:1: expected every column once, got 'age' twice"),
        ((PEOPLE, "user_id,a\n1,x\n2,x\n"), r"people.csv: expected a column of attributes, got none among a"),
        ((PEOPLE, "user_id,age\n"), r"people.csv: expected attributes of users, got none"),
        ((PEOPLE, ""), r"people.csv: expected attributes, found an empty file"),
        (("Rome,a|b", '"Rome,a|b'), r"people.csv:2: expected 5 fields .*, got open quotes"),
    ],
)
def test_faults_are_named_with_their_line(change, message, tmp_path):
    path = written(tmp_path, "people.csv", PEOPLE.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_features(path, entity="user")


def test_number_among_numbers_that_is_none_is_refused(tmp_path):
    lines = "".join(f"{user},{20 + user}\n" for user in range(20)) + "20,2x\n"
    with pytest.raises(ValueError, match=r"people.csv:22: expected a number as age, got '2x'; correct it"):
        features_of(tmp_path, "people.csv", "user,age\n" + lines, "user")


@pytest.mark.parametrize(
    "arguments",
    [
        ([1.0],),
        ([[np.nan]],),
    ],
)
def test_arrays_that_are_no_features_are_refused(arguments):
    with pytest.raises(ValueError, match="expected finite features"):
        Features.from_array(*arguments)


def test_labels_that_repeat_are_refused():
    with pytest.raises(ValueError, match="2 labels, each once"):
        Features.from_array([[1.0], [2.0]], labels=["a", "a"])
