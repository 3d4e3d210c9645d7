"""Titles of items, from made-up files in the layouts of published sets."""

import pytest

from fcf_jax.data.titles import TITLE_FILES, find_titles

LAYOUTS = {
    "u.item": ("u.data", '1|Toy "Story" (1995)|01-Jan-1995||url|0\n2|Caf\xe9|\n', "latin-1"),
    "movies.dat": ("ratings.dat", '1::Toy "Story" (1995)::Animation\n2::Caf\xe9::Drama\n', "latin-1"),
    "movies.csv": (
        "ratings.csv",
        'movieId,title,genres\r\n1,"Toy ""Story"" (1995)",A\r\n2,Caf\xe9,D\r\n',
        "utf-8",
    ),
    "artists.dat": ("user_artists.dat", 'id\tname\turl\n1\tToy "Story" (1995)\tx\n2\tCaf\xe9\ty\n', "utf-8"),
    "BX-Books.csv": (
        "BX-Book-Ratings.csv",
        '"ISBN";"Book-Title";"Book-Author"\n"1";"Toy \\"Story\\" (1995)";"x"\n"2";"Caf\xe9";"y"\n',
        "latin-1",
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_titles_of_a_layout(name, tmp_path):
    data, content, encoding = LAYOUTS[name]
    (tmp_path / name).write_bytes(content.encode(encoding))
    (tmp_path / data).touch()
    expected = {"1": 'Toy "Story" (1995)', "2": "Caf\xe9"}
    assert find_titles(tmp_path) == expected
    assert find_titles(tmp_path / data) == expected
    assert find_titles(tmp_path / "my.csv") == {}  # another's neighbour


def test_every_table_names_its_columns():
    for table in TITLE_FILES:
        assert table.beside and len(table.columns) == 2


@pytest.mark.parametrize(
    "content", [b"", b"id,name\n1,a\n", b"\x00\xff", b'movieId,title\n"1,a\n', b"movieId,title\n7\n"]
)
def test_a_table_of_another_kind_gives_no_titles(content, tmp_path):
    (tmp_path / "movies.csv").write_bytes(content)
    assert set(find_titles(tmp_path).values()) <= {"a"}


def test_titles_are_printable(tmp_path):
    (tmp_path / "movies.csv").write_text("movieId,title\n1,\x1b[31mRed\x07\n2,\n")
    assert find_titles(tmp_path) == {"1": "[31mRed"}
