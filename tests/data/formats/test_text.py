"""Text files block by block: the same rows whatever the size of a block, encoding and compression."""

import gzip
import lzma

import pytest
from tables import PLAIN

from fcf_jax.data import read_interactions
from fcf_jax.data.formats import text
from fcf_jax.data.formats.text import num_line_breaks, read_text

QUOTED = 'user,item,rating,note\n"u,1",a,2,"two\nlines"\nu2,"b ""c""",1,\n\n"u,1",d,5,x\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 30])
@pytest.mark.parametrize("content", [PLAIN, QUOTED], ids=["plain", "quoted"])
@pytest.mark.parametrize("line_break", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_invariant_to_block_size(file, monkeypatch, size, content, line_break, encoding):
    path = file(content.replace("\n", line_break).encode(encoding))
    expected = read_interactions(path)
    monkeypatch.setattr(text, "_BLOCK_BYTES", size)
    interactions, report = read_interactions(path)
    assert interactions.fingerprint() == expected[0].fingerprint()
    assert report == expected[1]


def test_one_byte_that_is_not_utf_8_makes_all_latin_1(file, monkeypatch):
    monkeypatch.setattr(text, "_BLOCK_BYTES", 4)
    interactions, report = read_interactions(file("é,1\n".encode() + b"\xe9,1\n"))
    assert interactions.user_labels.tolist() == ["Ã©", "é"] and report.encoding == "latin-1"


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_lines_and_bytes_are_counted_without_the_compression(file, compress):
    found = read_text(file(compress(b"a,b\r\nc,d\re,f")))
    assert (found.num_bytes, found.num_lines, found.content) == (12, 2, b"a,b\r\nc,d\re,f")
    assert num_line_breaks(b"\r\r\n\n\r") == 4
