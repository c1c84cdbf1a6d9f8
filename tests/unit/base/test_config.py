import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graced.base import config
from graced.base.config import Option
from graced.base.errors import ConfigError
from graced.base.toml import parse_toml

OPTIONS = (
    Option("memory", "keep_incidents", "int", 1000, "Closed incidents kept", low=1),
    Option("memory", "pause", "duration_s", 5.0, "A pause"),
    Option("memory", "cap", "size_bytes", 1 << 20, "A cap"),
    Option("memory", "mode", "str", "a", "A mode", choices=("a", "b")),
    Option("healing", "on", "bool", True, "Whether"),
    Option("healing", "dirs", "strs", (), "Folders"),
)


def write(tmp_path, text):
    path = tmp_path / "graced.toml"
    path.write_text(text)
    return str(path)


def test_defaults_without_a_file(tmp_path):
    values = config.load(str(tmp_path / "none"), OPTIONS, "memory")
    assert dict(values.items()) == {"keep_incidents": 1000, "pause": 5.0, "cap": 1 << 20, "mode": "a"}


def test_the_shipped_file_is_all_defaults_and_uncommented_it_reads_back(tmp_path):
    text = config.render_default(OPTIONS)
    assert config.load(write(tmp_path, text), OPTIONS, "memory")["keep_incidents"] == 1000
    lines = [line[1:] if line.startswith("#") and not line.startswith("# ") else line for line in text.splitlines()]
    path = write(tmp_path, "\n".join(lines))
    assert config.check(path, OPTIONS) == []
    assert dict(config.load(path, OPTIONS, "healing").items()) == {"on": True, "dirs": ()}


def test_values(tmp_path):
    path = write(tmp_path, '[memory]\npause = "2m"\ncap = "4K"\n[healing]\ndirs = ["/a"]\n')
    assert config.load(path, OPTIONS, "memory")["pause"] == 120.0
    assert config.load(path, OPTIONS, "memory")["cap"] == 4096
    assert config.load(path, OPTIONS, "healing")["dirs"] == ("/a",)


def test_every_mistake_is_reported_with_its_line(tmp_path):
    path = write(
        tmp_path,
        "[memory]\nkeep_incidents = 0\npause = 'soon'\ntypo = 1\nmode = 'c'\n\n[healing]\non = 1\ndirs = [1]\n"
        "[none]\nx = 1\n",
    )
    assert [(problem.line, problem.message.split(":")[0]) for problem in config.check(path, OPTIONS)] == [
        (2, "memory.keep_incidents"),
        (3, "memory.pause"),
        (4, "memory.typo is not an option"),
        (5, "memory.mode"),
        (8, "healing.on"),
        (9, "healing.dirs"),
        (10, "[none] is not a section"),
    ]
    with pytest.raises(ConfigError, match=r":2: .*\n.*:3: "):
        config.load(path, OPTIONS, "memory")


def test_not_toml(tmp_path):
    path = write(tmp_path, "[memory]\nx = = 1\n")
    assert config.check(path, OPTIONS)[0].line == 2
    (tmp_path / "graced.toml").write_bytes(b"[memory]\n\xff = 1\n")
    assert config.check(path, OPTIONS)[0].line == 2


@given(st.binary(max_size=300))
def test_toml_only_raises_config_error(data):
    try:
        values, line_of = parse_toml(data, "f")
    except ConfigError:
        return
    for key in values:
        assert line_of(key) >= 0


@given(st.text(max_size=20))
def test_durations_only_raise_value_error(text):
    with contextlib.suppress(ValueError):
        assert config.duration_s(text) >= 0


def test_lines_of_tables_in_lists():
    _, line_of = parse_toml(b'a = 1\n[[step]]\nverb = "x"\n[[step]]\n# c\nverb = "y"\n[limits]\nn.m = 1\n', "f")
    assert [line_of(key) for key in ("a", "step[0].verb", "step[1].verb", "limits.n.m", "step[1].gone", "gone")] == [
        1, 3, 6, 8, 4, 0,
    ]  # fmt: skip
