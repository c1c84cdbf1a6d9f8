"""Completion of gracectl for bash and zsh, made from click's own tree of commands.

The results are static files (packaging/completions/gracectl and packaging/zsh/_gracectl): pressing TAB starts no
Python. `python3 -m graced.cli.completion` prints the first, with `zsh` the second; tests hold the shipped files to it.
"""

from __future__ import annotations

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# What an argument of this name means; all others complete nothing.
_WORDS = {
    "unit": "$(_gracectl_units)",
    "signer": "governance ledger verification",
    "key": "governance ledger verification",
}
_OF_ADOPTED = {"release", "reset"}
_HELP = click.Option(["--help"], is_flag=True, help="Show this message and exit.")

_HEAD = """\
# bash completion for gracectl(1). Made by `python3 -m graced.cli.completion`; do not edit.

_gracectl_units() {
    systemctl list-units --type=service --all --plain --no-legend --no-pager 2>/dev/null |
        while read -r unit _; do printf '%s\\n' "$unit"; done
}

_gracectl_adopted() {
    sed -n 's/^unit = "\\(.*\\)"$/\\1/p' /etc/graced/watch.d/*.toml 2>/dev/null
}

_gracectl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} word command='' words=''
    local -i i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word == -* ]] && continue
        case "$command $word" in
"""
_MIDDLE = """\
        esac
    done
    case "$command $prev" in
"""
_THEN = """\
    esac
    case "$command" in
"""
_TAIL = """\
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _gracectl gracectl
"""


def commands(group: click.Group, context: click.Context, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command below `group` with its full name (``config check``), depth first."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{prefix}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, context, f"{prefix}{name} ")


def options_of(command: click.Command) -> list[click.Option]:
    """All options of a command, --help last.

    click's own --help has the names of whichever context asked first, in versions that keep it.
    """
    return [*(parameter for parameter in command.params if isinstance(parameter, click.Option)), _HELP]


def _flags(command: click.Command) -> list[str]:
    return [flag for option in options_of(command) for flag in option.opts]


def _arguments(name: str, command: click.Command) -> str:
    if name in _OF_ADOPTED:
        return "$(_gracectl_adopted)"
    words = [_WORDS[item.name] for item in command.params if isinstance(item, click.Argument) and item.name in _WORDS]
    return " ".join(words)


def bash(group: click.Group) -> str:
    """The whole completion file."""
    context = click.Context(group, info_name="gracectl")
    every = [("", group), *commands(group, context)]
    known = "".join(
        f'            "{name.rpartition(" ")[0]} {name.rpartition(" ")[2]}") command="{name}" ;;\n'
        for name, _ in every
        if name
    )
    values = ""
    plain = ""
    for name, command in every:
        for option in options_of(command):
            if option.is_flag or option.name == "help":
                continue
            for flag in option.opts:
                if isinstance(option.type, click.Choice):
                    values += f'        "{name} {flag}") words="{" ".join(option.type.choices)}" ;;\n'
                else:
                    values += f'        "{name} {flag}") return ;;\n'
        below = command.list_commands(context) if isinstance(command, click.Group) else []
        words = " ".join([*below, *_flags(command), _arguments(name, command)]).strip()
        plain += f'        "{name}") words=${{words:-"{words}"}} ;;\n'
    return _HEAD + known + _MIDDLE + values + _THEN + plain + _TAIL


_ZSH_HEAD = r"""#compdef gracectl
# zsh completion for gracectl(1). Made by `python3 -m graced.cli.completion zsh`; do not edit.

_gracectl_units() {
    local -a units
    units=(${${(f)"$(systemctl list-units --type=service --all --plain --no-legend --no-pager 2>/dev/null)"}%% *})
    _wanted units expl unit compadd -a units
}

_gracectl_adopted() {
    local -a units
    units=(${(f)"$(sed -n 's/^unit = "\(.*\)"$/\1/p' /etc/graced/watch.d/*.toml(N) /dev/null)"})
    _wanted units expl unit compadd -a units
}

"""
_ZSH_UNITS = dict.fromkeys(_OF_ADOPTED, "_gracectl_adopted")


def _zsh_text(text: str) -> str:
    """The first sentence of a help text as it stands in a quoted specification."""
    first = " ".join(text.split()).partition(". ")[0].rstrip(".")
    for char in "\\[]:":
        first = first.replace(char, f"\\{char}")
    return first.replace("'", "'\\''")


def _zsh_option(option: click.Option, flag: str) -> str:
    repeat = "*" if option.multiple else ""
    text = _zsh_text(option.help or "Show this message and exit.")
    if option.is_flag or option.name == "help":
        return f"'{repeat}{flag}[{text}]'"
    value = f"({' '.join(option.type.choices)})" if isinstance(option.type, click.Choice) else ""
    if isinstance(option.type, (click.File, click.Path)):
        value = "_files"
    return f"'{repeat}{flag}{'=' if flag.startswith('--') else ''}[{text}]:{option.name}:{value}'"


def _zsh_function(name: str, command: click.Command, context: click.Context) -> str:
    function = "_".join(["_gracectl", *(f"verb_{word}" for word in name.split())])
    specs = [_zsh_option(option, flag) for option in options_of(command) for flag in option.opts]
    if not isinstance(command, click.Group):
        units = any(isinstance(item, click.Argument) and item.name == "unit" for item in command.params)
        specs += [f"'1:unit:{_ZSH_UNITS.get(name, '_gracectl_units')}'"] if units else []
        lines = " \\\n        ".join(["_arguments -s", *specs])
        return f"{function}() {{\n    {lines}\n}}\n"
    below = [(verb, command.get_command(context, verb)) for verb in command.list_commands(context)]
    verbs = "\n        ".join(f"'{verb}:{_zsh_text((one and one.help) or '')}'" for verb, one in below)
    lines = " \\\n        ".join(["_arguments -C", *specs, "'1:command:->command'", "'*::argument:->argument'"])
    return (
        f"{function}() {{\n    local context state state_descr line\n    typeset -A opt_args\n"
        f"    local -a verbs\n    verbs=(\n        {verbs}\n    )\n    {lines}\n"
        f"    case $state in\n        command) _describe command verbs ;;\n"
        f"        argument) (( $+functions[{function}_verb_$words[1]] )) && {function}_verb_$words[1] ;;\n"
        "    esac\n}\n"
    )


def zsh(group: click.Group) -> str:
    """The whole completion file: a function for each command, called by the one above it."""
    context = click.Context(group, info_name="gracectl")
    every = [*commands(group, context), ("", group)]
    return _ZSH_HEAD + "\n".join(_zsh_function(name, one, context) for name, one in every) + '\n_gracectl "$@"\n'


if __name__ == "__main__":
    import sys

    from graced.cli.main import gracectl

    click.echo((zsh if sys.argv[1:] == ["zsh"] else bash)(gracectl), nl=False)
