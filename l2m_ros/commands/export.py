"""Write a model as ONNX graphs with a card, ready for ONNX Runtime and TensorRT.

--size is HEIGHTxWIDTH here, as in the published matchers' tools (560x560). The graphs are
checked against the operators that TensorRT takes, and compared with torch unless --no-verify.
With --check, MODEL (a folder that this verb wrote) is checked again and nothing is written.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from l2m_ros.commands.options import add_force, as_json, show_log, size_of
from l2m_ros.errors import InvalidInput
from l2m_ros.output_paths import check_folder, check_outputs, refuse_existing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a model's name, or its folder")
    parser.add_argument(
        "--size",
        type=size_of("HxW"),
        metavar="HxW",
        help="of the network's input (default: the card's)",
    )
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: MODEL-HxW-PRECISION")
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="card to update in place of DIR's"
    )
    parser.add_argument(
        "--shape-of",
        type=Path,
        metavar="FILE",
        help="card to add the graphs to, for images of that shape; they read the weights that "
        "its own graphs hold",
    )
    parser.add_argument("--weights", metavar="FILE", help="a checkpoint instead of the card's")
    parser.add_argument("--opset", type=int, default=18, help="of ONNX, 17 to 20 (default 18)")
    parser.add_argument(
        "--ops",
        type=Path,
        metavar="FILE",
        help="another table of the operators that TensorRT takes",
    )
    parser.add_argument("--check", action="store_true", help="check the graphs of MODEL only")
    parser.add_argument("--no-verify", action="store_true", help="do not compare with torch")
    add_force(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of words")


def run(args: argparse.Namespace) -> int:
    show_log()
    report = _checked(args) if args.check else _exported(args)
    print(as_json(report) if args.json else _words(report))
    return 1 if report["problems"] else 0


def _checked(args: argparse.Namespace) -> dict[str, Any]:
    from l2m_ros.engines.model_card import GRAPH_ROLES
    from l2m_ros.export.onnx_graph import load
    from l2m_ros.export.parser_check import load_table, problems_of
    from l2m_ros.matching.catalogue import find_card

    card, table = find_card(args.model), load_table(args.ops)
    models = {role: load(card.file(role)) for role in GRAPH_ROLES if role in card.files}
    problems = [f"{role}: {p}" for role, m in models.items() for p in problems_of(m, table)]
    return _report(card, {role: len(m.graph.node) for role, m in models.items()}, problems)


def _exported(args: argparse.Namespace) -> dict[str, Any]:
    from l2m_ros.engines.backend import BackendOptions, is_depth_head, load_backend
    from l2m_ros.engines.model_card import load_card
    from l2m_ros.engines.torch import load_network
    from l2m_ros.export.agreement import agreement, head_agreement
    from l2m_ros.export.parser_check import load_table
    from l2m_ros.export.shapes import add_shape
    from l2m_ros.export.stages import ExportOptions, export_model, write_shipped_card
    from l2m_ros.matching.catalogue import find_card

    card = find_card(args.model)
    width, height = args.size or card.input.size
    if args.shape_of is not None:
        if args.out is not None or args.card is not None:
            words = "--shape-of writes beside the card that it names: no --out, no --card"
            raise InvalidInput(words)
        load_card(args.shape_of)  # said now, not after a minute
    out = args.out or Path(f"{card.name}-{height}x{width}-{args.precision}")
    if args.shape_of is None:
        check_folder(out)
        refuse_existing(out, force=args.force)
    check_outputs([args.card], [args.ops])
    network, card = load_network(card, BackendOptions(weights=args.weights, untrained=True))

    def exported(out: Path) -> Any:
        options = ExportOptions(out, height, width, args.precision, args.opset)
        return export_model(network, card, options, load_table(args.ops))

    if args.shape_of is not None:
        with TemporaryDirectory() as folder:
            written = add_shape(exported(Path(folder)), args.shape_of)
    else:
        written = exported(out)
        if args.card:
            written = write_shipped_card(written, args.card)
    report = _report(written, {}, [])
    if not args.no_verify and is_depth_head(written):
        backend = load_backend("onnxruntime", written, BackendOptions(device="cpu"))
        report["head_agreement"] = head_agreement(network, backend, written)
    elif not args.no_verify:
        backend = load_backend("onnxruntime", written, BackendOptions(device="cpu"))
        report["agreement"] = vars(agreement(network, backend, written))
    return report


def _report(card: Any, nodes: dict[str, int], problems: list[str]) -> dict[str, Any]:
    from l2m_ros.engines.model_card import GRAPH_ROLES

    files = {r: f for r, f in card.files.items() if r in GRAPH_ROLES}
    return {
        "model": card.name,
        "folder": str(card.folder),
        "width": card.input.width,
        "height": card.input.height,
        "precision": card.precision,
        "trained": card.trained,
        "files": {
            role: {
                "path": file.path,
                "sha256": file.sha256,
                "mib": round((card.folder / file.path).stat().st_size / 2**20, 2),
                **({"nodes": nodes[role]} if role in nodes else {}),
            }
            for role, file in files.items()
        },
        "problems": problems,
    }


def _words(report: dict[str, Any]) -> str:
    lines = [
        f"{report['model']}, height {report['height']}, width {report['width']}, "
        f"{report['precision']}{'' if report['trained'] else ', UNTRAINED weights'}"
    ]
    for file in report["files"].values():
        lines.append(f"  {report['folder']}/{file['path']}  {file['mib']} MiB")
    lines += [f"  not for TensorRT: {problem}" for problem in report["problems"]]
    if not report["problems"]:
        lines.append("  every operator, type and rank is one that TensorRT takes")
    if "head_agreement" in report:
        worst = ", ".join(f"{n} within {d:.2g}" for n, d in report["head_agreement"].items())
        lines.append(f"  ONNX Runtime against torch: {worst}")
    if "agreement" in report:
        a = report["agreement"]
        lines.append(
            f"  ONNX Runtime against torch: warp within {a['median_px']:.2g} px (median) and "
            f"{a['p99_px']:.2g} px (99 %) over {a['pixels']} pixels"
        )
    return "\n".join(lines)
