"""Show a tracked bag, or a running node, in the Rerun viewer."""

from __future__ import annotations

import argparse
from pathlib import Path

from l2m_ros.commands import replay
from l2m_ros.commands.options import add_force
from l2m_ros.files import whole_file
from l2m_ros.output_paths import check_outputs, refuse_existing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bag", type=Path, nargs="?", help="a bag to track; without it, the running node is shown"
    )
    parser.add_argument("--save", type=Path, metavar="FILE.rrd", help="write instead of show")
    add_force(parser)
    replay.add_tracking_arguments(parser)


def run(args: argparse.Namespace) -> int | None:
    if args.save is None:
        return _show(args, None)
    check_outputs([args.save], [args.bag, args.params_file])
    refuse_existing(args.save, force=args.force)
    with whole_file(args.save) as partial:
        return _show(args, partial)


def _show(args: argparse.Namespace, save: Path | None) -> int | None:
    from l2m_ros.bags.rerun_view import Viewer

    if args.bag is None:
        from l2m_ros.node.live_view import show_node

        viewer = Viewer("l2m_ros", save)
        code = show_node(viewer)
        viewer.close()
        return code
    # No window before the bag has given a frame.
    shown = None if save is None else Viewer(args.bag.name, save)
    for frame in replay.tracked_frames(args):
        shown = shown or Viewer(args.bag.name, save)
        shown.show(frame)
    if shown is not None:
        shown.close()
    return None
