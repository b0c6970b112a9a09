"""docs/parameters.md and config/matcher.yaml, both written from the table of parameters.

python -m l2m_ros.parameters.docs     writes them anew in a checkout (a test compares)
"""

from __future__ import annotations

import textwrap
from pathlib import Path

from l2m_ros.parameters.table import PARAMETERS, Parameter, Value

CHANGES = {"start": "read-only", "configure": "at configure", "frame": "dynamic"}
NOT_BARE = ("", "off", "on", "yes", "no")  # YAML reads these as nothing, or as booleans
WIDTH = 100  # of a line of YAML

_HEAD = """# Parameters

Written from the table in `l2m_ros/parameters/table.py` by `python -m l2m_ros.parameters.docs`.

*read-only*: given at start. *at configure*: taken up by the configure transition, refused while the
node is configured (`ros2 lifecycle set /l2m cleanup` first). *dynamic*: taken up by the next frame.
A name that is not in this table is reported in the log and in /diagnostics, with the nearest
right spelling.
"""

_QOS = """## Quality of service

Subscriptions take the reliability that the publisher offers. To fix it:
`qos_overrides.<topic>.subscription.reliability` (`auto`, `reliable`, `best_effort`),
`.durability` (`auto`, `volatile`, `transient_local`) and `.depth` (0 = auto), where `<topic>` is
the full name, for example `qos_overrides./camera/image_raw.subscription.reliability`. Publishers
take the usual `qos_overrides.<topic>.publisher.reliability`, `.history` and `.depth`. All of them
are read-only.
"""

_YAML_HEAD = """\
# Every parameter of the node with its default. Copy it, change what you need, and give it with
# `params_file:=my.yaml` (ros2 launch) or `--ros-args --params-file my.yaml` (ros2 run, l2m run).
# Where this file and docs/parameters.md name bounds, values outside them are refused in words.
"""


def markdown() -> str:
    """docs/parameters.md."""
    rows = ["| parameter | default | bounds | changes | meaning |", "|---|---|---|---|---|"]
    for p in PARAMETERS.values():
        bounds = ", ".join(p.choices) if p.low is None else f"{p.low:g} to {p.high:g}"
        change = CHANGES[p.when]
        rows.append(
            f"| `{p.name}` | `{_yaml(p.default)}` | {bounds} | {change} | {p.description} |"
        )
    return "\n".join([_HEAD, *rows, "", _QOS])


def matcher_yaml() -> str:
    """config/matcher.yaml: groups as YAML nests them, each value explained."""
    lines = ["/**:", "  ros__parameters:"]
    groups: dict[str, list[Parameter]] = {}
    for p in PARAMETERS.values():
        groups.setdefault(p.name.rpartition(".")[0], []).append(p)
    for group, members in groups.items():
        lines += [f"    {group}:"] if group else []
        for p in members:
            lines += _entry(p, " " * (6 if group else 4))
    return _YAML_HEAD + "\n".join(lines) + "\n"


def _entry(p: Parameter, indent: str) -> list[str]:
    line = f"{indent}{p.name.rpartition('.')[2]}: {_yaml(p.default)}"
    words = p.description + (f" [{', '.join(p.choices)}]" if p.choices else "")
    if len(line) + 4 + len(words) <= WIDTH:
        return [f"{line}  # {words}"]
    return [*(f"{indent}# {part}" for part in textwrap.wrap(words, WIDTH - len(indent) - 2)), line]


def _yaml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if value not in NOT_BARE else f'"{value}"'
    return str(value)


def main() -> None:
    root = Path(__file__).resolve().parents[2]
    (root / "docs" / "parameters.md").write_text(markdown())
    (root / "config" / "matcher.yaml").write_text(matcher_yaml())


if __name__ == "__main__":
    main()
