"""Published weights: list what there is, fetch it, or convert files that you have.

  l2m weights list                     names, licences, sources, what is here already
  l2m weights get l2m                  download, check, make one safetensors file of it
  l2m weights convert a.pth vit.pth --architecture l2m --out l2m.safetensors

Downloads go on where they broke off. Nothing is unpickled: torch files are read by
torch.load(weights_only=True).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from l2m_ros.commands.options import add_force
from l2m_ros.matching import weights as store
from l2m_ros.output_paths import check_file, refuse_existing, refuse_overwriting
from l2m_ros.progress import progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="list|get|convert")
    listing = actions.add_parser("list", help="what can be fetched")
    listing.add_argument("--json", action="store_true", help="one JSON object")
    get = actions.add_parser("get", help="download and convert")
    get.add_argument("name", metavar="NAME", help=", ".join(store.WEIGHTS))
    get.add_argument(
        "--dir",
        type=Path,
        help="where files are downloaded to, or are already (default: the cache)",
    )
    get.add_argument("--keep", action="store_true", help="keep the files that were downloaded")
    get.add_argument(
        "--sha256", action="append", default=[], metavar="FILE=HEX", help="hold a file to this"
    )
    convert = actions.add_parser("convert", help="checkpoints to one safetensors file")
    convert.add_argument("files", nargs="+", type=Path, metavar="FILE", help="parts of one model")
    convert.add_argument("--architecture", default="l2m", help="default: l2m")
    convert.add_argument("--out", type=Path, help="default: the first file with .safetensors")
    add_force(convert)


def run(args: argparse.Namespace) -> int:
    actions: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": _list, "get": _get, "convert": _convert,
    }  # fmt: skip
    return actions[args.action](args)


def _list(args: argparse.Namespace) -> int:
    rows = {
        name: {
            "about": entry.about,
            "licence": entry.licence,
            "by": entry.by,
            "urls": [source.url for source in entry.sources],
            "file": str(store.converted_file(name)),
            "here": store.converted_file(name).is_file(),
        }
        for name, entry in store.WEIGHTS.items()
    }
    if args.json:
        print(json.dumps(rows, indent=1))
        return 0
    for name, row in rows.items():
        print(f"{name:<14} {'here' if row['here'] else 'not fetched':<12} {row['about']}")
        print(f"{'':<14} licence: {row['licence']}")
        print(f"{'':<14} by {row['by']}")
        for url in row["urls"]:
            print(f"{'':<14} {url}")
    return 0


def _get(args: argparse.Namespace) -> int:
    from l2m_ros.networks.checkpoint import convert

    entry = store.published(args.name)
    print(f"{args.name}: {entry.about}\nby {entry.by}\nlicence: {entry.licence}")
    wanted = store.stated_checksums(args.sha256, entry)
    folder = args.dir or store.download_folder()
    own = set(folder.glob("*")) if args.dir else set()  # the user's: what was in --dir before
    files = [_fetched(source, folder, wanted, own) for source in entry.sources]
    out = store.converted_file(args.name)
    parameters = convert(files, out, entry.architecture)
    if not args.keep:
        for file in set(files) - own:
            file.unlink()
    print(f"{out}: {parameters:,} numbers, checked against {entry.architecture}")
    return 0


def _fetched(source: store.Source, folder: Path, wanted: dict[str, str], own: set[Path]) -> Path:
    if source.member and (folder / source.member).is_file():
        print(f"{folder / source.member} is here already")
        return folder / source.member
    archive = _downloaded(source, folder, wanted)
    if source.member is None:
        return archive
    member = store.unpacked(archive, source.member)
    if archive not in own:
        archive.unlink()
    return member


def _downloaded(source: store.Source, folder: Path, wanted: dict[str, str]) -> Path:
    to = folder / source.file
    expected = wanted.get(source.file, source.sha256) or store.remembered(source.url)
    if to.is_file() and store.is_intact(to, expected):
        print(f"{to} is here already")
        return to
    bars: list[progress] = []

    def start(total: int | None) -> store.Advance:
        bars.append(progress(None if total is None else total / 1e6, f"{source.file} (MB)"))
        return lambda amount: bars[0].update(amount / 1e6)

    try:
        digest = store.download(source.url, to, sha256=expected, advance=start)
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)
    store.remember(source.url, digest)
    first = "  (the authors publish none: recorded, the next fetch is held to it)"
    print(f"{to}  sha256 {digest}" + ("" if expected else first))
    return to


def _convert(args: argparse.Namespace) -> int:
    from l2m_ros.networks.checkpoint import convert

    out = args.out or args.files[0].with_suffix(".safetensors")
    refuse_overwriting([out], args.files)
    check_file(out)
    refuse_existing(out, force=args.force)
    parameters = convert(args.files, out, args.architecture)
    print(f"{out}: {parameters:,} numbers, checked against {args.architecture}")
    return 0
