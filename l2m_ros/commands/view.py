"""Show a tracked bag, or a running node, in the Rerun viewer."""

from __future__ import annotations

import argparse
from pathlib import Path

from l2m_ros.commands import replay
from l2m_ros.errors import InvalidInput
from l2m_ros.files import check_outputs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bag", type=Path, nargs="?", help="a bag to track; without it, the running node is shown"
    )
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="write instead of show")
    replay.add_tracking_arguments(parser)


def run(args: argparse.Namespace) -> int | None:
    from l2m_ros.bags.rerun_view import Viewer

    if args.save is not None and args.save.exists():
        raise InvalidInput(f"{args.save} exists; name another one")
    if args.save is not None:
        check_outputs([args.save], [args.bag, args.params_file])
    if args.bag is None:
        from l2m_ros.node.live_view import show_node

        return show_node(Viewer("l2m_ros", args.save))
    viewer = None  # no window before the bag has given a frame
    for frame in replay.tracked_frames(args):
        viewer = viewer or Viewer(args.bag.name, args.save)
        viewer.show(frame)
    return None
