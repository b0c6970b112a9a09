"""The `l2m` command: one table of verbs, one place that turns refusals into one line.

A verb lives in `l2m_ros/commands/<verb>.py` (dashes become underscores) as two functions:

    add_arguments(parser)      what it takes
    run(args) -> int | None    fill an options dataclass, call one library function

It is imported only when its verb is called, so `l2m --help` needs numpy at most.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from typing import NoReturn

from l2m_ros import __version__
from l2m_ros.errors import L2MError
from l2m_ros.spelling import nearest
from l2m_ros.threads import one_thread_for_matrices

VERBS: dict[str, str] = {
    "run": "start the ROS 2 node (what ros2 run l2m_ros matcher does)",
    "simulate": "render a drive through a simulated world: a ROS 2 bag or an evaluation scene",
    "match": "match two pictures: matches, pose, pictures to look at",
    "bench": "measure latency, throughput and memory of a matcher by stage",
    "export": "write a model as ONNX graphs and check them for TensorRT",
    "engine": "build TensorRT engines ahead of time, list cached ones",
    "evaluate": "measure matchers on scenes with ground truth",
    "view-pair": "draw the matches between two images",
    "train": "train a matcher from photographs; heads that read metres; encoders",
    "splat": "build scenes of Gaussians from posed images, check them, make pairs",
    "scene": "import public data sets as evaluation scenes or bags",
    "lift": "make training pairs with exact correspondences from single photographs",
    "teach": "store a strong matcher's matches on real photographs, to train on",
    "features": "draw what encoders see, side by side, and measure it",
    "replay": "track a recorded bag without a ROS graph, compare with the truth",
    "calibrate": "fit a camera's noise on a recording with truth, write it as a preset",
    "view": "show a tracked bag or the running node in the Rerun viewer",
    "map": "build, check, merge, thin, export and view keyframe maps",
    "localize": "find each image of a bag or folder in a map",
    "parity": "compare a network with the reference implementation's numbers",
    "weights": "list, fetch and convert published weights",
    "demo": "simulate, track, compare with the truth and write demo/report.html",
}


class _Parser(argparse.ArgumentParser):
    """argparse whose refusals are one line that names the nearest right spelling."""

    def error(self, message: str) -> NoReturn:
        if message.endswith("expected one argument"):  # argparse takes -1,2 for an option
            option = message.split(":")[0].removeprefix("argument ").split("/")[-1]
            message += f"; one that begins with '-' is written {option}=-..."
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Where an option's choice may be left out, a word that is no choice is not taken for it.

        `l2m match --second-look A.jpg B.jpg`: argparse alone would refuse A.jpg as a choice.
        """
        words = argv.copy()
        for action in self._actions:
            if action.nargs == "?" and action.option_strings and action.choices:
                for place, word in enumerate(argv):
                    value = argv[place + 1 : place + 2]
                    if word in action.option_strings and not {*value} & {*action.choices}:
                        words[place] = f"{word}={action.const}"
        return self.parse_args(words)


def _top_parser() -> _Parser:
    width = max(map(len, VERBS))
    listing = "\n".join(f"  {verb:<{width}}  {line}" for verb, line in VERBS.items())
    parser = _Parser(
        prog="l2m",
        usage="l2m VERB [options]   (l2m VERB --help explains one)",
        description="Match images densely, estimate metric poses, keep maps; train and measure.",
        epilog=f"verbs:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"l2m {__version__}")
    parser.add_argument("verb", metavar="VERB", help=argparse.SUPPRESS)
    return parser


def _unknown_verb(verb: str) -> str:
    return f"unknown verb {verb!r}{nearest(verb, VERBS)}"


def main(argv: list[str] | None = None) -> int:
    """Entry point. 0 = done, 1 = done but the answer is no, 2 = cannot be done as asked."""
    one_thread_for_matrices()
    argv = sys.argv[1:] if argv is None else argv
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need be no UTF-8
        sys.stdout.reconfigure(errors="surrogateescape")
    top = _top_parser()
    if not argv:
        top.print_help()
        return 2
    verb = top.parse_args(argv[:1]).verb
    if verb not in VERBS:
        top.error(_unknown_verb(verb))
    if "" in argv:  # as a path it would mean the folder one happens to be in
        top.error(f"argument {1 + argv.index('')} is empty: is a variable of the shell not set?")
    module = importlib.import_module(f"l2m_ros.commands.{verb.replace('-', '_')}")
    parser = _Parser(
        prog=f"l2m {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    try:
        module.add_arguments(parser)
        args = parser.parse(argv[1:])
        code = int(module.run(args) or 0)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads it has enough (| head); Python flushes once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        words = refusal(error)
        if words is None:
            raise
        print(f"l2m {verb}: {words}", file=sys.stderr)
        return 2


def refusal(error: BaseException) -> str | None:
    """What the user is told, in one line; None of a defect, whose traceback is wanted."""
    if isinstance(error, (L2MError, OSError)):
        return _one_line(error)
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, ImportError):  # of versions that do not suit one another
        return f"a library cannot be loaded: {_one_line(error)}"
    if isinstance(error, MemoryError):
        return "there is not enough memory for this"
    return None


def _one_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


# The extra of this package that brings each optional import.
EXTRAS = {
    "torch": "torch",
    "onnx": "train",
    "onnxruntime": "onnx",
    "safetensors": "torch",
    "rclpy": "ros",
    "matplotlib": "view",
    "rerun": "view",
    "embreex": "view",
    "rosbags": "view",
    "yaml": "onnx",
    "faiss": "map",
    "gtsam": "map",
    "psycopg": "map",
    "onnxscript": "train",
    "tensorboard": "train",
    "numba": "fast",
}


def _missing(error: ModuleNotFoundError) -> str | None:
    name = (error.name or "").split(".")[0]
    extra = EXTRAS.get(name)
    return None if extra is None else f"this needs {name}: pip install 'l2m_ros[{extra}]'"


if __name__ == "__main__":
    sys.exit(main())
