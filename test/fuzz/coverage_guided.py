"""Inputs guided by coverage (atheris): what reaches new lines of l2m_ros is kept and changed again.

    python test/fuzz/coverage_guided.py picture 20000 262144     target, inputs, bytes of each

Ends with 0, or with the input that brought something else than an L2MError, in a file `crash-*`.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
WORDS = ("NaN", "Infinity", "-1", "0", "1e999", "1e308", "null", "true", "{}", "[]", '\\"a\\"',
         "../", "/", "cameras", "K", "element vertex ", "property float ", "9" * 30)  # fmt: skip
LONGEST_S = 30  # of one input; the machine may be busy


def main() -> None:
    name, runs, most_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with atheris.instrument_imports(include=["l2m_ros"]):
        module = importlib.import_module("fuzz.guided_targets")
    from l2m_ros.errors import L2MError

    target = module.targets()[name]

    def once(content: bytes) -> None:
        try:
            target.parse(content)
        except (L2MError, OSError) as error:  # OSError: a file that the input names is missing
            assert len(str(error)) < 2000

    corpus = Path(tempfile.mkdtemp(prefix=f"l2m_fuzz_{name}"))
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed{number}").write_bytes(seed)
    words = corpus.with_suffix(".words")
    words.write_text("".join(f'"{word}"\n' for word in WORDS))
    options = [f"-dict={words}", f"-runs={runs}", f"-max_len={most_bytes}", f"-timeout={LONGEST_S}"]
    options += ["-rss_limit_mb=4096", f"-artifact_prefix={os.getcwd()}/", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
