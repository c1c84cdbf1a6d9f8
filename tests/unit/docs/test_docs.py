"""What the documents say is there: commands, options, make targets, files, links, words of the code."""

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from graced.cli.checks import all_options, check_all
from graced.cli.main import gracectl
from graced.heal.profile import VALIDATE_COMMAND, parse_profile

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "NEWS.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
MAKE_VARIABLES = {"K", "KEEP", "SIT", "JOBS"}
# Programs that the documents may use and that are not ours.
PROGRAMS = {
    *("apt", "cp", "curl", "echo", "editor", "git", "install", "journalctl", "mv", "systemctl"),
    "/usr/bin/python3",
}
TOP = ("graced/", "units/", "packaging/", "tests/", "chaos/", "docs/", ".ci/", ".github/", "adr/")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, language):
    return [text for kind, text in FENCE.findall(page.read_text()) if kind == language]


def prose(page):
    return FENCE.sub("", page.read_text())


def words(line):
    """The words of a command line without comment and sudo; what follows a shell operator is left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found = []
    for word in lexer:
        if word in {">>", ">", "|", "&&", ";"}:
            break
        found.append(word)
    return found[1:] if found[:1] == ["sudo"] else found


def commands(page):
    """Every command of a page: the lines of its sh blocks, and spans in the text that begin like one."""
    lines = [line.strip() for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [span for span in SPAN.findall(prose(page)) if re.match(r"(sudo )?(make|gracectl) [a-zA-Z]", span)]
    return [line for line in lines if line and not line.startswith("#")]


def check_make(arguments):
    targets = set(re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        known = MAKE_VARIABLES if equals else targets
        assert name in known, f"make does not know {argument}"


def check_gracectl(arguments):
    """Parses as the command line does, and runs nothing."""
    command, context = gracectl, click.Context(gracectl, info_name="gracectl")
    rest = list(arguments)
    while isinstance(command, click.Group):
        inner = command.get_command(context, rest.pop(0)) if rest else None
        assert inner is not None, f"gracectl has no {' '.join(arguments)}"
        command, context = inner, click.Context(inner, parent=context)
    command.make_context(command.name, [word.replace("NAME", "nginx") for word in rest])


def check_command(line):
    found = words(line)
    program, arguments = found[0], found[1:]
    if program == "make":
        check_make(arguments)
    elif program == "gracectl":
        check_gracectl(arguments)
    else:
        assert program in PROGRAMS, f"{program} is not a program the documents may use"
    for word in arguments:
        if word.startswith(TOP):
            assert (ROOT / word).exists(), f"there is no {word}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_of_a_page_exists(page):
    for line in commands(page):
        try:
            check_command(line)
        except click.MissingParameter as error:
            # In running text a command may be named without its arguments.
            assert line in SPAN.findall(prose(page)), f"{line}: {error}"
        except (click.ClickException, ValueError) as error:
            pytest.fail(f"{line}: {error}")


def test_pages_with_commands_are_seen():
    """The extraction itself: an empty list would let everything pass."""
    assert "gracectl adopt nginx" in " ".join(commands(ROOT / "README.md"))
    assert len(commands(DOCS / "HACKING.md")) >= 10
    assert len(commands(DOCS / "SPECIFICATION-MAP.md")) > 100


@pytest.mark.parametrize(
    "line",
    [
        "make bogus",
        "sudo make run DEEP=1",
        "gracectl dance",
        "gracectl adopt",
        "gracectl status --verbosely",
        "rm -rf /",
    ],
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises((AssertionError, click.ClickException)):
        check_command(line)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_paths_lead_somewhere(page):
    text = prose(page)
    for target in LINK.findall(text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for span in SPAN.findall(text):
        if span.startswith(TOP) and "<" not in span:
            assert list(ROOT.glob(span.rstrip("/"))), f"{page.name}: {span}"


def test_the_map_has_every_column_in_every_row():
    lines = (DOCS / "SPECIFICATION-MAP.md").read_text().splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if re.match(r"\| \d", line)]
    assert len(rows) > 200
    numbers = [int(row[0]) for row in rows]
    assert numbers == sorted(set(numbers))
    state = re.compile(r"here|coming: |differs|form$|.*; |.* (here|coming)|as marked|a first release")
    for row in rows:
        assert len(row) == 5, row
        assert all(cell.strip() for cell in row), row
        assert state.match(row[4].strip()), row
        where, see = row[2].strip(), row[3].strip()
        if row[4].strip() != "form":
            assert SPAN.search(where), row
            assert SPAN.search(see), row
        for span in SPAN.findall(row[2]):
            if "/" in span or span.endswith(".md"):
                assert span.startswith("build/") or (ROOT / span).exists(), f"{row[0]}: there is no {span}"


def example():
    (text,) = blocks(DOCS / "PROFILES.md", "toml")
    return text


def test_the_example_profile_is_one():
    profile = parse_profile("lighttpd", tomllib.loads(example()))
    assert profile.unit == "lighttpd.service"
    assert profile.validate.method == VALIDATE_COMMAND
    assert (len(profile.probes), len(profile.playbooks)) == (1, 4)


def test_config_check_accepts_the_example_profile(tmp_path, monkeypatch):
    from graced.base.paths import Paths

    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/lighttpd.toml").write_text(example())
    monkeypatch.setenv("GRACED_ETC", str(tmp_path))
    monkeypatch.setenv("GRACED_SHARE", str(ROOT / "graced/share"))
    monkeypatch.delenv("INVOCATION_ID", raising=False)
    problems, files = check_all(Paths(), all_options())
    assert problems == []
    shipped = len(list((ROOT / "graced/share").glob("*/*.toml")))
    assert files == shipped + 2

    (tmp_path / "profiles/lighttpd.toml").write_text(example().replace("restore-config", "no-such"))
    assert len(check_all(Paths(), all_options())[0]) == 1


REFUSALS = (
    r'Refused\(\s*"([a-z-]+)"',
    r'Stopped\([^\n]*code="([a-z-]+)"',
    r'ConfigError\([^\n]*code="([a-z-]+)"',
)


def test_every_refusal_of_the_actuator_is_explained():
    table = (DOCS / "SECURITY.md").read_text().split("## The actuator's refusals")[1].split("Not refused but")[0]
    explained = set(re.findall(r"`([a-z-]+)`", table)) - {"gracectl explain"}
    source = "\n".join(path.read_text() for path in (ROOT / "graced/actuator").glob("*.py"))
    said = {word for pattern in REFUSALS for word in re.findall(pattern, source)}
    said |= {f"unsafe-{word}" for word in re.findall(r'_unsafe\(\s*"([a-z-]+)"', source)}
    # What other rooms raise on the actuator's behalf: a wrong file, the roster, a signature that is no base64.
    said |= {"config", "roster", "trust"}
    assert len(said) > 30
    assert explained == said


def test_holds_are_explained():
    text = (DOCS / "SECURITY.md").read_text().split("Not refused but")[1].split("## Keys")[0]
    source = "\n".join(path.read_text() for path in (ROOT / "graced/actuator").glob("*.py"))
    said = set(re.findall(r'Held\(\s*"([a-z-]+)"', source))
    assert said == set(re.findall(r"`([a-z-]+)`", text)) - {"Held"}


def test_the_audit_words_are_words_of_the_code():
    text = (DOCS / "SECURITY.md").read_text().split("Read what it says.")[1].split("4. Check")[0]
    source = (ROOT / "graced/trust/audit.py").read_text() + (ROOT / "graced/cli/auditing.py").read_text()
    found = re.findall(r"`([a-z-]+)`", text)
    assert len(found) > 8
    for word in found:
        assert f'"{word}"' in source, word


def test_decisions_are_numbered_short_and_whole():
    pages = sorted((DOCS / "adr").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text()
        assert text.count("\n") <= 60, page.name
        assert text.startswith(f"# {int(page.name[:4])}. "), page.name
        for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
            assert part in text, f"{page.name}: {part}"


def test_style_is_short():
    assert (DOCS / "CODING_STYLE.md").read_text().count("\n") <= 60


def test_news_tells_of_this_version():
    version = re.search(r"^version = (\S+)$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)[1]
    assert re.search(r"^## (\S+)$", (ROOT / "NEWS.md").read_text(), re.MULTILINE)[1] == version
    assert f"graced_{version}_all.deb" in (ROOT / "README.md").read_text()


def test_the_first_lines_of_the_readme_are_the_two_commands():
    assert [words(line) for line in commands(ROOT / "README.md")[:2]] == [["make", "run"], ["make", "test"]]


MAN = re.compile(r"^\.It Cm ([a-z]+(?: [a-z]+(?:\\-[a-z]+)*)*)(.*)$", re.MULTILINE)


OPTION = re.compile(r"Fl ((?:\\-[a-z]+)+|[a-zA-Z]\b)")


def test_the_manual_has_every_verb_and_option():
    """gracectl(1) against the commands as they are, both ways."""
    text = (DOCS / "man/gracectl.1").read_text()
    written = {}
    for verb, rest in MAN.findall(text):
        written[verb.replace("\\", "")] = {option.replace("\\", "") for option in OPTION.findall(rest)}
    real = {}
    context = click.Context(gracectl)
    for name in gracectl.list_commands(context):
        command = gracectl.get_command(context, name)
        subs = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        for sub, leaf in subs:
            options = [opt for one in leaf.params if isinstance(one, click.Option) for opt in one.opts]
            options = {option.removeprefix("-") for option in options}
            real[f"{name} {sub}".strip()] = options - {"-verbose"}
    assert written == real
