"""graced.ingest.extract: text of text, Markdown, HTML and man pages; everything else refused."""

import gc
import gzip
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base.errors import FormatError
from graced.ingest.extract import extract, extract_steps

PAGE = b"""<!DOCTYPE html><html><head><title>Restart &amp; run</title><style>p{color:red}</style></head><body>
<h1>Nginx</h1><p>Test the <b>config</b>
first.</p><script>alert("no")</script><ul><li>one<li>two</ul><pre>nginx -t
  -q</pre></body></html>"""

MAN = b""".\\" comment
.TH NGINX 8 "2026"
.SH NAME
nginx \\- web server
.SH OPTIONS
.TP
.BI \\-t " file"
Test the \\fBconfiguration\\fR.
.de XX
hidden
..
"""


def test_html():
    found = extract("a.html", PAGE)
    assert (found.extractor, found.title) == ("html", "Restart & run")
    assert found.text == "# Nginx\n\nTest the config first.\n\none\n\ntwo\n\nnginx -t\n  -q\n"


def test_man_page_compressed():
    found = extract("nginx.8.gz", gzip.compress(MAN, mtime=0))
    assert (found.extractor, found.title) == ("man+gzip", "nginx(8)")
    assert found.text == "# NAME\nnginx - web server\n\n# OPTIONS\n\n-t file\nTest the configuration.\n"


def test_markdown_title_and_line_ends():
    found = extract("a.md", "\ufeff# The title\r\nText é\r\n".encode())
    assert (found.extractor, found.title, found.text) == ("markdown", "The title", "# The title\nText é\n")


def test_text_keeps_its_name_as_title_and_counts_replacements():
    found = extract("notes", b"caf\xe9 and more plain words")
    assert (found.extractor, found.title, found.replaced) == ("text", "notes", 1)


def test_terminal_overstrike_and_colour():
    assert extract("x", b"N\bNA\bAME _\bx \x1b[1mbold\x1b[0m").text == "NAME x bold"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x7fELF....", "ELF"),
        (b"%PDF-1.7", "PDF"),
        (b"a\0b", "NUL"),
        (bytes(range(128, 256)) * 9, "tenth"),
        (b"", "no text"),
        (b" \n", "no text"),
        (gzip.compress(b"a" * 5000, mtime=0), "grows beyond"),
        (gzip.compress(b"a" * 500, mtime=0)[:-9], "cut short"),
        (b"\x1f\x8b\x08garbage garbage", "damaged"),
    ],
)
def test_what_is_not_text_is_refused_with_the_reason(data, reason):
    with pytest.raises(FormatError, match=reason):
        extract("file", data, max_bytes=4096)


@given(st.binary(max_size=600), st.sampled_from(["a.html", "a.md", "a.1", "a.gz", "a"]))
def test_any_bytes_give_text_or_a_format_error(data, name):
    try:
        found = extract(name, data)
    except FormatError:
        return
    assert found.text.strip()
    assert "\r" not in found.text


@given(
    st.text(alphabet="<>/!?-a=\"' scriptheadpre&#;\n\\.SHBf(*[", max_size=400), st.sampled_from(["<html>", ".TH a 1\n"])
)
def test_markup_of_any_shape_is_survived(text, head):
    try:
        extract("x", (head + text).encode())
    except FormatError as error:
        assert "no text" in error.message


@pytest.mark.parametrize("unit", ["<", "<a ", "<!", "</", '<a b="', "&#", "<script>", "<h1>", "a<b>"])
def test_hostile_html_takes_linear_time_in_small_steps(unit):
    def once(count):
        steps, begin, number = extract_steps("x.html", b"z" + (unit * count).encode()), time.thread_time(), 0
        for _ in steps:
            number += 1
        return time.thread_time() - begin, number

    def cost(count):
        # the best of some: what else the machine does can only add to it
        return min(once(count) for _ in range(3))

    gc.collect()
    gc.disable()
    try:
        small, _ = cost(20_000)
        large, steps = cost(160_000)
    finally:
        gc.enable()
    assert large < 30 * max(small, 0.002)  # 8 times the input; quadratic would be 64 times
    assert unit == "<script>" or steps >= len(unit) * 160_000 // 262_144  # unclosed script: the rest is dropped at once
